// Weights from PyTorch's order to the kernels' (kernels.h) and, for gradients, back. In between a row block lies as
// "filters", [channels][taps][row_block], some channels at a time: few enough to stay in the nearest cache.
#pragma once

#include <algorithm>

#include "cpu/kernels/kernels.h"
#include "cpu/layout.h"

namespace pdb::cpu {

// Two weights (rows, channels, k, k) side by side, those of x and h: (rows, x_channels + h_channels, k, k). Where T is
// not const a null one is left out.
template <class T>
struct WeightPair {
  T *x, *h;
  int64_t x_channels, h_channels, area;

  int64_t channels() const { return x_channels + h_channels; }

  // Calls body(weight, its channels, first, count, offset) for each part of channels [begin, end): they are the count
  // channels from `first` on of one of the weights, and begin at begin + offset.
  template <class Body>
  void for_each_part(int64_t begin, int64_t end, const Body& body) const {
    if (x && begin < x_channels) body(x, x_channels, begin, std::min(end, x_channels) - begin, int64_t(0));
    const int64_t first = std::max(begin, x_channels);
    if (h && first < end) body(h, h_channels, first - x_channels, end - first, first - begin);
  }
};

// What a convolution packs. The forward one has the weights' rows as its rows. The transposed one exchanges the two:
// its rows are the weights' channels, its channels are the weights' rows, and the window is mirrored.
template <class T>
struct PackedWeight {
  const Kernels<T>& kernel;
  int64_t rows, channels;  // of the convolution
  bool winograd, transposed;
  int64_t kernel_size;
  std::vector<int64_t> taps;  // of the direct form (Window::taps)

  WinogradParts parts() const { return WinogradParts::of(kernel_size); }
  int64_t positions() const { return winograd ? parts().size() : static_cast<int64_t>(taps.size()); }
  int64_t block_size() const { return positions() * channels * kernel.row_block; }
  int64_t blocks() const { return (rows + kernel.row_block - 1) / kernel.row_block; }
  // Values of a thread's buffer of filters.
  int64_t filters_size(int64_t area) const { return chunk(area) * area * kernel.row_block; }

  // Fills the row block `block` of `packed`.
  void pack(const WeightPair<const T>& weights, int64_t block, T* filters, T* packed) const {
    const int64_t row_block = kernel.row_block, row = block * row_block, count = std::min(row_block, rows - row);
    if (count < row_block) std::fill_n(filters, filters_size(weights.area), T(0));
    T* to = packed + block * block_size();
    for (int64_t c = 0; c < channels; c += chunk(weights.area)) {
      const int64_t some = std::min(chunk(weights.area), channels - c);
      transposed ? load_columns(weights, row, count, c, some, filters)
                 : load_rows(weights, row, count, c, some, filters);
      if (winograd)
        for_each_part<const T>(filters, [&](const PartOfFilters<const T>& part, int64_t y, int64_t x) {
          kernel.winograd_filters(part, parts(), y, x, some, to + c * row_block, channels * row_block);
        });
      else
        for (int64_t i = 0; i < positions(); ++i)
          for (int64_t j = 0; j < some; ++j)
            std::copy_n(filters + (j * weights.area + taps[i]) * row_block, row_block,
                        to + (i * channels + c + j) * row_block);
    }
  }

  // The inverse of pack, for gradients, of the forward convolution in Winograd's form.
  void unpack(const T* packed, int64_t block, T* filters, const WeightPair<T>& weights) const {
    const T* from = packed + block * block_size();
    for (int64_t c = 0; c < channels; c += chunk(weights.area)) {
      const int64_t some = std::min(chunk(weights.area), channels - c);
      for_each_part<T>(filters, [&](const PartOfFilters<T>& part, int64_t y, int64_t x) {
        kernel.winograd_filter_gradients(from + c * kernel.row_block, channels * kernel.row_block, parts(), y, x, some,
                                         part);
      });
      store(filters, block, c, some, weights);
    }
  }

  // Filters of a row block and `some` channels from `channel` on, [some][taps][row_block], to the weights.
  void store(const T* filters, int64_t block, int64_t channel, int64_t some, const WeightPair<T>& weights) const {
    const int64_t area = weights.area, row = block * kernel.row_block,
                  count = std::min<int64_t>(kernel.row_block, rows - row);
    weights.for_each_part(channel, channel + some,
                          [&](T* weight, int64_t own, int64_t first, int64_t size, int64_t offset) {
                            kernel.transpose(filters + offset * area * kernel.row_block, kernel.row_block, size * area,
                                             count, weight + (row * own + first) * area, own * area);
                          });
  }

 private:
  // Calls body(part (y, x) of the window, y, x) for each of them; of the mirrored window where it is transposed.
  template <class V, class Body>
  void for_each_part(V* filters, const Body& body) const {
    const int64_t area = kernel_size * kernel_size, row_block = kernel.row_block, column = transposed ? -1 : 1;
    V* const first = filters + (transposed ? area - 1 : 0) * row_block;
    for (int64_t y = 0; y < parts().side; ++y)
      for (int64_t x = 0; x < parts().side; ++x) {
        const int64_t tap = parts().first_tap(y) * kernel_size + parts().first_tap(x);
        body({first + tap * column * row_block, area * row_block, kernel_size * column * row_block, column * row_block},
             y, x);
      }
  }

  // Channels that are packed at once.
  int64_t chunk(int64_t area) const { return std::max<int64_t>(1, 144 / area); }

  void load_rows(const WeightPair<const T>& weights, int64_t row, int64_t count, int64_t channel, int64_t some,
                 T* filters) const {
    const int64_t area = weights.area;
    weights.for_each_part(channel, channel + some,
                          [&](const T* weight, int64_t own, int64_t first, int64_t size, int64_t offset) {
                            kernel.transpose(weight + (row * own + first) * area, own * area, count, size * area,
                                             filters + offset * area * kernel.row_block, kernel.row_block);
                          });
  }

  void load_columns(const WeightPair<const T>& weights, int64_t row, int64_t count, int64_t channel, int64_t some,
                    T* filters) const {
    const int64_t area = weights.area;
    weights.for_each_part(row, row + count,
                          [&](const T* weight, int64_t own, int64_t first, int64_t size, int64_t offset) {
                            for (int64_t c = 0; c < some; ++c) {
                              const T* from = weight + ((channel + c) * own + first) * area;
                              T* to = filters + c * area * kernel.row_block + offset;
                              if (area == 1)
                                std::copy_n(from, size, to);
                              else
                                kernel.transpose(from, area, size, area, to, kernel.row_block);
                            }
                          });
  }
};

}  // namespace pdb::cpu
