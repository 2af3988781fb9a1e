// Stands in for c10's header when csrc/ops/cuda runs on the host: there is one device, the CPU.
#pragma once

namespace c10::cuda {

struct CUDAGuard {
  template <class Device>
  explicit CUDAGuard(Device) {}
};

}  // namespace c10::cuda
