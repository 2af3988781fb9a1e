// Stands in for c10's header when csrc/ops/cuda runs on the host: the tests decide what is being captured.
#pragma once

#include <cstdlib>

namespace c10::cuda {

enum class CaptureStatus { None, Active };

inline CaptureStatus currentStreamCaptureStatusMayInitCtx() {
  return std::getenv("PDB_HOST_CAPTURES") ? CaptureStatus::Active : CaptureStatus::None;
}

}  // namespace c10::cuda
