// Which of the three implementations computes a layer on the GPU.
//   step        one launch per step, with both convolutions and the cell (step/)
//   persistent  one launch for all steps of layers that fit on the chip (persistent/)
//   aten        convolutions by PyTorch (cuDNN), the cell in one kernel (ops/cuda/aten_layer.h)
#pragma once

#include <cstdint>
#include <optional>

#include "cuda/common/device.h"
#include "cuda/persistent/persistent.h"

namespace pdb::cuda {

enum class CudaPath { step, persistent, aten };

const char* path_name(CudaPath path);

// The path that the environment variable PDB_EXT_CUDA_PATH names, or nothing if it is not set. It is read at every
// call, so that a process can compare the paths. Throws std::invalid_argument for an unknown name.
std::optional<CudaPath> path_from_environment();

// The number of operations in a step above which cuDNN's faster convolutions outweigh its additional launches.
double break_even_operations(const Layer& layer, int64_t element_size, const Device& device);

// training: the forward pass that stores what backward needs.
enum class Pass { forward, training, backward };

// Part of the names of the kernels that compute the steps of a layer, as a profiler shows them.
const char* kernel_name(CudaPath path, Pass pass, bool tensor_cores, const Device& device);

// Whether the layers' states and weights fit on the calling thread's GPU, with all blocks of the persistent kernel
// resident at once.
bool persistent_fits(const Chains& chains, int64_t element_size, Pass pass);

// The rule, for layers that may share a persistent launch; on the other paths each runs alone. element_size: bytes of
// an element of x.
CudaPath choose_path(const Chains& chains, int64_t element_size, const Device& device, Pass pass);

// The same for a ConvGRU, which has no persistent path.
const char* gru_kernel_name(CudaPath path, Pass pass, bool tensor_cores, const Device& device);
CudaPath choose_gru_path(const Layer& layer, int64_t element_size, const Device& device, Pass pass);

}  // namespace pdb::cuda
