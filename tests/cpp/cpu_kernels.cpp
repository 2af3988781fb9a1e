// The CPU kernels against plain loops in double precision, over awkward sizes. Meant for AddressSanitizer and UBSan: all
// buffers are exactly as large as the kernels' contract says.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "cpu/layout.h"

// 64-byte vectors for the compiler's baseline processor: the compiler splits them, so that the tile shape of AVX-512 is
// tested where there is none.
#define PDB_ISA wide
#define PDB_VECTOR_BYTES 64
#include "cpu/kernels_impl.h"

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
                       {5, 70, 3, 2, 33, 64, 1}, {8, 9, 1, 3, 40, 12, 2}, {3, 4, 7, 1, 2, 128, 1}};

template <class T>
std::vector<T> random_frames(const Case& c, const Grid& grid, int64_t channels, int64_t extra) {
  std::vector<T> frames(c.batch * grid.frame_pixels() * channels + extra, T(0));
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel)
      for (int64_t channel = 0; channel < channels; ++channel)
        frames[(n * grid.frame_pixels() + grid.frame_pixel(pixel)) * channels + channel] = normal<T>(1)[0];
  return frames;
}

// Sums over taps and channels at one pixel of the first frame, straight from the definition.
template <class T>
double convolve_at(const Case& c, const Grid& grid, const std::vector<T>& frame, const std::vector<T>& weight, int64_t row,
                   int64_t pixel) {
  const int64_t k = c.kernel_size, y = pixel / c.width, x = pixel % c.width;
  double sum = 0;
  for (int64_t ky = 0; ky < k; ++ky)
    for (int64_t kx = 0; kx < k; ++kx) {
      const int64_t from_y = y + (ky - k / 2) * c.dilation, from_x = x + (kx - k / 2) * c.dilation;
      if (from_y < 0 || from_y >= c.height || from_x < 0 || from_x >= c.width) continue;
      for (int64_t channel = 0; channel < c.channels; ++channel)
        sum += double(frame[grid.frame_pixel(from_y * c.width + from_x) * c.channels + channel]) *
               weight[((row * c.channels + channel) * k + ky) * k + kx];
    }
  return sum;
}

template <class T>
void test_convolve(const Kernels<T>& kernel, const Case& c) {
  const Window window(c.height, c.width, c.kernel_size, c.dilation);
  const int64_t area = c.kernel_size * c.kernel_size, padded = round_up(c.rows, kernel.row_block);
  const auto frames = random_frames<T>(c, window.grid, c.channels, 0);
  const auto weight = normal<T>(c.rows * c.channels * area, 1 / std::sqrt(double(c.channels * area)));
  const auto init = normal<T>(padded);
  std::vector<T> packed(padded * window.size() * c.channels);
  pack_weight(weight.data(), c.rows, c.channels * area, c.channels, area, window.taps, kernel.row_block, packed.data());
  const Convolution<T> convolution{packed.data(), window.offsets.data(), window.size(), c.channels, padded};
  for (int64_t first = 0; first < window.grid.pixels(); first += kStripPixels) {
    const int64_t pixels = std::min(kStripPixels, window.grid.pixels() - first);
    std::vector<const T*> centers(pixels);
    for (int64_t p = 0; p < pixels; ++p)
      centers[p] = frames.data() + window.grid.frame_pixel(first + p) * c.channels;
    std::vector<T> out(pixels * padded);
    kernel.convolve(convolution, centers.data(), pixels, init.data(), out.data());
    kernel.convolve(convolution, centers.data(), pixels, nullptr, out.data());  // adds the same again
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t row = 0; row < c.rows; ++row)
        expect_near<T>("convolve", kernel.name, out[p * padded + row],
                       init[row] + 2 * convolve_at(c, window.grid, frames, weight, row, first + p), 8);
  }
}

template <class T>
void test_gradients(const Kernels<T>& kernel, const Case& c) {
  const Window window(c.height, c.width, c.kernel_size, c.dilation);
  const Grid& grid = window.grid;
  const auto source = random_frames<T>(c, grid, c.channels, 0);
  const auto dgates = random_frames<T>(c, grid, c.rows, kMaxRowBlock);
  const double scale = std::sqrt(double(c.batch * grid.pixels())) * 4;
  for (int64_t row = 0; row < c.rows; row += kernel.row_block) {
    for (const int64_t offset : window.offsets) {
      std::vector<T> dweight(c.channels * kernel.row_block, T(1)), dbias(kernel.row_block, T(1));
      kernel.weight_gradient(grid, c.batch, source.data(), c.channels, offset, dgates.data(), c.rows, row, dweight.data());
      kernel.bias_gradient(grid, c.batch, dgates.data(), c.rows, row, dbias.data());
      for (int64_t r = 0; r < std::min<int64_t>(kernel.row_block, c.rows - row); ++r) {
        double bias = 1;
        std::vector<double> weight(c.channels, 1);
        for (int64_t n = 0; n < c.batch; ++n)
          for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel) {
            const int64_t at = n * grid.frame_pixels() + grid.frame_pixel(pixel);
            const double d = dgates[at * c.rows + row + r];
            bias += d;
            for (int64_t channel = 0; channel < c.channels; ++channel)
              weight[channel] += d * source[(at + offset) * c.channels + channel];
          }
        expect_near<T>("bias_gradient", kernel.name, dbias[r], bias, scale);
        for (int64_t channel = 0; channel < c.channels; ++channel)
          expect_near<T>("weight_gradient", kernel.name, dweight[channel * kernel.row_block + r], weight[channel], scale);
      }
    }
  }
}

