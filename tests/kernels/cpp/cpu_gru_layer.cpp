// The whole ConvGRU layer on the CPU without torch, as cpu_layer.cpp tests the ConvLSTM's.
#include "cpu/gru_layer.h"
#include "gru_cell.h"
#include "plain.h"

namespace {

struct Case {
  Layer layer;
  bool state;
  int threads;
};

// Everything that gru_forward reads; also used for a direction in the space of all inputs, and for a gradient.
struct Inputs {
  Values x, weight_x, weight_h, bias, h_0;

  static Inputs random(const Case& c) {
    const Layer& l = c.layer;
    return {normal(l.steps * l.batch * l.in_channels * l.pixels(), 1),
            normal(3 * l.channels * l.in_channels * l.taps(), std::pow(l.in_channels * l.taps(), -0.5)),
            normal(3 * l.channels * l.channels * l.taps(), std::pow(l.channels * l.taps(), -0.5)),
            normal(3 * l.channels, 0.5), normal(c.state ? l.state() : 0, 0.5)};
  }
  std::vector<Values*> all() { return {&x, &weight_x, &weight_h, &bias, &h_0}; }
};

struct Outputs {
  Values output, gates;
};

Outputs run_forward(const Case& c, const Inputs& in, bool save) {
  const Layer& l = c.layer;
  Outputs out{Values(l.sequence()), Values(save ? 3 * l.sequence() : 0)};
  gru_forward<double>(l,
                      {frames(l, in.x, l.in_channels), in.weight_x.data(), in.weight_h.data(), in.bias.data(),
                       data_or_null(in.h_0), out.output.data(), save ? out.gates.data() : nullptr},
                      threads(c.threads));
  return out;
}

// The pre-activation `gate` of (n, channel, pixel) from x_t and the state that its convolution reads.
double pre_activation(const Case& c, const Inputs& in, int gate, int64_t t, const Values& state, int64_t n,
                      int64_t channel, int64_t pixel) {
  const Layer& l = c.layer;
  const int64_t row = gate * l.channels + channel, y = pixel / l.width, x = pixel % l.width;
  return in.bias[row] +
         convolve(l, in.x.data() + (t * l.batch + n) * l.in_channels * l.pixels(), l.in_channels,
                  in.weight_x.data() + row * l.in_channels * l.taps(), y, x) +
         convolve(l, state.data() + n * l.channels * l.pixels(), l.channels,
                  in.weight_h.data() + row * l.channels * l.taps(), y, x);
}

Values plain_forward(const Case& c, const Inputs& in) {
  const Layer& l = c.layer;
  Values output(l.sequence()), h = in.h_0.empty() ? Values(l.state(), 0) : in.h_0, z(l.state()), reset(l.state());
  const auto for_each = [&](const auto& body) {
    for (int64_t at = 0; at < l.state(); ++at)
      body(at, at / (l.channels * l.pixels()), at / l.pixels() % l.channels, at % l.pixels());
  };
  for (int64_t step = 0; step < l.steps; ++step) {
    const int64_t t = l.frame(step);
    for_each([&](int64_t at, int64_t n, int64_t channel, int64_t pixel) {
      double r = pre_activation(c, in, pdb::kGateR, t, h, n, channel, pixel);
      z[at] = pre_activation(c, in, pdb::kGateZ, t, h, n, channel, pixel);
      reset[at] = pdb::gru_reset(r, z[at], h[at]);
    });
    for_each([&](int64_t at, int64_t n, int64_t channel, int64_t pixel) {
      double candidate = pre_activation(c, in, pdb::kGateN, t, reset, n, channel, pixel);
      output[t * l.state() + at] = pdb::gru_update(candidate, z[at], h[at]);
    });
    std::copy_n(output.data() + t * l.state(), l.state(), h.data());
  }
  return output;
}

Inputs run_backward(const Case& c, Inputs in, const Outputs& out, const Values& grad_output) {
  const Layer& l = c.layer;
  Inputs grads = in;
  for (Values* values : grads.all()) std::fill(values->begin(), values->end(), std::nan(""));  // all must be written
  gru_backward<double>(
      l,
      {frames(l, grad_output, l.channels), frames(l, in.x, l.in_channels), in.weight_x.data(), in.weight_h.data(),
       data_or_null(in.h_0), out.output.data(), out.gates.data(), grads.x.data(), grads.weight_x.data(),
       grads.weight_h.data(), grads.bias.data(), grads.h_0.empty() ? nullptr : grads.h_0.data()},
      threads(c.threads));
  return grads;
}

void test(const Case& c) {
  Inputs in = Inputs::random(c);
  const Outputs out = run_forward(c, in, true);
  const Values plain = plain_forward(c, in);
  for (size_t i = 0; i < plain.size(); ++i) expect_near("output", out.output[i], plain[i], 1e-12);
  if (run_forward(c, in, false).output != out.output) expect_near("saving changes the result", 1, 0, 0);

  const Values grad_output = normal(out.output.size(), 1);
  Inputs grads = run_backward(c, in, out, grad_output), direction = Inputs::random(c);
  for (size_t i = 0; i < in.all().size(); ++i) {  // one input at a time
    if (in.all()[i]->empty()) continue;
    constexpr double kStep = 1e-5;
    Inputs plus = in, minus = in;
    for (size_t j = 0; j < in.all()[i]->size(); ++j) {
      (*plus.all()[i])[j] += kStep * (*direction.all()[i])[j];
      (*minus.all()[i])[j] -= kStep * (*direction.all()[i])[j];
    }
    const double ahead = dot(run_forward(c, plus, false).output, grad_output),
                 behind = dot(run_forward(c, minus, false).output, grad_output);
    const double expected = (ahead - behind) / (2 * kStep);
    expect_near("derivative", dot(*grads.all()[i], *direction.all()[i]), expected, 1e-6 * (1 + std::abs(expected)));
  }
}

}  // namespace

int main() {
  const Case cases[] = {
      // T, N, Cin, C, H, W, k, dilation, reverse
      {{1, 1, 1, 1, 1, 1, 1, 1, false}, false, 1},
      {{3, 2, 3, 5, 7, 6, 3, 1, false}, true, 2},
      {{2, 1, 2, 3, 5, 9, 5, 2, true}, true, 1},
      {{2, 2, 4, 3, 4, 5, 3, 5, true}, false, 2},      // only the centre tap stays inside
      {{2, 1, 16, 17, 9, 14, 3, 1, false}, true, 2},   // Winograd, a tile hangs over
      {{3, 2, 18, 16, 16, 15, 3, 2, true}, false, 1},  // Winograd, dilated
      {{2, 1, 33, 20, 16, 16, 5, 1, false}, true, 2},  // Winograd, a window in parts
      {{2, 2, 18, 16, 4, 7, 5, 2, true}, true, 3},     // by rows
      {{2, 2, 18, 16, 4, 7, 5, 1, false}, false, 2},   // by rows, no state
  };
  for (const Case& c : cases) test(c);
  std::printf("%d layers: passed\n", static_cast<int>(std::size(cases)));
}
