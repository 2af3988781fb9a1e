// See choose_path.h. The rule was derived from the published rates of the GPUs; for tensor cores it was then corrected
// by measurements on an H100 in bfloat16 and TF32 (docs/cuda.md). Elsewhere it is not measured.
#include "cuda/choose_path.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda/step/kernels.h"
#include "gate.h"
#include "gru_cell.h"

namespace pdb::cuda {
namespace {

// Operations per cycle of one multiprocessor, dense, with float32 sums. Tensor cores: for 16-bit types; TF32 has half
// of it.
double operations_per_cycle(int architecture, bool tensor_cores, int64_t element_size) {
  if (!tensor_cores) return element_size == 8 ? 64 : 256;
  const bool data_centre = architecture / 10 == 9 || architecture / 10 == 10;  // sm_90, sm_100
  const double half = data_centre ? 4096 : architecture == 80 ? 2048 : 1024;
  return element_size == 2 ? half : half / 2;
}

// Multiplications and additions of a step's convolutions.
double step_operations(const Layer& layer, int gates) {
  return 2.0 * gates * layer.channels * (layer.in_channels + layer.channels) * layer.taps() * layer.batch *
         layer.pixels();
}

// On tensor cores, for a layer of that share of the operations at which both take the same time. Backward through time
// has one convolution a step, which cuDNN computes faster at every size that was measured. Where it does, a fused
// forward step pays in small layers only, for cuDNN converts what it reads of the step's.
bool cudnn_in_training(Pass pass, double share) {
  return pass == Pass::backward || (pass == Pass::training && share > 0.25);
}

}  // namespace

std::optional<CudaPath> path_from_environment() {
  const char* variable = std::getenv("PDB_EXT_CUDA_PATH");
  const std::string name = variable ? variable : "";
  if (name.empty()) return std::nullopt;
  if (name == "step") return CudaPath::step;
  if (name == "persistent") return CudaPath::persistent;
  if (name == "aten") return CudaPath::aten;
  throw std::invalid_argument("PDB_EXT_CUDA_PATH must be step, persistent or aten, got '" + name + "'");
}

const char* path_name(CudaPath path) {
  return path == CudaPath::step ? "step" : path == CudaPath::persistent ? "persistent" : "aten";
}

const char* kernel_name(CudaPath path, Pass pass, bool tensor_cores, const Device& device) {
  const bool forward = pass != Pass::backward;
  if (path == CudaPath::persistent) return "persistent_kernel";
  if (path == CudaPath::aten) {
    if (!device.has_kernels()) return "none: PyTorch's operators";
    return forward ? "gates_forward_kernel" : "gates_backward_kernel";
  }
  if (tensor_cores) return forward ? "mma_forward_step_kernel" : "mma_backward_step_kernel";
  return forward ? "forward_step_kernel" : "backward_step_kernel";
}

// A step of n operations takes about n / (0.2 R) fused and n / (0.6 R) + t through cuDNN, where R is the peak rate: a
// plain mma.sync pipeline reaches about a fifth of it, cuDNN's kernels about three fifths, and its step has more
// launches and reads and writes the gates once more. Both take the same time at n = t * R / (1/0.2 - 1/0.6). Without
// tensor cores the shares are about 0.4 and 0.8, and t was estimated as 15 us, some 22,500 cycles. With them it is four
// times that: an H100 in bfloat16 breaks even between 8.5 GFLOP a step (C = 32, N = 16, 60 x 60 pixels: fused is 1.1
// times as fast) and 19 GFLOP (nowcasting, C = 64, N = 8, 64 x 64 pixels: cuDNN is).
double break_even_operations(const Layer& layer, int64_t element_size, const Device& device) {
  // A dilation whose halo is too large for the tensor-core step falls back to plain multiply-adds; cuDNN has no such
  // limit.
  const bool tensor_cores = layer.tensor_cores && layer.kernel / 2 * layer.dilation <= kMmaMaxRadius;
  const double cycles = tensor_cores ? 90000 : 22500;
  const double rate = device.multiprocessors * operations_per_cycle(device.architecture, tensor_cores, element_size);
  return cycles * rate / (tensor_cores ? 1 / 0.2 - 1 / 0.6 : 1 / 0.4 - 1 / 0.8);
}

bool persistent_fits(const Chains& chains, int64_t element_size, Pass pass) {
  if (pass != Pass::backward)
    return (element_size == 8   ? persistent_forward_workspace<double>(chains)
            : element_size == 4 ? persistent_forward_workspace<float>(chains)
                                : persistent_forward_workspace<Half>(chains)) > 0;
  return (element_size == 8   ? persistent_backward_workspace<double>(chains)
          : element_size == 4 ? persistent_backward_workspace<float>(chains)
                              : persistent_backward_workspace<Half>(chains)) > 0;
}

CudaPath choose_path(const Chains& chains, int64_t element_size, const Device& device, Pass pass) {
  if (!device.has_kernels()) return CudaPath::aten;
  const std::optional<CudaPath> forced = path_from_environment();
  if (forced && *forced != CudaPath::persistent) return *forced;
  double share = 0;  // of the operations at which both take the same time, in the largest layer
  for (int i = 0; i < chains.chains * chains.depth; ++i) {
    const Layer& layer = chains.layers[i];
    share = std::max(share, step_operations(layer, kGateCount) / break_even_operations(layer, element_size, device));
  }
  if (!forced && share > 1) return CudaPath::aten;
  if (persistent_fits(chains, element_size, pass)) return CudaPath::persistent;
  if (forced || !chains.layers[0].tensor_cores) return CudaPath::step;
  return cudnn_in_training(pass, share) ? CudaPath::aten : CudaPath::step;
}

const char* gru_kernel_name(CudaPath path, Pass pass, bool tensor_cores, const Device& device) {
  const bool forward = pass != Pass::backward;
  if (path == CudaPath::aten) {
    if (!device.has_kernels()) return "none: PyTorch's operators";
    return forward ? "gru_gates_forward_kernel" : "gru_gates_backward_kernel";
  }
  if (tensor_cores) return forward ? "mma_gru_forward_step_kernel" : "mma_gru_backward_step_kernel";
  return forward ? "gru_forward_step_kernel" : "gru_backward_step_kernel";
}

// Without tensor cores the ConvLSTM's break-even: not measured. On them two sizes were, on an H100: of a small layer
// (C = 32, 60 x 60 pixels: 0.03 of the break-even) and in TF32 cuDNN's convolutions are faster in both passes, as the
// two launches of a fused step are short; of nowcasting (C = 64, N = 8, 64 x 64 pixels) in bfloat16 a step that saves
// nothing is.
CudaPath choose_gru_path(const Layer& layer, int64_t element_size, const Device& device, Pass pass) {
  if (!device.has_kernels()) return CudaPath::aten;
  if (const std::optional<CudaPath> forced = path_from_environment())
    if (*forced != CudaPath::persistent) return *forced;
  const double share = step_operations(layer, kGruGateCount) / break_even_operations(layer, element_size, device);
  const bool fused = !layer.tensor_cores || (pass == Pass::forward && element_size == 2 && share > 0.25);
  return fused && share <= 1 ? CudaPath::step : CudaPath::aten;
}

}  // namespace pdb::cuda
