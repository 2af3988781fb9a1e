// The CPU kernels against plain loops in double precision, for awkward sizes. Meant for AddressSanitizer and UBSan: all
// buffers are exactly as large as the kernels' contract requires.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "cell_tests.h"
#include "cpu/packing.h"
#include "cpu/strips.h"

// 64-byte vectors for the compiler's baseline processor: the compiler splits them, so that the tile shape of AVX-512 is
// tested on processors without it.
#define PDB_ISA wide
#define PDB_VECTOR_BYTES 64
#include "cpu/kernels/kernels_impl.h"

namespace pdb::cpu::generic {
template <class T>
const Kernels<T>& table();
}

using namespace pdb::cpu;

namespace {

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
const Case kCases[] = {{1, 1, 3, 1, 1, 4, 1},   {7, 6, 3, 1, 3, 20, 2},   {9, 13, 5, 2, 5, 36, 1},
                       {13, 5, 3, 4, 17, 8, 3}, {5, 70, 3, 2, 33, 64, 1}, {8, 9, 1, 3, 40, 12, 2},
                       {3, 4, 7, 1, 2, 128, 1}, {17, 11, 3, 2, 9, 20, 2}, {12, 9, 7, 1, 18, 36, 2},
                       {6, 7, 9, 1, 3, 8, 1},   {5, 8, 11, 2, 4, 12, 1},  {14, 9, 13, 1, 2, 4, 1},
                       {3, 2, 3, 1, 300, 8, 1}};

template <class T>
std::vector<T> random_frames(const Case& c, const Grid& grid, int64_t channels, int64_t extra) {
  std::vector<T> frames(c.batch * grid.frame_pixels() * channels + extra, T(0));
  for (int64_t n = 0; n < c.batch; ++n)
    for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel)
      for (int64_t channel = 0; channel < channels; ++channel)
        frames[(n * grid.frame_pixels() + grid.position(pixel)) * channels + channel] = normal<T>(1)[0];
  return frames;
}

// Calls body(pixel, other) for every pixel and the one under the tap (ky, kx), if that is inside the image.
template <class Body>
void for_each_pair(const Case& c, int64_t ky, int64_t kx, Body body) {
  const int64_t dy = (ky - c.kernel_size / 2) * c.dilation, dx = (kx - c.kernel_size / 2) * c.dilation;
  for (int64_t y = 0; y < c.height; ++y)
    for (int64_t x = 0; x < c.width; ++x)
      if (y + dy >= 0 && y + dy < c.height && x + dx >= 0 && x + dx < c.width)
        body(y * c.width + x, (y + dy) * c.width + x + dx);
}

