// Index arithmetic beyond 2^31 elements: arrays of reserved addresses, of which only the pages at the last tile of the
// last image are ever touched, and only the blocks there run. The same data in the corner of a small image must give
// the same bits.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/common/launch.h"
#include "cuda/gates/gates.h"
#include "cuda/gates/gru_gates.h"
#include "cuda/step/gru_kernels.h"
#include "cuda/step/kernels.h"

namespace {

using namespace pdb::cuda;
using pdb::Layer;

// `count` zeros that occupy memory only where they are touched.
template <class T>
struct Sparse {
  int64_t count;
  T* data;

  explicit Sparse(int64_t count) : count(count) {
    void* address =
        mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) std::perror("mmap"), std::exit(1);
    data = static_cast<T*>(address);
  }
  ~Sparse() { munmap(data, count * sizeof(T)); }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
};

constexpr int64_t kChannels = 8, kSide = 8;  // what is compared: one tile of 8 x 8 pixels, all channels

// Element (image, channel, y, x) of an array (images, channels, H, W), counted from the last image's bottom right
// corner.
int64_t corner(const Layer& layer, int64_t channels, int64_t channel, int64_t y, int64_t x) {
  const int64_t row = layer.height - kSide + y, column = layer.width - kSide + x;
  return (((layer.batch - 1) * channels + channel) * layer.height + row) * layer.width + column;
}

template <class T, class Use>
void for_corner(const Layer& layer, Sparse<T>& array, int64_t channels, const Use& use) {
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t y = 0; y < kSide; ++y)
      for (int64_t x = 0; x < kSide; ++x) use(array.data[corner(layer, channels, channel, y, x)]);
}

void randomise(const Layer& layer, Sparse<float>& array, int64_t channels, uint64_t seed) {
  std::mt19937_64 generator(seed);
  for_corner(layer, array, channels, [&](float& value) { value = std::normal_distribution<float>()(generator); });
}

// Everything that the kernels compute in the corner, in one array.
std::vector<float> run(const Layer& layer, bool tensor_cores) {
  const int64_t C = kChannels, state = layer.state();
  Sparse<float> x(state), h_previous(state), c_previous(state), h(state), c(state), gates(4 * state),
      grad_output(state), grad_c(state), grad_next(4 * state), grad_gates(4 * state), grad_x(state), sums(4 * state),
      operand(state);
  int seed = 0;
  for (Sparse<float>* array : {&x, &h_previous, &c_previous, &grad_output, &grad_c})
    randomise(layer, *array, C, ++seed);
  for (Sparse<float>* array : {&grad_next, &sums}) randomise(layer, *array, 4 * C, ++seed);
  std::vector<float> weight(4 * C * C * layer.taps());
  std::mt19937_64 generator(99);
  for (float& value : weight) value = 0.2f * std::normal_distribution<float>()(generator);

  const auto packed = [&](Packing packing) {
    WeightToPack<float> job{weight.data(), 4 * C, C, layer.kernel, 4, packing, tensor_cores, nullptr};
    std::vector<float> result(packed_size(job));
    job.packed = result.data();
    host::run_blocks_from(0);
    launch_pack_weights(&job, 1, nullptr);
    host::run_blocks_from(-1);  // the last block: the last tile of the last image
    return result;
  };
  const auto as_gates = packed(Packing::gates), transposed = packed(Packing::transposed);
  ForwardStep<float> forward{};
  forward.x = x.data, forward.h_previous = h_previous.data, forward.c_previous = c_previous.data;
  forward.weight_x = forward.weight_h = as_gates.data();
  forward.h = h.data, forward.c = c.data, forward.gates = gates.data;
  BackwardStep<float> backward{};
  backward.grad_output = grad_output.data, backward.grad_gates_next = grad_next.data,
  backward.weight_h = transposed.data();
  backward.gates = gates.data, backward.c = c.data, backward.c_previous = c_previous.data,
  backward.grad_c = grad_c.data;
  backward.grad_gates = grad_gates.data;

  const DataGradients<float> gradients_of_x{{{grad_next.data, transposed.data(), layer.dilation}}, 1, nullptr};
  std::vector<float> result;
  const auto keep = [&](Sparse<float>& array, int64_t channels) {
    for_corner(layer, array, channels, [&](float& value) { result.push_back(value); });
  };
  if (tensor_cores) {
    launch_mma_forward_step(layer, forward, nullptr);
    launch_mma_backward_step(layer, backward, nullptr);
    launch_mma_input_gradient(layer, layer.batch, 4 * C, C, gradients_of_x, grad_x.data, nullptr);
  } else {
    launch_forward_step(layer, forward, nullptr);
    launch_backward_step(layer, backward, nullptr);
    launch_input_gradient(layer, layer.batch, 4 * C, C, gradients_of_x, grad_x.data, nullptr);
  }
  for (Sparse<float>* array : {&h, &c, &grad_c, &grad_x}) keep(*array, C);
  for (Sparse<float>* array : {&gates, &grad_gates}) keep(*array, 4 * C);
  launch_gates_forward(layer, Layout::contiguous, {sums.data, nullptr}, forward, operand.data, nullptr);
  GateGradients<float> gradients{};
  gradients.grad_h = grad_output.data, gradients.grad_gates = grad_gates.data;
  launch_gates_backward(layer, Layout::contiguous, gradients, backward, nullptr);
  for (Sparse<float>* array : {&h, &c}) keep(*array, C);
  keep(grad_gates, 4 * C);
  return result;
}

