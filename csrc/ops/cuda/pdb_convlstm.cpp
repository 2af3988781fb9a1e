// pdb_convlstm on CUDA tensors: one persistent launch for all branches and both directions if it fits, else one
// convlstm after the other.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/choose_path.h"
#include "ops/calls.h"
#include "ops/cuda/tensors.h"
#include "ops/cuda/weights.h"
#include "ops/gradients.h"
#include "ops/pdb_convlstm.h"

namespace pdb::cuda {
namespace {

// The layers of one call, with their tensors made contiguous.
struct Module {
  int64_t count;
  at::Tensor x;
  std::vector<PdbLayer> given, parameters;
  std::vector<Layer> layers;
  Device device;

  Module(const char* op, const at::Tensor& input_x, Parameters list, at::IntArrayRef dilations, bool peephole_current)
      : count(2 * static_cast<int64_t>(dilations.size())), x(input_x.contiguous()), device(current_device()) {
    for (int64_t i = 0; i < count; ++i) {
      given.emplace_back(list, i);
      parameters.push_back(given.back());
      PdbLayer& p = parameters.back();
      // A backward layer reads an input with the shape of the forward layer's output.
      const at::Tensor input =
          i % 2 == 0 ? x : x.select(2, 0).unsqueeze(2).expand({-1, -1, p.weight_h.size(1), -1, -1});
      const Layer layer = check_inputs(op, {input, p.weight_x, p.weight_h, p.bias, p.peephole, p.h_0, p.c_0,
                                            dilations[i / 2], i % 2 == 1, peephole_current});
      layers.push_back(on_device(layer, x.scalar_type(), device));
      p.weight_x = p.weight_x.contiguous(), p.weight_h = p.weight_h.contiguous();
      p.bias = contiguous(p.bias), p.h_0 = contiguous(p.h_0), p.c_0 = contiguous(p.c_0);
    }
  }