// Sums over taps and the first `channels` channels, by the definition: [pixel][row].
template <class T>
std::vector<double> convolution(const Case& c, const Grid& grid, const std::vector<T>& frame,
                                const std::vector<T>& weight, int64_t channels) {
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

// The first `left` columns of a matrix, and the others.
template <class T>
std::pair<std::vector<T>, std::vector<T>> split(const std::vector<T>& matrix, int64_t rows, int64_t columns,
                                                int64_t left) {
  std::pair<std::vector<T>, std::vector<T>> parts;
  for (int64_t row = 0; row < rows; ++row) {
    const auto begin = matrix.begin() + row * columns;
    parts.first.insert(parts.first.end(), begin, begin + left);
    parts.second.insert(parts.second.end(), begin + left, begin + columns);
  }
  return parts;
}

// Both forms of the convolution, over all channels and over the first few, on all strips.
template <class T>
void test_convolutions(const Kernels<T>& kernel, const Case& c) {
  const Window window(c.height, c.width, c.kernel_size, c.dilation);
  const int64_t area = c.kernel_size * c.kernel_size, padded = round_up(c.rows, kernel.row_block / 2);
  const auto weight = normal<T>(c.rows * c.channels * area, 1 / std::sqrt(double(c.channels * area)));
  const auto init = normal<T>(padded);
  const int64_t x_channels = (c.channels + 1) / 3;
  const auto [weight_x, weight_h] = split(weight, c.rows, c.channels * area, x_channels * area);
  for (const bool winograd : {false, true}) {
    if (winograd && c.kernel_size < 3) continue;
    const Grid grid{c.height, c.width, (winograd ? winograd_border(c.kernel_size) : window.reach_y) * c.dilation,
                    (winograd ? winograd_border(c.kernel_size) : window.reach_x) * c.dilation};
    const Strips strips = winograd ? Strips::tiled(grid, c.dilation, c.batch) : Strips::rows(grid, c.batch);
    const auto frame = random_frames<T>({c.height, c.width, 0, 0, 0, 0, 1}, grid, c.channels, 0);
    const auto offsets = winograd ? winograd_shifts(grid, c.kernel_size, c.dilation) : window.offsets(grid, 1);
    const WinogradParts parts = WinogradParts::of(c.kernel_size);
    const PackedWeight<T> form{kernel, c.rows, c.channels, winograd, false, c.kernel_size, window.taps()};
    std::vector<T> packed(form.blocks() * form.block_size()), out(kStripSlots * padded);
    std::vector<T> scratch(winograd_scratch(parts.count() * c.channels));
    std::vector<T> filters(form.filters_size(area));
    for (int64_t i = 0; i < form.blocks(); ++i)
      form.pack({weight_x.data(), weight_h.data(), x_channels, c.channels - x_channels, area}, i, filters.data(),
                packed.data());
    for (const int64_t channels : {c.channels, (c.channels + 1) / 2}) {
      const auto expected = convolution(c, grid, frame, weight, channels);
      const Source<T> source{frame.data(), c.channels, channels};
      int64_t seen = 0;
      for (int64_t strip = 0; strip < strips.size(); ++strip) {
        const int64_t first = strips.begin[strip];
        if (winograd)
          kernel.winograd(
              {packed.data(), c.channels, padded, c.dilation * grid.pitch(), c.dilation, parts, offsets.data()}, source,
              strips.corners(strip), strips.tiles(strip), init.data(), scratch.data(), out.data());
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

// All taps of the direct form one by one, at the pixels where they lie inside the image, forward and mirrored.
template <class T>
void test_taps(const Kernels<T>& kernel, const Case& c) {
  const Window window(c.height, c.width, c.kernel_size, c.dilation);
  const int64_t area = c.kernel_size * c.kernel_size, padded = round_up(c.rows, kernel.row_block / 2);
  const Grid grid{c.height, c.width, window.reach_y * c.dilation, window.reach_x * c.dilation};
  auto weight = normal<T>(c.rows * c.channels * area, 1 / std::sqrt(double(c.channels * area)));
  const auto frame = random_frames<T>({c.height, c.width, 0, 0, 0, 0, 1}, grid, c.channels, 0);
  const PackedWeight<T> form{kernel, c.rows, c.channels, false, false, c.kernel_size, window.taps()};
  std::vector<T> packed(form.blocks() * form.block_size()), filters(form.filters_size(area));
  for (int64_t i = 0; i < form.blocks(); ++i)
    form.pack({weight.data(), nullptr, c.channels, 0, area}, i, filters.data(), packed.data());
  for (const int sign : {1, -1}) {
    const TappedPixels tapped(grid, window, sign);
    if (sign < 0)
      for (int64_t i = 0; i < c.rows * c.channels; ++i)
        std::reverse(weight.begin() + i * area, weight.begin() + (i + 1) * area);
    const auto expected = convolution(c, grid, frame, weight, c.channels);
    std::vector<T> sums(grid.pixels() * padded, T(0));
    for (int64_t row = 0; row < c.rows; row += kernel.row_block)
      for (int64_t tap = 0; tap < window.size(); ++tap)
        for (const int64_t half : {0, 1})  // of the pixels
          tapped.among(tap, half * (grid.pixels() / 2), half ? grid.pixels() : grid.pixels() / 2,
                       [&](int64_t entry, int64_t count) {
                         kernel.convolve_tap(
                             packed.data() + (row * window.size() + tap * kernel.row_block) * c.channels,
                             {frame.data(), c.channels, c.channels}, tapped.position.data() + entry,
                             tapped.pixel.data() + entry, count, c.rows - row, sums.data() + row, padded);
                       });
    for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel)
      for (int64_t row = 0; row < c.rows; ++row)
        expect_near<T>("convolve_tap", kernel.name, sums[pixel * padded + row], expected[pixel * c.rows + row], 8);
    if (static_cast<int64_t>(tapped.pixel.size()) != window.products(c.height, c.width))
      fail("products of a window", kernel.name, tapped.pixel.size(), window.products(c.height, c.width));
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

  std::vector<T> weight(expected.size(), T(0)), filters(padded * k * k * c.channels, T(0)), bias(padded, T(0));
  const auto offsets = window.offsets(grid, 1), taps = window.taps();
  const WeightPair<T> weights{weight.data(), nullptr, c.channels, 0, k * k};
  for (int64_t row = 0; row < c.rows; row += block)
    for (int64_t n = 0; n < c.batch; ++n)
      for (int64_t y = 0; y < c.height; ++y) {
        const int64_t at = n * grid.frame_pixels() + grid.position(y, 0);
        const T* from = dgates.data() + at * c.rows + row;
        kernel.bias_gradient(from, c.rows, c.width, bias.data() + row);
        for (int64_t tap = 0; tap < window.size(); ++tap)
          kernel.weight_gradient({source.data() + (at + offsets[tap]) * c.channels, c.channels, c.channels}, from,
                                 c.rows, c.width, 1, grid.pitch(),
                                 filters.data() + row * c.channels * k * k + taps[tap] * block, k * k * block);
      }
  const PackedWeight<T> direct{kernel, c.rows, c.channels, false, false, k, taps};
  for (int64_t i = 0; i < direct.blocks(); ++i)
    direct.store(filters.data() + i * block * c.channels * k * k, i, 0, c.channels, weights);
  compare("weight_gradient", weight);
  for (int64_t row = 0; row < c.rows; ++row)
    expect_near<T>("bias_gradient", kernel.name, bias[row], expected_bias[row], scale);

  if (k < 3) return;
  const Strips strips = Strips::tiled(grid, c.dilation);
  const auto shifts = winograd_shifts(grid, k, c.dilation);
  const WinogradParts parts = WinogradParts::of(k);
  const WinogradConvolution<T> convolution{nullptr,    c.channels, padded,       c.dilation * grid.pitch(),
                                           c.dilation, parts,      shifts.data()};
  std::vector<T> transformed(padded * parts.size() * c.channels, T(0)),
      scratch(winograd_gradient_scratch(c.channels, padded / block));
  for (int64_t n = 0; n < c.batch; ++n)
    for (int line = 0; line < 4; ++line)
      kernel.winograd_weight_gradient(
          convolution, {source.data() + n * grid.frame_pixels() * c.channels, c.channels, c.channels},
          strips.corner.data(), {dgates.data() + n * grid.frame_pixels() * c.rows, c.rows, c.rows}, strips.first.data(),
          static_cast<int64_t>(strips.first.size()), line, 0, padded / block, scratch.data(), transformed.data());
  const PackedWeight<T> form{kernel, c.rows, c.channels, true, false, k, {}};
  std::vector<T> some_filters(form.filters_size(k * k));
  for (int64_t i = 0; i < form.blocks(); ++i) form.unpack(transformed.data(), i, some_filters.data(), weights);
  compare("winograd_weight_gradient", weight);
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
      test_taps(*kernel, c);
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
