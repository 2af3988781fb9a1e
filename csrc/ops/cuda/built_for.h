// What to say if pdb_ext was not built for the GPU.
#pragma once

#include <c10/util/Exception.h>

#include "cuda/common/device.h"

namespace pdb::cuda {

inline void warn_without_kernels(const Device& device) {
  if (device.has_kernels()) return;
  TORCH_WARN_ONCE("pdb_ext was not built for this GPU (compute capability ", device.architecture / 10, ".",
                  device.architecture % 10, "); it uses PyTorch's convolutions and operators, which is slower. ",
                  "Build it again with TORCH_CUDA_ARCH_LIST set to that number.");
}

// For a path that is forced.
inline void check_kernels(const Device& device, const char* path) {
  TORCH_CHECK(device.has_kernels(), "PDB_EXT_CUDA_PATH=", path,
              ": pdb_ext was not built for this GPU (compute capability ", device.architecture / 10, ".",
              device.architecture % 10, "), which can take the path aten only");
}

}  // namespace pdb::cuda
