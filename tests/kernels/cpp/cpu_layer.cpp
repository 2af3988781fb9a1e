// The whole CPU layer without torch: forward against plain loops, backward against finite differences along random
// directions; and the merge of two, against plain loops. Meant for AddressSanitizer and UBSan: every array is exactly
// as large as cpu/layer.h says.
#include "cell.h"
#include "plain.h"

using pdb::PeepholeWeights;

namespace {

struct Case {
  Layer layer;
  bool peephole, state;
  int threads;
};

// Everything that forward reads; also used for a direction in the space of all inputs, and for a gradient.
struct Inputs {
  Values x, weight_x, weight_h, bias, peephole, h_0, c_0;

  static Inputs random(const Case& c) {
    const Layer& l = c.layer;
    const int64_t area = l.kernel * l.kernel, pixels = l.height * l.width, state = l.batch * l.channels * pixels;
    return {normal(l.steps * l.batch * l.in_channels * pixels, 1),
            normal(4 * l.channels * l.in_channels * area, std::pow(l.in_channels * area, -0.5)),
            normal(4 * l.channels * l.channels * area, std::pow(l.channels * area, -0.5)),
            normal(4 * l.channels, 0.5),
            normal(c.peephole ? 3 * l.channels * pixels : 0, 0.5),
            normal(c.state ? state : 0, 0.5),
            normal(c.state ? state : 0, 0.5)};
  }
  std::vector<Values*> all() { return {&x, &weight_x, &weight_h, &bias, &peephole, &h_0, &c_0}; }
};

struct Outputs {
  Values output, c_n, gates, cells;
};

PeepholeWeights<double> peephole(const Case& c, const Inputs& in) {
  const int64_t pixels = c.layer.height * c.layer.width;
  return {data_or_null(in.peephole), c.layer.channels * pixels, pixels, c.layer.width, 1};
}

Outputs run_forward(const Case& c, const Inputs& in, bool save) {
  const Layer& l = c.layer;
  const int64_t state = l.batch * l.channels * l.height * l.width;
  Outputs out{Values(l.steps * state), Values(state), Values(save ? 4 * l.steps * state : 0),
              Values(save ? l.steps * state : 0)};
  forward<double>(l,
                  {frames(c.layer, in.x, l.in_channels), in.weight_x.data(), in.weight_h.data(), in.bias.data(),
                   peephole(c, in), data_or_null(in.h_0), data_or_null(in.c_0), out.output.data(), out.c_n.data(),
                   save ? out.gates.data() : nullptr, save ? out.cells.data() : nullptr},
                  threads(c.threads));
  return out;
}

Outputs plain_forward(const Case& c, const Inputs& in) {
  const Layer& l = c.layer;
  const int64_t pixels = l.height * l.width, picture = l.channels * pixels, state = l.batch * picture;
  const int64_t area = l.kernel * l.kernel;
  Outputs out{Values(l.steps * state), in.c_0.empty() ? Values(state, 0) : in.c_0, {}, {}};
  Values h = in.h_0.empty() ? Values(state, 0) : in.h_0;
  for (int64_t step = 0; step < l.steps; ++step) {
    const int64_t t = l.reverse ? l.steps - 1 - step : step;
    Values next(state);
    for (int64_t n = 0; n < l.batch; ++n)
      for (int64_t channel = 0; channel < l.channels; ++channel)
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
          const int64_t at = n * picture + channel * pixels + pixel, in_picture = channel * pixels + pixel;
          double pre[4];
          for (int gate = 0; gate < 4; ++gate) {
            const int64_t row = gate * l.channels + channel;
            pre[gate] = in.bias[row] +
                        convolve(l, in.x.data() + (t * l.batch + n) * l.in_channels * pixels, l.in_channels,
                                 in.weight_x.data() + row * l.in_channels * area, pixel / l.width, pixel % l.width) +
                        convolve(l, h.data() + n * picture, l.channels, in.weight_h.data() + row * l.channels * area,
                                 pixel / l.width, pixel % l.width);
          }
          pdb::Gates<double> gates{pre[0], pre[1], pre[2], pre[3]};
          pdb::Peephole<double> weights{0, 0, 0};
          if (c.peephole)
            weights = {in.peephole[in_picture], in.peephole[picture + in_picture],
                       in.peephole[2 * picture + in_picture]};
          double c_t;
          pdb::cell_forward(gates, weights, out.c_n[at], l.peephole_current, c_t, next[at]);
          out.c_n[at] = c_t;
          out.output[t * state + at] = next[at];
        }
    h = next;
  }
  return out;
}

