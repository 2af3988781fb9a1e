// The CUDA kernels on the host, for AddressSanitizer and UBSan: forward against the plain loops below and backward
// against finite differences of forward, in double; the other dtypes for their memory accesses and for errors no larger
// than their rounding explains.
// Usage: test_kernels [random cases] [seed]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "cuda/common/launch.h"
#include "cuda/common/once.h"
#include "cuda/step/kernels.h"
#include "cuda/step/weight_gradient.h"

namespace {

using namespace pdb::cuda;
using pdb::Layer;
using pdb::PeepholeWeights;
using Array = std::vector<double>;

std::mt19937_64 generator;

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

Array normal(int64_t count, double scale) {
  Array values(count);
  for (double& value : values) value = scale * std::normal_distribution<double>()(generator);
  return values;
}

// One call's arguments. An absent optional array is empty.
struct Inputs {
  Array x, weight_x, weight_h, bias, peephole, h_0, c_0;

  std::vector<Array*> all() { return {&x, &weight_x, &weight_h, &bias, &peephole, &h_0, &c_0}; }
};

struct Outputs {
  Array output, c_n;
};

Inputs random_inputs(const Layer& l, bool optional, double scale) {
  const int64_t C = l.channels;
  Inputs in{normal(l.steps * l.batch * l.in_channels * l.pixels(), scale),
            normal(4 * C * l.in_channels * l.taps(), 0.3 * scale),
            normal(4 * C * C * l.taps(), 0.3 * scale),
            {},
            {},
            {},
            {}};
  if (optional) {
    in.bias = normal(4 * C, scale);
    in.peephole = normal(3 * C * l.pixels(), scale);
    in.h_0 = normal(l.state(), scale);
    in.c_0 = normal(l.state(), scale);
  }
  return in;
}

// The convolution at one pixel of one image (channels, H, W), for one row of the weight.
double convolve(const Layer& l, const double* image, int64_t channels, const double* weight, int64_t y, int64_t x) {
  double sum = 0;
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t tap = 0; tap < l.taps(); ++tap) {
      const int64_t row = y + (tap / l.kernel - l.kernel / 2) * l.dilation;
      const int64_t column = x + (tap % l.kernel - l.kernel / 2) * l.dilation;
      if (row < 0 || row >= l.height || column < 0 || column >= l.width) continue;
      sum += weight[channel * l.taps() + tap] * image[channel * l.pixels() + row * l.width + column];
    }
  return sum;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

Outputs plain_forward(const Layer& l, const Inputs& in) {
  const int64_t C = l.channels, P = l.pixels();
  Outputs out{Array(l.steps * l.state()), Array(l.state())};
  Array h = in.h_0.empty() ? Array(l.state()) : in.h_0, c = in.c_0.empty() ? Array(l.state()) : in.c_0;
  for (int64_t s = 0; s < l.steps; ++s) {
    const int64_t t = l.reverse ? l.steps - 1 - s : s;
    for (int64_t e = 0; e < l.state(); ++e) {
      const int64_t n = e / (C * P), channel = e / P % C, pixel = e % P, y = pixel / l.width, x = pixel % l.width;
      double gate[4];
      for (int64_t g = 0; g < 4; ++g) {
        const int64_t row = g * C + channel;
        gate[g] = in.bias.empty() ? 0 : in.bias[row];
        gate[g] += convolve(l, &in.x[(t * l.batch + n) * l.in_channels * P], l.in_channels,
                            &in.weight_x[row * l.in_channels * l.taps()], y, x);
        gate[g] += convolve(l, &h[n * C * P], C, &in.weight_h[row * C * l.taps()], y, x);
      }
      auto peephole = [&](int64_t g) { return in.peephole.empty() ? 0 : in.peephole[(g * C + channel) * P + pixel]; };
      const double c_previous = c[e];
      c[e] = sigmoid(gate[1] + peephole(1) * c_previous) * c_previous +
             sigmoid(gate[0] + peephole(0) * c_previous) * std::tanh(gate[3]);
      const double o = sigmoid(gate[2] + peephole(2) * (l.peephole_current ? c[e] : c_previous));
      out.output[t * l.state() + e] = o * std::tanh(c[e]);
    }
    h.assign(&out.output[t * l.state()], &out.output[t * l.state()] + l.state());
  }
  out.c_n = c;
  return out;
}

// Arrays of exactly the size needed, so that AddressSanitizer sees every access beyond them. Outputs start as NaN.
template <class T>
std::vector<T> convert(const Array& values) {
  std::vector<T> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) narrow(accumulation_t<T>(values[i]), result[i]);
  return result;
}

