// Weights as a kernel reads them, kept from call to call while somebody asks for it (pdb_ext.cache_weights()): inference then
// does not pack them in every call.
//
// A kept weight is used again only for the very same tensors with the same version, PyTorch's count of in-place changes, on
// the same stream. PyTorch does not count what is written by fused optimizers, after whose steps forget_weights() is called,
// through `.data`, by collectives (DDP, FSDP), by the replay of a CUDA graph or by other libraries; that is why nothing is kept
// unless the user says that it may be, and only for calls of the user's own thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pdb {

// Begins, and ends, to keep weights in calls of this thread; calls nest. At the end of the last all are dropped.
void start_caching_weights();
void stop_caching_weights();
bool caches_weights();
// Nothing that was kept so far, in any thread, is used again.
void forget_weights();

// What tells apart in which form tensors were packed, besides the tensors themselves.
struct PackedForm {
  int64_t kind;        // of the caller's
  int64_t elements;    // of the result
  const void* stream;  // on which it was packed

  bool operator==(const PackedForm& other) const {
    return kind == other.kind && elements == other.elements && stream == other.stream;
  }
};

// The kept result for these weights; an undefined tensor if there is none.
at::Tensor find_packed(const std::vector<at::Tensor>& weights, const PackedForm& form);

// Keeps a result, in place of an older one for the same tensors.
void keep_packed(const std::vector<at::Tensor>& weights, const PackedForm& form, const at::Tensor& packed);

}  // namespace pdb
