// The CPU kernels against plain loops in double precision, over awkward sizes. Meant for AddressSanitizer and UBSan: all
// buffers are exactly as large as the kernels' contract says.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "cpu/strips.h"
#include "cpu/winograd.h"

// 64-byte vectors for the compiler's baseline processor: the compiler splits them, so that the tile shape of AVX-512 is
// tested where there is none.
#define PDB_ISA wide
#define PDB_VECTOR_BYTES 64
#include "cpu/kernels/kernels_impl.h"

namespace pdb::cpu::generic {
template <class T>
const Kernels<T>& table();
}

using namespace pdb::cpu;

namespace {

std::mt19937 generator(0);

template <class T>
std::vector<T> normal(int64_t size, double scale = 1) {
  std::normal_distribution<double> distribution(0, scale);
  std::vector<T> values(size);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

void fail(const char* what, const char* isa, double got, double expected) {
  std::printf("%s (%s): got %.9g, expected %.9g\n", what, isa, got, expected);
  std::exit(1);
}

template <class T>
void expect_near(const char* what, const char* isa, double got, double expected, double scale) {
  const double tolerance = 32 * std::numeric_limits<T>::epsilon() * scale;
  if (!(std::abs(got - expected) <= tolerance)) fail(what, isa, got, expected);
}

// Every variant that this processor can run.
template <class T>
std::vector<const Kernels<T>*> tables() {
  std::vector<const Kernels<T>*> all = {&generic::table<T>(), &wide::table<T>()};
  if (&kernels<T>() != all[0]) all.push_back(&kernels<T>());
  return all;
}

struct Case {
  int64_t height, width, kernel_size, dilation, channels, rows, batch;
};
const Case kCases[] = {{1, 1, 3, 1, 1, 4, 1},   {7, 6, 3, 1, 3, 20, 2},  {9, 13, 5, 2, 5, 36, 1}, {13, 5, 3, 4, 17, 8, 3},
                       {5, 70, 3, 2, 33, 64, 1},
                       {8, 9, 1, 3, 40, 12, 2}, {3, 4, 7, 1, 2, 128, 1}, {17, 11, 3, 2, 9, 20, 2}};

template <class T>
std::vector<T> random_frames(const Case& c, const Grid& grid, int64_t channels, int64_t extra) {
  std::vector<T> frames(c.batch * grid.frame_pixels() * channels + extra, T(0));
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel)
      for (int64_t channel = 0; channel < channels; ++channel)
        frames[(n * grid.frame_pixels() + grid.position(pixel)) * channels + channel] = normal<T>(1)[0];
  return frames;
}

// Calls body(pixel, other) for every pixel and the one under the tap (ky, kx), if that lies in the picture.
template <class Body>
void for_each_pair(const Case& c, int64_t ky, int64_t kx, Body body) {
  const int64_t dy = (ky - c.kernel_size / 2) * c.dilation, dx = (kx - c.kernel_size / 2) * c.dilation;
  for (int64_t y = 0; y < c.height; ++y)
    for (int64_t x = 0; x < c.width; ++x)
      if (y + dy >= 0 && y + dy < c.height && x + dx >= 0 && x + dx < c.width)
        body(y * c.width + x, (y + dy) * c.width + x + dx);
}

// Sums over taps and the first `channels` channels, straight from the definition: [pixel][row].
template <class T>
std::vector<double> convolution(const Case& c, const Grid& grid, const std::vector<T>& frame, const std::vector<T>& weight,
                                int64_t channels) {
  const int64_t k = c.kernel_size;
  std::vector<double> sums(grid.pixels() * c.rows, 0);
  for (int64_t tap = 0; tap < k * k; ++tap)
    for_each_pair(c, tap / k, tap % k, [&](int64_t pixel, int64_t other) {
      for (int64_t row = 0; row < c.rows; ++row)
        for (int64_t channel = 0; channel < channels; ++channel)
          sums[pixel * c.rows + row] += double(frame[grid.position(other) * c.channels + channel]) *
                                        weight[(row * c.channels + channel) * k * k + tap];
    });
  return sums;
}

// Both forms of the convolution, over all channels and over the first few, and all strips.
template <class T>
void test_convolutions(const Kernels<T>& kernel, const Case& c) {
  const Window window(c.height, c.width, c.kernel_size, c.dilation);
  const int64_t area = c.kernel_size * c.kernel_size, block = kernel.row_block, padded = round_up(c.rows, block);
  const auto weight = normal<T>(c.rows * c.channels * area, 1 / std::sqrt(double(c.channels * area)));
  const auto init = normal<T>(padded);
  const FilterStrides strides{c.channels * area, area};
  for (const bool winograd : {false, true}) {
    if (winograd && c.kernel_size != 3) continue;
    const Grid grid{c.height, c.width, (winograd ? 2 : window.reach_y) * c.dilation, (winograd ? 2 : window.reach_x) * c.dilation};
    const Strips strips = winograd ? Strips::tiled(grid, c.dilation) : Strips::rows(grid);
    const auto frame = random_frames<T>({c.height, c.width, 0, 0, 0, 0, 1}, grid, c.channels, 0);
    const auto offsets = window.offsets(grid, 1);
    std::vector<T> packed(padded * c.channels * (winograd ? 16 : window.size())), out(kStripSlots * padded);
    std::vector<T> scratch(winograd_scratch(c.channels));
    if (winograd)
      for (int64_t row = 0; row < c.rows; row += block)
        pack_winograd_block(weight.data(), strides, false, row, c.rows, c.channels, block, packed.data() + row * 16 * c.channels);
    else
      pack_weight(weight.data(), strides, c.rows, c.channels, window.taps(), block, packed.data());
    for (const int64_t channels : {c.channels, (c.channels + 1) / 2}) {
      const auto expected = convolution(c, grid, frame, weight, channels);
      const Source<T> source{frame.data(), c.channels, channels};
      int64_t seen = 0;
      for (int64_t strip = 0; strip < strips.size(); ++strip) {
        const int64_t first = strips.begin[strip];
        if (winograd)
          kernel.winograd({packed.data(), c.channels, padded, c.dilation * grid.pitch(), c.dilation}, source,
                          strips.corner.data() + strip * kStripTiles, strips.tiles(strip), init.data(), scratch.data(), out.data());
        else
          kernel.convolve({packed.data(), offsets.data(), window.size(), c.channels, padded}, source,
                          strips.position.data() + first, strips.pixels(strip), init.data(), out.data());
        for (int64_t p = 0; p < strips.pixels(strip); ++p, ++seen)
          for (int64_t row = 0; row < c.rows; ++row)
            expect_near<T>(winograd ? "winograd" : "convolve", kernel.name, out[strips.slot[first + p] * padded + row],
                           init[row] + expected[strips.pixel[first + p] * c.rows + row], 8);
      }
      if (seen != grid.pixels()) fail("strips cover the picture", kernel.name, seen, grid.pixels());
    }
  }
}

template <class T>
void test_gradients(const Kernels<T>& kernel, const Case& c) {
  const Window window(c.height, c.width, c.kernel_size, c.dilation);
  const Grid grid{c.height, c.width, 2 * c.kernel_size * c.dilation, 2 * c.kernel_size * c.dilation};
  const int64_t k = c.kernel_size, block = kernel.row_block, padded = round_up(c.rows, block);
  const auto source = random_frames<T>(c, grid, c.channels, 0);
  const auto dgates = random_frames<T>(c, grid, c.rows, kMaxRowBlock);
  std::vector<double> expected(c.rows * c.channels * k * k, 0), expected_bias(c.rows, 0);
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t row = 0; row < c.rows; ++row) {
      const auto at = [&](int64_t pixel) { return n * grid.frame_pixels() + grid.position(pixel); };
      for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel) expected_bias[row] += dgates[at(pixel) * c.rows + row];
      for (int64_t tap = 0; tap < k * k; ++tap)
        for_each_pair(c, tap / k, tap % k, [&](int64_t pixel, int64_t other) {
          for (int64_t channel = 0; channel < c.channels; ++channel)
            expected[(row * c.channels + channel) * k * k + tap] +=
                double(dgates[at(pixel) * c.rows + row]) * source[at(other) * c.channels + channel];
        });
    }
  const double scale = std::sqrt(double(c.batch * grid.pixels())) * 8;
  const auto compare = [&](const char* what, const std::vector<T>& weight) {
    for (size_t i = 0; i < expected.size(); ++i) expect_near<T>(what, kernel.name, weight[i], expected[i], scale);
  };
  const FilterStrides strides{c.channels * k * k, k * k};

  std::vector<T> weight(expected.size(), T(0)), packed(padded * window.size() * c.channels, T(0)), bias(padded, T(0));
  const auto offsets = window.offsets(grid, 1);
  for (int64_t row = 0; row < c.rows; row += block)
    for (int64_t n = 0; n < c.batch; ++n)
      for (int64_t y = 0; y < c.height; ++y) {
        const int64_t at = n * grid.frame_pixels() + grid.position(y, 0);
        const T* from = dgates.data() + at * c.rows + row;
        kernel.bias_gradient(from, c.rows, c.width, bias.data() + row);
        for (int64_t tap = 0; tap < window.size(); ++tap)
          kernel.weight_gradient({source.data() + (at + offsets[tap]) * c.channels, c.channels, c.channels}, from, c.rows,
                                 c.width, 1, grid.pitch(), packed.data() + (row * window.size() + tap * block) * c.channels);
      }
  unpack_weight(packed.data(), strides, c.rows, c.channels, window.taps(), block, weight.data());
  compare("weight_gradient", weight);
  for (int64_t row = 0; row < c.rows; ++row) expect_near<T>("bias_gradient", kernel.name, bias[row], expected_bias[row], scale);

  if (k != 3) return;
  const Strips strips = Strips::tiled(grid, c.dilation);
  const WinogradConvolution<T> convolution{nullptr, c.channels, padded, c.dilation * grid.pitch(), c.dilation};
  std::vector<T> transformed(padded * 16 * c.channels, T(0)), scratch(winograd_gradient_scratch(c.channels, padded / block));
  for (int64_t n = 0; n < c.batch; ++n)
    for (int line = 0; line < 4; ++line)
      kernel.winograd_weight_gradient(convolution, {source.data() + n * grid.frame_pixels() * c.channels, c.channels, c.channels},
                                      strips.corner.data(), {dgates.data() + n * grid.frame_pixels() * c.rows, c.rows, c.rows},
                                      strips.first.data(), static_cast<int64_t>(strips.first.size()), line, 0, padded / block,
                                      scratch.data(), transformed.data());
  for (int64_t row = 0; row < c.rows; row += block)
    unpack_winograd_block(transformed.data() + row * 16 * c.channels, strides, row, c.rows, c.channels, block, weight.data());
  compare("winograd_weight_gradient", weight);
}

