// Packed weights (as a kernel reads them), kept from call to call within pdb_ext.cache_weights(), so that inference
// does not pack them in every call.
//
// A kept weight is reused only for the very same tensors with the same version, PyTorch's count of in-place changes,
// and on the same stream. PyTorch does not count changes made by fused optimizers (forget_weights() is called after
// their steps), through `.data`, by collectives (DDP, FSDP), by the replay of a CUDA graph, or by other libraries. That
// is why nothing is kept unless the user allows it, and only for calls of the user's own thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pdb {

// Start and stop keeping weights in calls of this thread. They nest; the last stop drops everything.
void start_caching_weights();
void stop_caching_weights();
bool caches_weights();
// Nothing kept so far, in any thread, will be reused.
void forget_weights();

// The form in which tensors were packed.
struct PackedForm {
  int64_t kind;        // chosen by the caller
  int64_t elements;    // of the result
  const void* stream;  // where it was packed

  bool operator==(const PackedForm& other) const {
    return kind == other.kind && elements == other.elements && stream == other.stream;
  }
};

// The kept result for these weights, or an undefined tensor if there is none.
at::Tensor find_packed(const std::vector<at::Tensor>& weights, const PackedForm& form);

// Keeps a result; it replaces an older one for the same tensors.
void keep_packed(const std::vector<at::Tensor>& weights, const PackedForm& form, const at::Tensor& packed);

}  // namespace pdb