// without: the position among all inputs of one whose gradient is not wanted, and stays NaN.
Inputs run_backward(const Case& c, Inputs in, const Outputs& out, const Values& grad_output, const Values& grad_c_n,
                    bool recompute = false, int without = -1) {
  const Layer& l = c.layer;
  Inputs grads = in;
  for (Values* values : grads.all()) std::fill(values->begin(), values->end(), std::nan(""));  // all must be written
  const auto pointer = [&](Values& values) {
    return values.empty() || (without >= 0 && &values == grads.all()[without]) ? nullptr : values.data();
  };
  backward<double>(l,
                   {frames(c.layer, grad_output, l.channels), grad_c_n.data(), frames(c.layer, in.x, l.in_channels),
                    in.weight_x.data(), in.weight_h.data(), in.bias.data(), peephole(c, in), data_or_null(in.h_0),
                    data_or_null(in.c_0), out.output.data(), recompute ? nullptr : out.gates.data(), out.cells.data(),
                    pointer(grads.x), pointer(grads.weight_x), pointer(grads.weight_h), pointer(grads.bias),
                    pointer(grads.peephole), pointer(grads.h_0), pointer(grads.c_0)},
                   threads(c.threads));
  return grads;
}

void test(const Case& c) {
  Inputs in = Inputs::random(c);
  const Outputs out = run_forward(c, in, true), inference = run_forward(c, in, false), plain = plain_forward(c, in);
  for (size_t i = 0; i < plain.output.size(); ++i) expect_near("output", out.output[i], plain.output[i], 1e-12);
  for (size_t i = 0; i < plain.c_n.size(); ++i) expect_near("c_n", out.c_n[i], plain.c_n[i], 1e-12);
  if (inference.output != out.output || inference.c_n != out.c_n) expect_near("saving changes the result", 1, 0, 0);

  const Values grad_output = normal(out.output.size(), 1), grad_c_n = normal(out.c_n.size(), 1);
  Inputs grads = run_backward(c, in, out, grad_output, grad_c_n);
  Inputs recomputed = run_backward(c, in, out, grad_output, grad_c_n, /*recompute=*/true);
  for (size_t i = 0; i < in.all().size(); ++i)
    if (*recomputed.all()[i] != *grads.all()[i]) expect_near("gates computed again change the gradients", 1, 0, 0);
  for (int without = 0; without < static_cast<int>(in.all().size()); ++without) {
    Inputs others = run_backward(c, in, out, grad_output, grad_c_n, false, without);
    for (int i = 0; i < static_cast<int>(in.all().size()); ++i)
      if (i != without && *others.all()[i] != *grads.all()[i])
        expect_near("a gradient that is not wanted changes another", without, i, 0);
  }
  const auto loss = [&](const Inputs& at) {
    const Outputs result = run_forward(c, at, false);
    return dot(result.output, grad_output) + dot(result.c_n, grad_c_n);
  };
  Inputs direction = Inputs::random(c);
  for (size_t i = 0; i < in.all().size(); ++i) {  // one input at a time
    if (in.all()[i]->empty()) continue;
    constexpr double kStep = 1e-5;
    Inputs plus = in, minus = in;
    for (size_t j = 0; j < in.all()[i]->size(); ++j) {
      (*plus.all()[i])[j] += kStep * (*direction.all()[i])[j];
      (*minus.all()[i])[j] -= kStep * (*direction.all()[i])[j];
    }
    const double expected = (loss(plus) - loss(minus)) / (2 * kStep);
    expect_near("derivative", dot(*grads.all()[i], *direction.all()[i]), expected, 1e-6 * (1 + std::abs(expected)));
  }
}