// The same for the ConvGRU.
std::vector<float> run_gru(const Layer& layer, bool tensor_cores) {
  const int64_t C = kChannels, state = layer.state();
  Sparse<float> x(state), h_previous(state), z(state), rh(state), h(state), gates(3 * state), grad_output(state),
      grad_next(3 * state), grad_h(state), grad_gates(3 * state), sums(3 * state), operand(state),
      grad_reset(2 * state);
  int seed = 0;
  for (Sparse<float>* array : {&x, &h_previous, &grad_output, &grad_h}) randomise(layer, *array, C, ++seed);
  for (Sparse<float>* array : {&grad_next, &sums}) randomise(layer, *array, 3 * C, ++seed);
  std::vector<float> weight(2 * C * C * layer.taps());
  std::mt19937_64 generator(99);
  for (float& value : weight) value = 0.2f * std::normal_distribution<float>()(generator);
  const auto packed = [&](Packing packing, int64_t gates) {
    WeightToPack<float> job{weight.data(), gates * C, C, layer.kernel, gates, packing, tensor_cores, nullptr};
    std::vector<float> result(packed_size(job));
    job.packed = result.data();
    host::run_blocks_from(0);
    launch_pack_weights(&job, 1, nullptr);
    host::run_blocks_from(-1);
    return result;
  };
  const auto reset = packed(Packing::gates, 2), update = packed(Packing::gates, 1);
  const auto reset_back = packed(Packing::transposed, 2), update_back = packed(Packing::transposed, 1);
  GruForwardStep<float> forward{};
  forward.x = x.data, forward.h_previous = h_previous.data, forward.z = z.data, forward.rh = rh.data;
  forward.reset_x = forward.reset_h = reset.data(), forward.update_x = forward.update_h = update.data();
  forward.h = h.data, forward.gates = gates.data;
  GruBackwardStep<float> backward{};
  backward.grad_output = grad_output.data, backward.grad_gates_next = grad_next.data, backward.gates = gates.data;
  backward.reset_h = reset_back.data(), backward.update_h = update_back.data();
  backward.h_previous = h_previous.data, backward.grad_h = grad_h.data, backward.grad_gates = grad_gates.data;
  const GruHalfGradients<float> operands{operand.data, grad_reset.data, x.data, nullptr};

  std::vector<float> result;
  const auto keep = [&](Sparse<float>& array, int64_t channels) {
    for_corner(layer, array, channels, [&](float& value) { result.push_back(value); });
  };
  for (GruHalf half : {GruHalf::reset, GruHalf::update})
    (tensor_cores ? launch_mma_gru_forward<float> : launch_gru_forward<float>)(layer, half, forward, nullptr);
  for (GruHalf half : {GruHalf::update, GruHalf::reset})
    (tensor_cores ? launch_mma_gru_backward<float> : launch_gru_backward<float>)(layer, half, backward, nullptr);
  for (Sparse<float>* array : {&z, &rh, &h, &grad_h}) keep(*array, C);
  for (Sparse<float>* array : {&gates, &grad_gates}) keep(*array, 3 * C);
  for (GruHalf half : {GruHalf::reset, GruHalf::update})
    launch_gru_gates_forward(layer, Layout::contiguous, half, {sums.data, nullptr}, forward, operand.data, nullptr);
  for (GruHalf half : {GruHalf::update, GruHalf::reset})
    launch_gru_gates_backward(layer, Layout::contiguous, half, operands, backward, nullptr);
  for (Sparse<float>* array : {&operand, &x, &h}) keep(*array, C);
  keep(grad_reset, 2 * C);
  return result;
}

}  // namespace

int main() {
  bool passed = true;
  for (bool tensor_cores : {false, true}) {
    // 3 images of 8 channels of 16,384 x 16,384 pixels: 6.4e9 elements, four times as many for the gates.
    Layer layer{1, 3, kChannels, kChannels, 1 << 14, 1 << 14, 3, 1, false, false, tensor_cores, false};
    const auto both = [&] {
      std::vector<float> results = run(layer, tensor_cores);
      const std::vector<float> of_gru = run_gru(layer, tensor_cores);
      results.insert(results.end(), of_gru.begin(), of_gru.end());
      return results;
    };
    const std::vector<float> large = both();
    layer.batch = 1, layer.height = layer.width = 64;
    const std::vector<float> small = both();
    bool nonzero = false;
    for (float value : small) nonzero |= value != 0;
    const bool same = nonzero && large.size() == small.size() &&
                      std::memcmp(large.data(), small.data(), small.size() * sizeof(float)) == 0;
    std::printf("%s beyond 2^31 elements: %s\n", tensor_cores ? "tensor cores" : "FMA", same ? "passed" : "FAIL");
    passed &= same;
  }
  return passed ? 0 : 1;
}