  Chains chains() const { return {layers.data(), static_cast<int>(count / 2), 2}; }
  const Layer& first() const { return layers[0]; }  // the others differ in in_channels and dilation only
  // The arguments of layer i. input: its x.
  Inputs inputs(int64_t i, const at::Tensor& input) const {
    const PdbLayer& p = parameters[i];
    const Layer& l = layers[i];
    return {input, p.weight_x, p.weight_h, p.bias, p.peephole, p.h_0, p.c_0, l.dilation, l.reverse, l.peephole_current};
  }
  // Whether one persistent launch can run all layers; and sets Layer::persistent accordingly.
  bool in_one_launch(Pass pass) {
    const bool one = first().batch > 0 && choose_path(chains(), x.element_size(), device, pass) == CudaPath::persistent;
    for (Layer& layer : layers) layer.persistent = one;
    return one;
  }
  void note(const char* op, Pass pass) const {
    const bool tensor_cores = first().tensor_cores;
    record_call({op, "cuda", path_name(CudaPath::persistent),
                 kernel_name(CudaPath::persistent, pass, tensor_cores, device), static_cast<int>(count), tensor_cores});
  }
  std::vector<at::Tensor> weights() const {
    std::vector<at::Tensor> all;
    for (const PdbLayer& p : given) all.push_back(p.weight_x), all.push_back(p.weight_h);
    return all;
  }
};

template <class T>
PdbResult forward_in_one_launch(const Module& module, Save save) {
  using A = accumulation_t<T>;
  const Layer& l = module.first();
  const auto options = module.x.options();
  const auto accumulation = options.dtype(accumulation_dtype(module.x.scalar_type()));
  const at::Tensor output = at::empty({module.count, l.steps, l.batch, l.channels, l.height, l.width}, options);
  const at::Tensor c_n = at::empty({module.count, l.batch, l.channels, l.height, l.width}, options);
  const int64_t saved = reserve_size(save, l.sequence(), module.x.scalar_type());
  const at::Tensor reserve = at::empty({module.count, saved}, accumulation);
  const at::Tensor workspace = at::empty({persistent_forward_workspace<T>(module.chains())}, accumulation);
  const WeightRoom packed(module.weights(), packed_kind(module.x.scalar_type(), true, module.first().tensor_cores),
                          persistent_forward_packed<T>(module.chains()), accumulation, save == Save::nothing);
  std::vector<ForwardTensors<T>> tensors;
  for (int64_t i = 0; i < module.count; ++i) {
    const PdbLayer& p = module.parameters[i];
    T* const h = write<T>(output) + i * l.sequence();
    const auto [gates, cells] = split_reserve<T>(save, l, write<A>(reserve) + i * saved);
    tensors.push_back({i % 2 == 0 ? read<T>(module.x) : tensors.back().output, read<T>(p.weight_x), read<T>(p.weight_h),
                       read<T>(p.bias), read_peephole<T>(p.peephole), read<T>(p.h_0), read<T>(p.c_0), h,
                       write<T>(c_n) + i * l.state(), gates, cells, nullptr, false, nullptr});
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  check_launch(persistent_forward<T>(module.chains(), tensors.data(), {write<A>(packed.data()), packed.is_packed()},
                                     write<A>(workspace), stream.stream()));
  packed.keep();
  return {output, c_n, reserve};
}

PdbResult pdb_convlstm(const at::Tensor& x, Parameters parameters, at::IntArrayRef dilations, bool peephole_current,
                       int64_t save_) {
  check_pdb("pdb_convlstm", x, parameters, dilations);
  const Save save = check_save(save_);
  const c10::cuda::CUDAGuard guard(x.device());
  Module module("pdb_convlstm", x, parameters, dilations, peephole_current);
  if (!module.in_one_launch(Pass::forward))
    return pdb_convlstm_by_layers(x, parameters, dilations, peephole_current, save_);
  PdbResult result;
  dispatch(x.scalar_type(), [&](auto type) { result = forward_in_one_launch<decltype(type)>(module, save); });
  module.note("pdb_convlstm", Pass::forward);
  return result;
}

// The results of forward that backward reads, contiguous.
struct Results {
  OptionalTensor grad_output, grad_c_n;
  at::Tensor output, reserve;
  Save save;
};

// grads: allocated; of x, then of every parameter.
template <class T>
void backward_in_one_launch(const Module& module, const Results& results, const std::vector<at::Tensor>& grads) {
  using A = accumulation_t<T>;
  const auto& [grad_output, grad_c_n, output, reserve, save] = results;
  const Layer& l = module.first();
  const bool saved = save == Save::gates_and_cells;
  const at::Tensor workspace = at::empty({chains_backward_workspace<T>(module.chains(), saved)}, reserve.options());
  std::vector<BackwardTensors<T>> tensors;
  for (int64_t i = 0; i < module.count; ++i) {
    const PdbLayer& p = module.parameters[i];
    const int64_t sequence = l.sequence();
    const T* const h = read<T>(output) + i * sequence;
    const auto [gates, cells] = split_reserve<const T>(save, l, read<A>(reserve) + i * reserve.size(1));
    const at::Tensor* const of_layer = &grads[1 + kLayerParameters * i];
    const auto grad = [&](Parameter which) { return write<T>(of_layer[which]); };
    tensors.push_back({grad_output ? read<T>(grad_output) + i * sequence : nullptr,
                       grad_c_n ? read<T>(grad_c_n) + i * l.state() : nullptr,
                       i % 2 == 0 ? read<T>(module.x) : tensors.back().output,
                       read<T>(p.weight_x),
                       read<T>(p.weight_h),
                       read<T>(p.bias),
                       read_peephole<T>(p.peephole),
                       read<T>(p.h_0),
                       read<T>(p.c_0),
                       h,
                       gates,
                       cells,
                       i % 2 == 0 ? write<T>(grads[0]) : nullptr,
                       grad(kParameterWeightX),
                       grad(kParameterWeightH),
                       grad(kParameterBias),
                       grad(kParameterPeephole),
                       grad(kParameterH0),
                       grad(kParameterC0),
                       nullptr,
                       nullptr});
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  check_launch(chains_backward(module.chains(), tensors.data(), write<A>(workspace), stream.stream()));
}

// The gradients of x and of every parameter, uninitialised; those that are not needed have no elements.
std::vector<at::Tensor> make_gradients(const Module& module, const c10::List<bool>& needs) {
  std::vector<at::Tensor> grads(1);
  for (int64_t i = 0; i < module.count; ++i) {
    std::array<bool, kGradients> wanted{i == 0 && needs.get(0)};
    for (int64_t which = 0; which < kLayerParameters; ++which)
      wanted[1 + which] = needs.get(1 + kLayerParameters * i + which);
    const Gradients of_layer = pdb::make_gradients(module.layers[i], module.inputs(i, module.x), wanted);
    if (i == 0) grads[0] = of_layer[kX];
    grads.insert(grads.end(), of_layer.begin() + kWeightX, of_layer.end());
  }
  return grads;
}

// Throws unless all shapes are those that the layers need; fills in `save`.
Results check_results(const char* op, const Module& module, Results results) {
  TORCH_CHECK(results.output.dim() == 6 && results.output.size(0) == module.count && results.reserve.dim() == 2 &&
                  results.reserve.size(0) == module.count,
              op, ": output and reserve must be of ", module.count, " layers, got ", results.output.sizes(), " and ",
              results.reserve.sizes());
  for (int64_t i = 0; i < module.count; ++i) {
    const at::Tensor x = i % 2 == 0 ? module.x : results.output.select(0, i - 1);
    const auto part = [&](const OptionalTensor& t) { return t ? OptionalTensor(t->select(0, i)) : std::nullopt; };
    results.save = check_saved(module.layers[i], module.inputs(i, x), results.output.select(0, i),
                               results.reserve.select(0, i), part(results.grad_output), part(results.grad_c_n));
  }
  return results;
}

std::vector<at::Tensor> pdb_convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n,
                                              const at::Tensor& x, Parameters parameters, const at::Tensor& output,
                                              const at::Tensor& reserve, at::IntArrayRef dilations,
                                              bool peephole_current, const c10::List<bool>& needs) {
  const char* op = "pdb_convlstm_backward";
  check_pdb(op, x, parameters, dilations);
  TORCH_CHECK(needs.size() == parameters.size() + 1, op, ": needs must have ", parameters.size() + 1, " elements, got ",
              needs.size());
  const c10::cuda::CUDAGuard guard(x.device());
  Module module(op, x, parameters, dilations, peephole_current);
  const Results results = check_results(
      op, module,
      {contiguous(grad_output), contiguous(grad_c_n), output.contiguous(), reserve.contiguous(), Save::nothing});
  if (!module.in_one_launch(Pass::backward)) {
    c10::SmallVector<bool, 32> wanted(needs.begin(), needs.end());
    return pdb_convlstm_backward_by_layers(grad_output, grad_c_n, x, parameters, output, reserve, dilations,
                                           peephole_current, wanted);
  }
  const std::vector<at::Tensor> grads = make_gradients(module, needs);
  dispatch(x.scalar_type(), [&](auto type) { backward_in_one_launch<decltype(type)>(module, results, grads); });
  module.note("pdb_convlstm_backward", Pass::backward);
  return grads;
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CUDA, m) {
  m.impl("pdb_convlstm", pdb_convlstm);
  m.impl("pdb_convlstm_backward", pdb_convlstm_backward);
}

}  // namespace pdb::cuda