// Eq. 5, with the case's sizes and C channels on both sides.
void test_merge(Case c) {
  c.layer.in_channels = c.layer.channels;
  const Layer& l = c.layer;
  const int64_t pixels = l.height * l.width, weight = l.channels * l.kernel * l.kernel, frame = l.channels * pixels;
  const Values h_f = normal(l.steps * l.batch * frame, 1), h_b = normal(h_f.size(), 1);
  const Values weight_f = normal(l.channels * weight, std::pow(2 * weight, -0.5)),
               weight_b = normal(weight_f.size(), std::pow(2 * weight, -0.5));
  const Values bias = normal(c.state ? l.channels : 0, 0.5);
  Values output(h_f.size(), std::nan(""));
  merge<double>(l,
                {frames(c.layer, h_f, l.channels), frames(c.layer, h_b, l.channels), weight_f.data(), weight_b.data(),
                 data_or_null(bias), output.data()},
                threads(c.threads));
  for (int64_t at = 0; at < static_cast<int64_t>(output.size()); ++at) {
    const int64_t picture = at / frame, row = at / pixels % l.channels, y = at % pixels / l.width, x = at % l.width;
    const double sum = convolve(l, h_f.data() + picture * frame, l.channels, weight_f.data() + row * weight, y, x) +
                       convolve(l, h_b.data() + picture * frame, l.channels, weight_b.data() + row * weight, y, x);
    expect_near("merged", output[at], std::tanh(sum + (bias.empty() ? 0 : bias[row])), 1e-12);
  }
}

}  // namespace

int main() {
  const Case cases[] = {
      // T, N, Cin, C, H, W, k, dilation, reverse, current
      {{1, 1, 1, 1, 1, 1, 1, 1, false, false}, false, false, 1},
      {{3, 2, 3, 5, 7, 6, 3, 1, false, false}, true, true, 2},
      {{2, 1, 2, 3, 5, 9, 5, 2, true, true}, true, true, 1},
      {{2, 2, 4, 3, 4, 5, 3, 5, true, false}, false, false, 2},       // only the centre tap stays inside
      {{2, 1, 16, 17, 9, 14, 3, 1, false, true}, true, true, 2},      // Winograd, a tile hangs over
      {{3, 2, 18, 16, 16, 15, 3, 2, true, false}, true, false, 1},    // Winograd, dilated
      {{2, 1, 33, 20, 11, 12, 3, 3, false, false}, false, true, 2},   // Winograd, more tiles than one strip holds
      {{2, 1, 16, 17, 15, 18, 7, 1, false, false}, false, true, 2},   // Winograd, a window in parts
      {{2, 2, 18, 16, 4, 7, 5, 1, true, true}, true, true, 3},        // by rows
      {{1, 2, 16, 16, 5, 4, 7, 2, false, false}, false, true, 3},     // by rows, the weights' gradients at once
      {{2, 1, 40, 44, 4, 4, 7, 1, false, false}, false, false, 2},    // by rows, more channels than a unit has
      {{2, 1, 130, 126, 2, 5, 3, 1, false, false}, false, true, 2},   // by rows, many channels
      {{2, 1, 16, 17, 23, 24, 5, 1, false, false}, false, false, 2},  // Winograd in parts, their gradients, too
      {{1, 2, 18, 4, 6, 5, 3, 1, false, false}, false, false, 5},     // no h; more threads than units
      {{2, 1, 3, 18, 5, 4, 1, 1, false, false}, true, true, 2},       // blocks of rows that no unit size divides
  };
  for (const Case& c : cases) test(c), test_merge(c);
  std::printf("%d layers and their merges: passed\n", static_cast<int>(std::size(cases)));
}
