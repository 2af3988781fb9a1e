// The ConvGRU's kernels on the host, for AddressSanitizer and UBSan, as test_kernels.cpp: forward against the plain
// loops below and backward against finite differences of them, in double; the other dtypes for their memory accesses
// and for errors no larger than their rounding explains.
// Usage: test_gru [random cases] [seed]
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "cuda/common/gru.h"
#include "cuda/common/launch.h"

namespace {

using namespace pdb::cuda;
using pdb::Layer;
using Array = std::vector<double>;

std::mt19937_64 generator;

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

Array normal(int64_t count, double scale) {
  Array values(count);
  for (double& value : values) value = scale * std::normal_distribution<double>()(generator);
  return values;
}

// x, weight_x, weight_h, bias, h_0, or their gradients. An absent optional array is empty.
using Inputs = std::array<Array, 5>;

Inputs random_inputs(const Layer& l, bool optional) {
  const int64_t C = l.channels;
  return {normal(l.steps * l.batch * l.in_channels * l.pixels(), 0.5), normal(3 * C * l.in_channels * l.taps(), 0.15),
          normal(3 * C * C * l.taps(), 0.15), optional ? normal(3 * C, 0.5) : Array(),
          optional ? normal(l.state(), 0.5) : Array()};
}

// A gate's pre-activation at one element of one frame, by convolutions of `frame` and `state`.
double gate_sum(const Layer& l, const Inputs& in, const double* frame, const Array& state, int64_t gate, int64_t e) {
  const int64_t C = l.channels, P = l.pixels(), n = e / (C * P), y = e % P / l.width, x = e % P % l.width;
  const int64_t row = gate * C + e / P % C;
  double sum = in[3].empty() ? 0 : in[3][row];
  const auto convolve = [&](const double* image, int64_t channels, const double* weight) {
    for (int64_t i = 0; i < channels * l.taps(); ++i) {
      const int64_t tap = i % l.taps(), at_y = y + (tap / l.kernel - l.kernel / 2) * l.dilation,
                    at_x = x + (tap % l.kernel - l.kernel / 2) * l.dilation;
      if (at_y < 0 || at_y >= l.height || at_x < 0 || at_x >= l.width) continue;
      sum += weight[i] * image[i / l.taps() * P + at_y * l.width + at_x];
    }
  };
  convolve(frame + n * l.in_channels * P, l.in_channels, &in[1][row * l.in_channels * l.taps()]);
  convolve(&state[n * C * P], C, &in[2][row * C * l.taps()]);
  return sum;
}

Array plain_forward(const Layer& l, const Inputs& in) {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  Array output(l.sequence()), h = in[4].empty() ? Array(l.state()) : in[4], rh(l.state()), next(l.state());
  for (int64_t s = 0; s < l.steps; ++s) {
    const int64_t t = l.frame(s);
    const double* const frame = &in[0][t * l.batch * l.in_channels * l.pixels()];
    for (int64_t e = 0; e < l.state(); ++e) rh[e] = sigmoid(gate_sum(l, in, frame, h, 0, e)) * h[e];
    for (int64_t e = 0; e < l.state(); ++e) {
      const double z = sigmoid(gate_sum(l, in, frame, h, 1, e));
      next[e] = (1 - z) * std::tanh(gate_sum(l, in, frame, rh, 2, e)) + z * h[e];
      output[t * l.state() + e] = next[e];
    }
    h = next;
  }
  return output;
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

// The output, and the gradients of sum(output * cotangent), in T by the kernels.
template <class T>
std::pair<Array, Inputs> run(const Layer& l, const Inputs& in, const Array& cotangent) {
  using A = accumulation_t<T>;
  std::vector<T> a[5], grads[5];
  for (int i = 0; i < 5; ++i) a[i] = convert<T>(in[i]), grads[i] = unwritten<T>(in[i].size());
  const auto given = [&](int i) { return a[i].empty() ? nullptr : a[i].data(); };
  const auto grad = [&](int i) { return grads[i].empty() ? nullptr : grads[i].data(); };
  auto output = unwritten<T>(l.sequence()), gates = unwritten<T>(3 * l.sequence());
  auto packed = unwritten<A>(gru_forward_packed<T>(l)), room = unwritten<A>(gru_forward_workspace<T>(l));
  const GruForwardTensors<T> forward{{given(0), given(1), given(2), given(3), given(4), output.data(), gates.data()},
                                     packed.data(),
                                     false,
                                     room.data()};
  if (gru_forward<T>(l, forward, nullptr)) std::abort();
  const auto grad_output = convert<T>(cotangent);
  room = unwritten<A>(gru_backward_workspace<T>(l));
  const GruBackwardTensors<T> backward{{grad_output.data(), given(0), given(1), given(2), given(4), output.data(),
                                        gates.data(), grad(0), grad(1), grad(2), grad(3), grad(4)},
                                       room.data()};
  if (gru_backward<T>(l, backward, nullptr)) std::abort();
  Inputs gradients;
  for (int i = 0; i < 5; ++i) gradients[i] = convert_back(grads[i]);
  return {convert_back(output), gradients};
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

// Derivative of the loss along a random direction: by the gradients, minus by a central difference of plain_forward.
double gradient_error(const Layer& l, const Inputs& in, const Inputs& gradients, const Array& cotangent) {
  constexpr double kStep = 1e-5;
  Inputs direction;
  double expected = 0, actual = 0;
  for (int i = 0; i < 5; ++i) {
    direction[i] = normal(in[i].size(), 1);
    actual += dot(gradients[i], direction[i]);
  }
  for (double sign : {1.0, -1.0}) {
    Inputs moved = in;
    for (int i = 0; i < 5; ++i)
      for (size_t e = 0; e < in[i].size(); ++e) moved[i][e] += sign * kStep * direction[i][e];
    expected += sign / (2 * kStep) * dot(plain_forward(l, moved), cotangent);
  }
  return std::isfinite(actual) ? std::fabs(actual - expected) / std::fmax(1, std::fabs(expected)) : INFINITY;
}

bool check(Layer l, bool optional) {
  const Inputs in = random_inputs(l, optional);
  const Array cotangent = normal(l.sequence(), 1), exact = plain_forward(l, in);
  const auto [output, gradients] = run<double>(l, in, cotangent);
  const double forward_error = difference(output, exact), backward_error = gradient_error(l, in, gradients, cotangent);
  bool passed = forward_error < 1e-12 && backward_error < 1e-6;
  std::printf("T=%ld N=%ld Cin=%ld C=%ld %ldx%ld k=%ld d=%ld reverse=%d optional=%d: double %.1e, gradient %.1e",
              long(l.steps), long(l.batch), long(l.in_channels), long(l.channels), long(l.height), long(l.width),
              long(l.kernel), long(l.dilation), l.reverse, optional, forward_error, backward_error);
  for (bool tensor_cores : {false, true}) {
    l.tensor_cores = tensor_cores;
    const double units[3] = {tensor_cores ? 0x1p-11 : 0x1p-24, 0x1p-11, 0x1p-8};
    const double errors[3] = {difference(run<float>(l, in, cotangent).first, exact),
                              difference(run<Half>(l, in, cotangent).first, exact),
                              difference(run<BFloat16>(l, in, cotangent).first, exact)};
    std::printf(", %s", tensor_cores ? "tensor cores" : "FMA");
    for (int i = 0; i < 3; ++i) {
      std::printf(" %.1e", errors[i]);
      passed = passed && errors[i] < 64 * units[i];  // a step of the recurrence passes on a few roundings of its inputs
    }
  }
  std::printf(passed ? "\n" : " FAIL\n");
  return passed;
}

}  // namespace

int main(int argc, char** argv) {
  const int random_cases = argc > 1 ? std::atoi(argv[1]) : 3;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  generator.seed(seed);
  host::set_seed(seed);
  // T, N, Cin, C, H, W, k, d, reverse: one pixel, a full tile, a halo beyond shared memory, a kernel beyond one chunk,
  // a dilation whose offsets overflow.
  bool passed = check({1, 1, 1, 1, 1, 1, 3, 1}, true);
  passed &= check({2, 1, 9, 9, 4, 32, 3, 1, true}, true);
  passed &= check({2, 1, 1, 2, 41, 42, 3, 40}, true);
  passed &= check({1, 1, 2, 1, 7, 8, 9, 1}, false);
  passed &= check({2, 1, 2, 1, 3, 4, 3, int64_t(1) << 62}, true);
  for (int i = 0; i < random_cases; ++i)
    passed &= check({draw(1, 3), draw(1, 2), draw(1, 10), draw(1, 10), draw(1, 9), draw(1, 40), 2 * draw(0, 2) + 1,
                     draw(1, 5), draw(0, 1) == 1},
                    draw(0, 1) == 1);
  return passed ? 0 : 1;
}