template <class T>
Array convert_back(const std::vector<T>& values) {
  Array result;
  for (const T& value : values) result.push_back(widen(value));
  return result;
}

template <class T>
std::vector<T> unwritten(int64_t count) {
  return convert<T>(Array(count, NAN));
}

template <class T>
const T* pointer(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

// Forward, and backward of sum(output * cotangents.output) + sum(c_n * cotangents.c_n) in T by the kernels.
template <class T>
std::pair<Outputs, Inputs> run(const Layer& l, Inputs& in, const Outputs& cotangents, bool recompute = false) {
  using A = accumulation_t<T>;
  std::vector<std::vector<T>> a, grads;
  for (Array* values : in.all()) {
    a.push_back(convert<T>(*values));
    grads.push_back(unwritten<T>(values->size()));
  }
  auto output = unwritten<T>(l.steps * l.state()), c_n = unwritten<T>(l.state());
  auto gates = unwritten<T>(l.steps * 4 * l.state());
  auto cells = unwritten<A>(l.steps * l.state()), packed = unwritten<A>(forward_packed<T>(l));
  auto workspace = unwritten<A>(forward_workspace<T>(l, true));
  const PeepholeWeights<T> peephole{pointer(a[4]), l.channels * l.pixels(), l.pixels(), l.width, 1};
  if (forward<T>(l,
                 {a[0].data(), a[1].data(), a[2].data(), pointer(a[3]), peephole, pointer(a[5]), pointer(a[6]),
                  output.data(), c_n.data(), gates.data(), cells.data(), packed.data(), false, workspace.data()},
                 nullptr))
    std::abort();
  const auto grad_output = convert<T>(cotangents.output), grad_c_n = convert<T>(cotangents.c_n);
  workspace = unwritten<A>(backward_workspace<T>(l, !recompute));
  auto grad = [&](int i) { return grads[i].empty() ? nullptr : grads[i].data(); };
  if (backward<T>(l,
                  {grad_output.data(),
                   grad_c_n.data(),
                   a[0].data(),
                   a[1].data(),
                   a[2].data(),
                   pointer(a[3]),
                   peephole,
                   pointer(a[5]),
                   pointer(a[6]),
                   output.data(),
                   recompute ? nullptr : gates.data(),
                   cells.data(),
                   grad(0),
                   grad(1),
                   grad(2),
                   grad(3),
                   grad(4),
                   grad(5),
                   grad(6),
                   nullptr,
                   workspace.data()},
                  nullptr))
    std::abort();
  Inputs gradients;
  for (size_t i = 0; i < grads.size(); ++i) *gradients.all()[i] = convert_back(grads[i]);
  return {{convert_back(output), convert_back(c_n)}, gradients};
}

double dot(const Array& a, const Array& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Largest difference; NaN counts as infinite.
double difference(const Array& a, const Array& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::isfinite(a[i] - b[i]) ? std::fmax(largest, std::fabs(a[i] - b[i])) : INFINITY;
  return largest;
}

// Derivative of the loss along `direction`: by the gradients, minus by a central difference of plain_forward.
double gradient_error(const Layer& l, Inputs& in, Inputs& gradients, const Outputs& cotangents) {
  constexpr double kStep = 1e-5;
  Inputs direction = in;
  double expected = 0, actual = 0;
  for (size_t i = 0; i < in.all().size(); ++i) {
    *direction.all()[i] = normal(in.all()[i]->size(), 1);
    actual += dot(*gradients.all()[i], *direction.all()[i]);
  }
  for (double sign : {1.0, -1.0}) {
    Inputs moved = in;
    for (size_t i = 0; i < in.all().size(); ++i)
      for (size_t e = 0; e < in.all()[i]->size(); ++e) (*moved.all()[i])[e] += sign * kStep * (*direction.all()[i])[e];
    const Outputs out = plain_forward(l, moved);
    expected += sign / (2 * kStep) * (dot(out.output, cotangents.output) + dot(out.c_n, cotangents.c_n));
  }
  return std::fabs(actual - expected) / std::fmax(1, std::fabs(expected));
}

template <class T>
double rounding_error(Layer l, bool tensor_cores, Inputs& in, const Outputs& cotangents, const Outputs& exact) {
  l.tensor_cores = tensor_cores;
  return difference(run<T>(l, in, cotangents).first.output, exact.output);
}

bool check(const Layer& l, bool optional) {
  Inputs in = random_inputs(l, optional, 0.5);
  const Outputs cotangents{normal(l.steps * l.state(), 1), normal(l.state(), 1)}, exact = plain_forward(l, in);
  auto [out, gradients] = run<double>(l, in, cotangents);
  const double forward_error = std::fmax(difference(out.output, exact.output), difference(out.c_n, exact.c_n));
  const double backward_error = gradient_error(l, in, gradients, cotangents);
  Inputs recomputed = run<double>(l, in, cotangents, /*recompute=*/true).second;
  // Recomputed gates have the same bits, unless other kernels computed them the first time; sums over chunks do not.
  const double rounding = l.persistent || backward_in_chunks(l, /*gates=*/false) ? 1e-10 : 0;
  bool same = true;
  for (size_t i = 0; i < in.all().size(); ++i)
    same &= difference(*recomputed.all()[i], *gradients.all()[i]) <= rounding;
  bool passed = same && forward_error < 1e-12 && backward_error < 1e-6;
  std::printf(
      "T=%ld N=%ld Cin=%ld C=%ld %ldx%ld k=%ld d=%ld reverse=%d current=%d optional=%d: double %.1e, gradient %.1e",
      long(l.steps), long(l.batch), long(l.in_channels), long(l.channels), long(l.height), long(l.width),
      long(l.kernel), long(l.dilation), l.reverse, l.peephole_current, optional, forward_error, backward_error);
  for (bool tensor_cores : {false, true}) {
    const double units[3] = {tensor_cores ? 0x1p-11 : 0x1p-24, 0x1p-11, 0x1p-8};
    const double errors[3] = {rounding_error<float>(l, tensor_cores, in, cotangents, exact),
                              rounding_error<Half>(l, tensor_cores, in, cotangents, exact),
                              rounding_error<BFloat16>(l, tensor_cores, in, cotangents, exact)};
    std::printf(", %s", tensor_cores ? "tensor cores" : "FMA");
    for (int i = 0; i < 3; ++i) {
      std::printf(" %.1e", errors[i]);
      // Outputs lie within (-1, 1); a step of the recurrence passes on a few roundings of its inputs.
      passed = passed && errors[i] < 64 * units[i];
    }
  }
  std::printf(passed ? "\n" : " FAIL\n");
  return passed;
}

// The workspace of a weight gradient is enough for any smaller number of images, whose pixels are split differently.
bool check_workspace() {
  const Layer layer{1, 1, 8, 8, 3, 7, 1, 1, false, false, false, false};
  const WeightShape shape(layer, 4 * layer.channels, layer.in_channels);
  int64_t largest = 0;
  bool passed = true;
  for (int64_t images = 1; images < 200000; ++images) {
    const WeightPlan plan(shape, images, 2, false);
    largest = std::max(largest, plan.splits * plan.rows * plan.columns);
    passed &= weight_gradient_workspace<float>(shape, images, 2) >= largest;
  }
  if (!passed) std::printf("FAIL: the workspace of a weight gradient is too small for fewer images\n");
  return passed;
}

// A launch has no more blocks than the GPU holds at once, unless it has more tiles; and nearly as many if there is
// enough work.
bool check_blocks() {
  const Layer layer{1, 1, 8, 8, 64, 64, 1, 1, false, false, false, false};
  const WeightShape shape(layer, 4 * layer.channels, layer.in_channels);
  bool passed = true;
  for (int64_t tiles = 1; tiles < 1000; ++tiles) {
    const int64_t blocks = tiles * WeightPlan(shape, 10000, tiles, false).splits;
    passed &= blocks <= std::max(WeightPlan::kMaxBlocks, tiles) && 2 * blocks > WeightPlan::kMaxBlocks;
  }
  if (!passed) std::printf("FAIL: the number of blocks of a weight gradient\n");
  return passed;
}

// An answer is asked for once per key; a failed question is asked again.
bool check_answers() {
  Answers<int, int64_t> answers;
  int asked = 0;
  const auto double_of = [&](int key) {
    return answers.get(key, [&] { return ++asked, std::optional<int64_t>(2 * key); });
  };
  bool passed = double_of(3) == 6 && double_of(4) == 8 && double_of(3) == 6 && asked == 2;
  passed &= !answers.get(5, [] { return std::optional<int64_t>(); }) && double_of(5) == 10 && asked == 3;
  if (!passed) std::printf("FAIL: an answer was forgotten, or a failure remembered\n");
  return passed;
}

}  // namespace

int main(int argc, char** argv) {
  const int random_cases = argc > 1 ? std::atoi(argv[1]) : 3;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  generator.seed(seed);
  host::set_seed(seed);
  // T, N, Cin, C, H, W, k, d, reverse, peephole_current: one pixel, a full tile, a halo beyond shared memory, a kernel
  // beyond one chunk, a dilation whose offsets overflow.
  bool passed = check_workspace() & check_blocks() & check_answers();
  passed &= check({1, 1, 1, 1, 1, 1, 3, 1, false, false, false, false}, true);
  passed &= check({2, 1, 9, 9, 4, 32, 3, 1, true, false, false, false}, true);
  passed &= check({2, 1, 1, 2, 41, 42, 3, 40, false, true, false, false}, true);
  passed &= check({1, 1, 2, 1, 7, 8, 9, 1, false, false, false, false}, false);
  passed &= check({2, 1, 2, 1, 3, 4, 3, int64_t(1) << 62, false, false, false, false}, true);
  // Chunks: whole ones and a shorter one.
  passed &= check({12, 2, 2, 1, 3, 4, 3, 1, false, true, false, false}, true);
  passed &= check({11, 1, 1, 2, 3, 4, 3, 2, true, false, false, false}, false);
  for (int i = 0; i < random_cases; ++i)
    passed &= check({draw(1, 3), draw(1, 2), draw(1, 10), draw(1, 10), draw(1, 9), draw(1, 40), 2 * draw(0, 2) + 1,
                     draw(1, 5), draw(0, 1) == 1, draw(0, 1) == 1, false, false},
                    draw(0, 1) == 1);
  // Four tiles that wait for each other, in one launch each way.
  host::resident_blocks = 4;
  host::cooperative_launches = 0;
  passed &= check({2, 1, 3, 5, 9, 10, 3, 2, true, true, false, true}, true);
  // Weights that alternate in shared memory, over more steps than are computed at once.
  passed &= check({9, 1, 56, 4, 3, 4, 3, 1, false, false, false, true}, false);
  if (host::cooperative_launches == 0) passed = false, std::printf("FAIL: no persistent launch\n");
  return passed ? 0 : 1;
}