// Both cell kernels against cell.h in double, one scalar at a time.
template <class T>
void test_cell(const Kernels<T>& kernel, int64_t pixels, int64_t C, bool with_peephole, bool current, bool with_previous) {
  // The strip visits the pixels backwards, its pre-activations have a gap, and the frame a border of one pixel.
  std::vector<int64_t> pixel, slot, position;
  for (int64_t p = 0; p < pixels; ++p)
    pixel.push_back(pixels - 1 - p), slot.push_back(p < 2 ? p : p + 1), position.push_back(pixels - p);
  const auto pre = normal<T>((pixels + 1) * (4 * C + 3), 2);
  auto overwritten = pre;
  const auto peephole = normal<T>(3 * pixels * C), c_0 = normal<T>(pixels * C);
  const auto dh = normal<T>(pixels * C), dc_n = normal<T>(pixels * C);
  std::vector<T> c(pixels * C), h((pixels + 1) * (C + 2)), gates(pixels * 4 * C), dgates((pixels + 1) * 4 * C), dpeephole(3 * pixels * C, T(1));
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

// sigmoid and tanh through the cell: i = sigmoid(x), g = tanh(x), relative to the value itself, from tiny to saturated.
template <class T>
void test_activations(const Kernels<T>& kernel) {
  const int64_t zero = 0;
  for (double x = -120; x <= 120; x += 0.00731) {
    for (const double value : {x, x * 1e-3, x * 1e-9}) {
      T pre[4] = {T(value), T(0), T(0), T(value)}, c, h, gates[4];
      CellForward<T> strip;
      strip.pixels = strip.channels = 1, strip.pixel = strip.slot = strip.position = &zero, strip.peephole_current = false, strip.peephole = strip.c_previous = nullptr;
      strip.gates = pre, strip.gates_stride = 4, strip.c = &c, strip.h = &h, strip.h_stride = 1, strip.saved_gates = gates;
      kernel.cell_forward(strip);
      const double t = T(value), sigmoid = 1 / (1 + std::exp(-t)), tanh = std::tanh(t);
      // exp(-x) is clamped where float32's sigmoid leaves the normal numbers.
      expect_near<T>("sigmoid", kernel.name, gates[0], sigmoid, sigmoid / 8 + 1e-30);
      expect_near<T>("tanh", kernel.name, gates[3], tanh, std::abs(tanh) / 8);
    }
  }
  const T nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
  T pre[4] = {nan, infinity, -infinity, -infinity}, c, h, gates[4];
  CellForward<T> strip;
  strip.pixels = strip.channels = 1, strip.pixel = strip.slot = strip.position = &zero, strip.peephole_current = false, strip.peephole = strip.c_previous = nullptr;
  strip.gates = pre, strip.gates_stride = 4, strip.c = &c, strip.h = &h, strip.h_stride = 1, strip.saved_gates = gates;
  kernel.cell_forward(strip);
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
      expect_near<T>("tanh of a strip", kernel.name, to[pixel[p] * C + i], std::tanh(double(sums[slot[p] * stride + i])), 4);
}

template <class T>
void test_transpose(const Kernels<T>& kernel) {
  for (const int64_t rows : {1, 3, 16, 21, 60})
    for (const int64_t columns : {1, 5, 8, 33}) {
      const auto from = normal<T>((rows - 1) * (columns + 1) + columns);
      std::vector<T> to((columns - 1) * (rows + 2) + rows, T(0));
      kernel.transpose(from.data(), columns + 1, rows, columns, to.data(), rows + 2);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          if (to[c * (rows + 2) + r] != from[r * (columns + 1) + c]) fail("transpose", kernel.name, r, c);
      for (int64_t c = 0; c + 1 < columns; ++c)
        if (to[c * (rows + 2) + rows] != 0) fail("transpose writes beside the matrix", kernel.name, rows, c);
    }
}

template <class T>
void test_all() {
  for (const Kernels<T>* kernel : tables<T>()) {
    for (const Case& c : kCases) {
      test_convolutions(*kernel, c);
      test_gradients(*kernel, c);
    }
    for (const int64_t C : {1, 3, 8, 19, 32})
      for (int flags = 0; flags < 8; ++flags) test_cell(*kernel, 5, C, flags & 1, flags & 2, flags & 4);
    test_activations(*kernel);
    for (const int64_t C : {1, 8, 19}) test_tanh(*kernel, C);
    test_transpose(*kernel);
    std::printf("%s, %d bytes: passed\n", kernel->name, static_cast<int>(sizeof(T)));
  }
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
}
