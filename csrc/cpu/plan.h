// What forward and backward share: geometry, threads, buffers, and moving images into and out of frames. x_t and
// h_{t-1} lie side by side in one frame of Cin + C channels, so that one dilated convolution computes all four gates.
#pragma once

#include <algorithm>
#include <numeric>

#include "cpu/buffer.h"
#include "cpu/kernels/kernels.h"
#include "cpu/layer.h"
#include "cpu/packing.h"
#include "cpu/strips.h"
#include "gate.h"

namespace pdb::cpu {

// Whether the convolutions of a layer use Winograd's form. It needs 2.25 times fewer multiplications (of 5x5 and 7x7
// windows half as many) but some additions per channel. With few channels these do not pay, and the sums are so short
// that the additions' rounding shows; nor does it pay if the tiles mostly hang over the edge. In small images the
// direct form leaves out the taps outside, and reads a weight, which is half as large there, once, where Winograd's
// reads it for every strip; a strip takes as long as five more tiles, or ten if the weight is in no cache. How many
// threads share the strips must not matter here, as the two forms round differently.
inline bool use_winograd(const Layer& layer, int64_t gate_count = kGateCount) {
  const auto covered = [&](int64_t size) { return round_up(size, 2 * layer.dilation); };
  const int64_t tiles = covered(layer.height) * covered(layer.width) / 4;
  if (layer.kernel < 3 || std::min(layer.channels, layer.in_channels) < 16 || 16 * tiles > 5 * layer.pixels())
    return false;
  const Window window(layer.height, layer.width, layer.kernel, layer.dilation);
  const int64_t strips = std::max<int64_t>(2, layer.batch * ((tiles + kStripTiles - 1) / kStripTiles));
  const int64_t positions = WinogradParts::of(layer.kernel).size();
  const int64_t weight = positions * gate_count * layer.channels * (layer.in_channels + layer.channels);
  return positions * (layer.batch * tiles + strips * (weight < 8'000'000 ? 5 : 10)) <
         layer.batch * window.products(layer.height, layer.width);
}

// Whether the direct convolutions of a layer are divided among the threads by rows of the weight (strip_convolution.h):
// where few pixels share it. Sums over few channels do not pay for being stored after each tap.
inline bool divides_by_rows(const Layer& layer) {
  const int64_t inputs = layer.in_channels + layer.channels, pixels = layer.batch * layer.pixels();
  return layer.kernel >= 5 ? inputs >= 32 && pixels <= 2048
                           : inputs >= (layer.kernel == 3 ? 256 : 512) && pixels <= 128;
}

template <class T>
struct Plan {
  const Layer layer;
  const Threads threads;
  const int64_t gate_count;
  const bool winograd, by_rows;  // the form of the convolutions (strip_convolution.h)
  const Window window;
  const Grid grid;
  const Strips strips;
  const Kernels<T>& kernel;

  Plan(const Layer& l, const Threads& threads, int64_t gate_count = kGateCount)
      : layer(l),
        threads(threads),
        gate_count(gate_count),
        winograd(use_winograd(l, gate_count)),
        by_rows(!winograd && divides_by_rows(l)),
        window(l.height, l.width, l.kernel, l.dilation),
        grid{l.height, l.width, (winograd ? winograd_border(l.kernel) : window.reach_y) * l.dilation,
             (winograd ? winograd_border(l.kernel) : window.reach_x) * l.dilation},
        strips(winograd ? Strips::tiled(grid, l.dilation, share()) : Strips::rows(grid, share())),
        kernel(kernels<T>()) {}