// Both cell kernels against cell.h in double, one scalar at a time.
template <class T>
void test_cell(const Kernels<T>& kernel, int64_t pixels, int64_t C, bool with_peephole, bool current, bool with_previous) {
  const auto pre = normal<T>(pixels * (4 * C + 3), 2), peephole = normal<T>(3 * pixels * C), c_0 = normal<T>(pixels * C);
  const auto dh = normal<T>(pixels * C), dc_n = normal<T>(pixels * C);
  std::vector<T> c(pixels * C), h(pixels * C), gates(pixels * 4 * C), dgates(pixels * 4 * C), dpeephole(3 * pixels * C, T(1));
  CellForward<T> forward;
  forward.pixels = pixels, forward.channels = C, forward.peephole_current = current;
  forward.peephole = with_peephole ? peephole.data() : nullptr, forward.peephole_stride = pixels * C;
  forward.c_previous = with_previous ? c_0.data() : nullptr;
  forward.gates = pre.data(), forward.gates_stride = 4 * C + 3;
  forward.c = c.data(), forward.h = h.data(), forward.saved_gates = gates.data();
  kernel.cell_forward(forward);
  std::vector<T> dc = dc_n;
  CellBackward<T> backward;
  static_cast<CellStrip<T>&>(backward) = forward;
  backward.saved_gates = gates.data(), backward.c = c.data(), backward.dh = dh.data(), backward.dc = dc.data();
  backward.dgates = dgates.data(), backward.dpeephole = with_peephole ? dpeephole.data() : nullptr;
  kernel.cell_backward(backward);

  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t channel = 0; channel < C; ++channel) {
      const int64_t at = p * C + channel;
      const auto gate = [&](const std::vector<T>& v, int64_t stride, int g) { return double(v[p * stride + g * C + channel]); };
      pdb::Gates<double> g{gate(pre, 4 * C + 3, 0), gate(pre, 4 * C + 3, 1), gate(pre, 4 * C + 3, 2), gate(pre, 4 * C + 3, 3)};
      pdb::Peephole<double> w{0, 0, 0};
      if (with_peephole) w = {peephole[at], peephole[pixels * C + at], peephole[2 * pixels * C + at]};
      const double previous = with_previous ? double(c_0[at]) : 0;
      double c_t, h_t, dc_t = dc_n[at];
      pdb::cell_forward(g, w, previous, current, c_t, h_t);
      expect_near<T>("c", kernel.name, c[at], c_t, 4);
      expect_near<T>("h", kernel.name, h[at], h_t, 4);
      expect_near<T>("saved o", kernel.name, gate(gates, 4 * C, 2), g.o, 4);
      pdb::Gates<double> d;
      pdb::cell_backward(g, w, previous, c_t, current, double(dh[at]), dc_t, d);
      expect_near<T>("dc", kernel.name, dc[at], dc_t, 16);
      expect_near<T>("di", kernel.name, gate(dgates, 4 * C, 0), d.i, 16);
      expect_near<T>("df", kernel.name, gate(dgates, 4 * C, 1), d.f, 16);
      expect_near<T>("do", kernel.name, gate(dgates, 4 * C, 2), d.o, 16);
      expect_near<T>("dg", kernel.name, gate(dgates, 4 * C, 3), d.g, 16);
      if (!with_peephole) continue;
      expect_near<T>("dPo", kernel.name, dpeephole[2 * pixels * C + at], 1 + d.o * (current ? c_t : previous), 32);
      expect_near<T>("dPi", kernel.name, dpeephole[at], 1 + d.i * previous, 32);
    }
}

// sigmoid and tanh through the cell: i = sigmoid(x), g = tanh(x), relative to the value itself, from tiny to saturated.
template <class T>
void test_activations(const Kernels<T>& kernel) {
  for (double x = -120; x <= 120; x += 0.00731) {
    for (const double value : {x, x * 1e-3, x * 1e-9}) {
      T pre[4] = {T(value), T(0), T(0), T(value)}, c, h, gates[4];
      CellForward<T> strip;
      strip.pixels = strip.channels = 1, strip.peephole_current = false, strip.peephole = strip.c_previous = nullptr;
      strip.gates = pre, strip.gates_stride = 4, strip.c = &c, strip.h = &h, strip.saved_gates = gates;
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
  strip.pixels = strip.channels = 1, strip.peephole_current = false, strip.peephole = strip.c_previous = nullptr;
  strip.gates = pre, strip.gates_stride = 4, strip.c = &c, strip.h = &h, strip.saved_gates = gates;
  kernel.cell_forward(strip);
  if (!std::isnan(gates[0])) fail("sigmoid(nan)", kernel.name, gates[0], nan);
  if (gates[1] != 1) fail("sigmoid(inf)", kernel.name, gates[1], 1);
  if (!(gates[2] < 1e-30)) fail("sigmoid(-inf)", kernel.name, gates[2], 0);
  if (gates[3] != -1) fail("tanh(-inf)", kernel.name, gates[3], -1);
}

template <class T>
void test_all() {
  for (const Kernels<T>* kernel : tables<T>()) {
    for (const Case& c : kCases) {
      test_convolve(*kernel, c);
      test_gradients(*kernel, c);
    }
    for (const int64_t C : {1, 3, 8, 19, 32})
      for (int flags = 0; flags < 8; ++flags) test_cell(*kernel, 5, C, flags & 1, flags & 2, flags & 4);
    test_activations(*kernel);
    std::printf("%s, %d bytes: passed\n", kernel->name, static_cast<int>(sizeof(T)));
  }
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
}
