// Which ops have run, and how: for pdb_ext.build_info()["last_call"] and pdb_ext.record_calls(). No torch.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace pdb {

// One call of an op that computed something. The names are string literals.
struct Call {
  const char* op;      // "convlstm_backward"
  const char* device;  // "cpu" or "cuda"
  const char* path;    // on CUDA "step", "persistent" or "aten"; on the CPU the instruction set
  const char* kernel;  // part of the CUDA kernels' names in a profiler's trace; on the CPU "winograd", "direct" or
                       // "direct by rows"
  int layers;          // computed together
  bool tensor_cores;
};

// Any thread may call these. Calls are kept while anyone is recording.
void record_call(const Call& call);
std::optional<Call> last_call();

// Starts recording; returns the number of the next call.
uint64_t start_recording();
// The calls from this number on.
std::vector<Call> recorded_calls(uint64_t first);
// Ends one start_recording(); the last of them drops all calls.
void stop_recording();

}  // namespace pdb