  // Strips::rows: the strips of all images together are a multiple of the threads.
  int64_t share() const { return threads.count / std::gcd<int64_t>(threads.count, std::max<int64_t>(1, layer.batch)); }
  int64_t gates() const { return gate_count * layer.channels; }
  int64_t inputs() const { return layer.in_channels + layer.channels; }
  int64_t picture_state() const { return grid.pixels() * layer.channels; }  // values of one image's h or c
  int64_t state() const { return layer.batch * picture_state(); }
  int64_t pixels_of_call() const { return layer.steps * layer.batch * grid.pixels(); }
  // Whether the gradient of the weights uses Winograd's form: it reads and writes them, but does not multiply by them.
  bool winograd_gradient() const { return winograd && (layer.kernel == 3 || layer.batch * layer.pixels() >= 512); }
  // How the kernels have a weight of `rows` x `channels`, in Winograd's form or not.
  PackedWeight<T> packed(int64_t rows, int64_t channels, bool in_winograd_form, bool transposed) const {
    return {kernel, rows, channels, in_winograd_form, transposed, layer.kernel, window.taps()};
  }
  int64_t padded(int64_t rows) const { return round_up(rows, kernel.row_block); }
  int64_t computed(int64_t rows) const { return round_up(rows, kernel.row_block / 2); }  // of a convolution

  // `work`: multiplications of a unit. A thread takes enough units to be worth waking.
  template <class Body>
  void parallel(int64_t units, int64_t work, const Body& body) const {
    const int64_t grain = std::max<int64_t>(1, 100'000 / std::max<int64_t>(1, work));
    if (units > 0) threads.parallel_for(units, grain, body);
  }
  // weight_x and weight_h, (rows, Cin, k, k) and (rows, C, k, k), from row `first` on; or gradients of theirs.
  template <class V>
  WeightPair<V> weights(V* x, V* h, int64_t first = 0) const {
    const int64_t area = layer.taps();
    return {x ? x + first * layer.in_channels * area : nullptr, h ? h + first * layer.channels * area : nullptr,
            layer.in_channels, layer.channels, area};
  }

  // Only the borders are set, to zero: the rest is written before it is read. One row block more than the pixels, as
  // whole row blocks of gradients are read of the last pixel, too.
  Buffer<T> frames(int64_t channels) const {
    const int64_t size = grid.frame_pixels() * channels;
    Buffer<T> buffer(layer.batch * size + kMaxRowBlock);
    T* end = buffer.data();  // of the last row: the border up to the next one is zeros
    for (int64_t n = 0; n < layer.batch; ++n)
      for (int64_t y = 0; y < grid.height; ++y) {
        T* row = buffer.data() + n * size + grid.position(y, 0) * channels;
        std::fill(end, row, T(0));
        end = row + grid.width * channels;
      }
    std::fill(end, buffer.data() + layer.batch * size + kMaxRowBlock, T(0));
    return buffer;
  }
  T* frame(const Buffer<T>& frames, int64_t n, int64_t channels) const {
    return frames.data() + n * grid.frame_pixels() * channels;
  }

  Frames<const T> states(const T* data) const { return contiguous(data, layer.channels); }  // (T, N, C, H, W)
  template <class V>
  Frames<V> contiguous(V* data, int64_t channels) const {
    const int64_t pixels = grid.pixels();
    return {data, layer.batch * channels * pixels, channels * pixels, pixels, layer.width, 1};
  }

  // Row y of image n of frame t into pixels of `stride` values. The reverse writes contiguous images.
  void row_to_pixels(const Frames<const T>& pictures, int64_t t, int64_t n, int64_t y, int64_t channels, T* to,
                     int64_t stride) const {
    const T* from = pictures.data + t * pictures.step + n * pictures.image + y * pictures.row;
    if (pictures.column == 1) return kernel.transpose(from, pictures.channel, channels, grid.width, to, stride);
    for (int64_t x = 0; x < grid.width; ++x)
      for (int64_t c = 0; c < channels; ++c) to[x * stride + c] = from[c * pictures.channel + x * pictures.column];
  }
  void row_from_pixels(const T* from, int64_t stride, int64_t channels, T* pictures, int64_t t, int64_t n,
                       int64_t y) const {
    T* to = pictures + ((t * layer.batch + n) * channels * grid.height + y) * grid.width;
    kernel.transpose(from, stride, grid.width, channels, to, grid.pixels());
  }

  // Calls body(n, y) for every row of every image, in parallel.
  template <class Body>
  void parallel_rows(int64_t channels, const Body& body) const {
    parallel(layer.batch * grid.height, 4 * grid.width * channels, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) body(unit / grid.height, unit % grid.height);
    });
  }
  // Calls body(y) for the rows that strip `strip` takes care of besides its own pixels.
  template <class Body>
  void for_rows_of_strip(int64_t strip, const Body& body) const {
    for (int64_t y = strip * grid.height / strips.size(); y < (strip + 1) * grid.height / strips.size(); ++y) body(y);
  }

