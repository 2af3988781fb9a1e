// Stands in for c10's header when csrc/cuda runs on the host: what is being captured is for the tests to say.
#pragma once

#include <cstdlib>

namespace c10::cuda {

enum class CaptureStatus { None, Active };

inline CaptureStatus currentStreamCaptureStatusMayInitCtx() {
  return std::getenv("PDB_HOST_CAPTURES") ? CaptureStatus::Active : CaptureStatus::None;
}

}  // namespace c10::cuda
