// The cell kernels of one instruction set against cell.h in double precision, and the tanh of Eq. 5.
#pragma once

#include "cell.h"
#include "checks.h"
#include "cpu/kernels/kernels.h"

using namespace pdb::cpu;

// Both cell kernels against cell.h in double, one scalar at a time.
template <class T>
void test_cell(const Kernels<T>& kernel, int64_t pixels, int64_t C, bool with_peephole, bool current,
               bool with_previous) {
  // The strip visits the pixels backwards, its pre-activations have a gap, and the frame a border of one pixel.
  std::vector<int64_t> pixel, slot, position;
  for (int64_t p = 0; p < pixels; ++p)
    pixel.push_back(pixels - 1 - p), slot.push_back(p < 2 ? p : p + 1), position.push_back(pixels - p);
  const auto pre = normal<T>((pixels + 1) * (4 * C + 3), 2);
  auto overwritten = pre;
  const auto peephole = normal<T>(3 * pixels * C), c_0 = normal<T>(pixels * C);
  const auto dh = normal<T>(pixels * C), dc_n = normal<T>(pixels * C);
  std::vector<T> c(pixels * C), h((pixels + 1) * (C + 2)), gates(pixels * 4 * C), dgates((pixels + 1) * 4 * C),
      dpeephole(3 * pixels * C, T(1));
  CellForward<T> forward;
  forward.pixels = pixels, forward.channels = C, forward.peephole_current = current;
  forward.pixel = pixel.data(), forward.slot = slot.data(), forward.position = position.data();
  forward.peephole = with_peephole ? peephole.data() : nullptr, forward.peephole_stride = pixels * C;
  forward.c_previous = with_previous ? c_0.data() : nullptr;
  forward.gates = overwritten.data(), forward.gates_stride = 4 * C + 3;
  forward.c = c.data(), forward.h = h.data(), forward.h_stride = C + 2, forward.saved_gates = gates.data();
  kernel.cell_forward(forward);
  std::vector<T> dc = dc_n;
  CellBackward<T> backward;
  static_cast<CellStrip<T>&>(backward) = forward;
  backward.saved_gates = gates.data(), backward.c = c.data(), backward.dh = dh.data(), backward.dc = dc.data();
  backward.dgates = dgates.data(), backward.dpeephole = with_peephole ? dpeephole.data() : nullptr;
  kernel.cell_backward(backward);

  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t channel = 0; channel < C; ++channel) {
      const int64_t at = pixel[p] * C + channel;
      const auto before = [&](int g) { return double(pre[slot[p] * (4 * C + 3) + g * C + channel]); };
      const auto saved = [&](int g) { return double(gates[(pixel[p] * 4 + g) * C + channel]); };
      const auto gradient = [&](int g) { return double(dgates[(position[p] * 4 + g) * C + channel]); };
      pdb::Gates<double> g{before(0), before(1), before(2), before(3)};
      pdb::Peephole<double> w{0, 0, 0};
      if (with_peephole) w = {peephole[at], peephole[pixels * C + at], peephole[2 * pixels * C + at]};
      const double previous = with_previous ? double(c_0[at]) : 0;
      double c_t, h_t, dc_t = dc_n[at];
      pdb::cell_forward(g, w, previous, current, c_t, h_t);
      expect_near<T>("c", kernel.name, c[at], c_t, 4);
      expect_near<T>("h", kernel.name, h[position[p] * (C + 2) + channel], h_t, 4);
      expect_near<T>("saved o", kernel.name, saved(2), g.o, 4);
      pdb::Gates<double> d;
      pdb::cell_backward(g, w, previous, c_t, current, double(dh[at]), dc_t, d);
      expect_near<T>("dc", kernel.name, dc[at], dc_t, 16);
      expect_near<T>("di", kernel.name, gradient(0), d.i, 16);
      expect_near<T>("df", kernel.name, gradient(1), d.f, 16);
      expect_near<T>("do", kernel.name, gradient(2), d.o, 16);
      expect_near<T>("dg", kernel.name, gradient(3), d.g, 16);
      if (!with_peephole) continue;
      expect_near<T>("dPo", kernel.name, dpeephole[2 * pixels * C + at], 1 + d.o * (current ? c_t : previous), 32);
      expect_near<T>("dPi", kernel.name, dpeephole[at], 1 + d.i * previous, 32);
    }
}

// The activations of one pixel and channel, from its pre-activations in packed order.
template <class T>
std::vector<T> activate(const Kernels<T>& kernel, std::vector<T> pre) {
  const int64_t zero = 0;
  T c, h;
  std::vector<T> gates(4);
  CellForward<T> strip{};
  strip.pixels = strip.channels = 1;
  strip.pixel = strip.slot = strip.position = &zero;
  strip.gates = pre.data(), strip.gates_stride = 4;
  strip.c = &c, strip.h = &h, strip.h_stride = 1, strip.saved_gates = gates.data();
  kernel.cell_forward(strip);
  return gates;
}

// sigmoid and tanh through the cell: i = sigmoid(x), g = tanh(x), relative to the value itself, from tiny to saturated.
template <class T>
void test_activations(const Kernels<T>& kernel) {
  for (double x = -120; x <= 120; x += 0.00731)
    for (const double value : {x, x * 1e-3, x * 1e-9}) {
      const std::vector<T> gates = activate<T>(kernel, {T(value), T(0), T(0), T(value)});
      const double exact = T(value), sigmoid = 1 / (1 + std::exp(-exact)), tanh = std::tanh(exact);
      // exp(-x) is clamped where float32's sigmoid leaves the normal numbers.
      expect_near<T>("sigmoid", kernel.name, gates[0], sigmoid, sigmoid / 8 + 1e-30);
      expect_near<T>("tanh", kernel.name, gates[3], tanh, std::abs(tanh) / 8);
    }
  const T nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
  const std::vector<T> gates = activate<T>(kernel, {nan, infinity, -infinity, -infinity});
  if (!std::isnan(gates[0])) fail("sigmoid(nan)", kernel.name, gates[0], nan);
  if (gates[1] != 1) fail("sigmoid(inf)", kernel.name, gates[1], 1);
  if (!(gates[2] < 1e-30)) fail("sigmoid(-inf)", kernel.name, gates[2], 0);
  if (gates[3] != -1) fail("tanh(-inf)", kernel.name, gates[3], -1);
}

template <class T>
void test_tanh(const Kernels<T>& kernel, int64_t C) {
  const int64_t stride = C + 3, slot[3] = {4, 0, 2}, pixel[3] = {1, 2, 0};
  const auto sums = normal<T>(4 * stride + C);
  std::vector<T> to(3 * C, std::numeric_limits<T>::quiet_NaN());
  kernel.tanh(sums.data(), stride, slot, pixel, 3, C, to.data());
  for (int64_t p = 0; p < 3; ++p)
    for (int64_t i = 0; i < C; ++i)
      expect_near<T>("tanh of a strip", kernel.name, to[pixel[p] * C + i],
                     std::tanh(double(sums[slot[p] * stride + i])), 4);
}