  // The images of frame t into frames of inputs() channels, from channel `first` on.
  void to_frames(const Frames<const T>& pictures, int64_t t, int64_t channels, int64_t first,
                 const Buffer<T>& frames) const {
    parallel_rows(channels, [&](int64_t n, int64_t y) { row_to_frame(pictures, t, n, y, channels, first, frames); });
  }
  void row_to_frame(const Frames<const T>& pictures, int64_t t, int64_t n, int64_t y, int64_t channels, int64_t first,
                    const Buffer<T>& frames) const {
    row_to_pixels(pictures, t, n, y, channels, frame(frames, n, inputs()) + grid.position(y, 0) * inputs() + first,
                  inputs());
  }

  // Adds the sums at the slots of a strip to pixels of `channels` values.
  void add_to_pixels(int64_t strip, const T* sums, int64_t stride, int64_t channels, T* to) const {
    const StripPixels at = strip_pixels(strip);
    for (int64_t p = 0; p < at.pixels; ++p)
      for (int64_t i = 0; i < channels; ++i) to[at.pixel[p] * channels + i] += sums[at.slot[p] * stride + i];
  }

  StripPixels strip_pixels(int64_t strip) const {
    const int64_t entry = strips.begin[strip];
    return {strips.pixels(strip), layer.channels, strips.pixel.data() + entry, strips.slot.data() + entry,
            strips.position.data() + entry};
  }
  // The part of a cell kernel's arguments that forward and backward share, for strip `strip` of image n. peephole: all
  // weights, pixel-major; c_previous: [N][pixels][C], or null for zeros.
  CellStrip<T> cell_strip(int64_t n, int64_t strip, const T* peephole, const T* c_previous) const {
    CellStrip<T> cell;
    static_cast<StripPixels&>(cell) = strip_pixels(strip);
    cell.peephole_current = layer.peephole_current;
    cell.peephole = peephole;
    cell.peephole_stride = picture_state();
    cell.c_previous = c_previous ? c_previous + n * picture_state() : nullptr;
    return cell;
  }

  // Contiguous (count, channels, H, W) to pixel-major (count, H, W, channels), and back.
  void to_pixels(const T* planar, int64_t count, T* pixels) const {
    transpose(planar, count, layer.channels, grid.pixels(), pixels);
  }
  void from_pixels(const T* pixels, int64_t count, T* planar) const {
    transpose(pixels, count, grid.pixels(), layer.channels, planar);
  }

 private:
  // (count, rows, columns) to (count, columns, rows).
  void transpose(const T* from, int64_t count, int64_t rows, int64_t columns, T* to) const {
    for (int64_t n = 0; n < count; ++n)
      kernel.transpose(from + n * rows * columns, columns, rows, columns, to + n * rows * columns, rows);
  }
};

// Packing a weight takes as long as some hundred pixels. Over more pixels than this it does not count, and what is
// packed is not kept (packed_cache.h).
constexpr int64_t kMostPixelsToKeep = 16384;

// The peephole weights pixel-major, [3][pixels][C]; empty if there are none.
template <class T>
Buffer<T> peephole_to_pixels(const Plan<T>& plan, const PeepholeWeights<T>& peephole) {
  if (!peephole.data) return {};
  Buffer<T> result(kPeepholeCount * plan.picture_state());
  T* to = result.data();
  for (int64_t gate = 0; gate < kPeepholeCount; ++gate)
    for (int64_t y = 0; y < plan.grid.height; ++y)
      for (int64_t x = 0; x < plan.grid.width; ++x)
        for (int64_t c = 0; c < plan.layer.channels; ++c)
          *to++ = peephole.data[gate * peephole.gate + c * peephole.channel + y * peephole.row + x * peephole.column];
  return result;
}

}  // namespace pdb::cpu
