// What the ops have computed, and how, for whoever asks: pdb_ext.build_info()["last_call"], pdb_ext.record_calls(). No torch.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace pdb {

// One call of an op that has computed something. Names are literals.
struct Call {
  const char* op;      // "convlstm_backward"
  const char* device;  // "cpu" or "cuda"
  const char* path;    // on CUDA "step", "persistent" or "aten"; on the CPU the instruction set
  const char* kernel;  // a part of the names of the CUDA kernels in a profiler's trace; on the CPU "winograd" or "direct"
  int layers;          // that it computed together
  bool tensor_cores;
};

// Any thread may call these. A call is kept while somebody records.
void record_call(const Call& call);
std::optional<Call> last_call();

// Begins to record; returns the number of the next call.
uint64_t start_recording();
// The calls from this number on.
std::vector<Call> recorded_calls(uint64_t first);
// Ends what one start_recording() began; the last of them drops all calls.
void stop_recording();

}  // namespace pdb
