// Stands in for c10's header when csrc/ops/cuda runs on the host: launches are synchronous.
#pragma once

struct CUstream_st;

namespace c10::cuda {

struct CUDAStream {
  CUstream_st* stream() const { return nullptr; }
};

inline CUDAStream getCurrentCUDAStream() { return {}; }

}  // namespace c10::cuda
