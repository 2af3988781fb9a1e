// Gradients of weight_x, weight_h and bias on the CPU, summed over the steps. A unit of work owns the values it adds to
// and visits pixels in one order, whichever thread runs it. A step is summed by itself before it joins the others, so
// that rounding errors do not grow with the length of the sequence times the size of the picture.
#pragma once

#include "convlstm_cpu.h"

namespace pdb::cpu {

template <class T>
class WeightGradient {
 public:
  WeightGradient(const Layer<T>& layer, bool needs_weights, bool needs_bias)
      : layer_(layer), offsets_(layer.window.offsets(layer.grid, 1)), blocks_(layer.padded(layer.gates()) / layer.kernel.row_block) {
    const int64_t positions = layer.winograd ? 16 : layer.window.size();
    if (needs_weights) {
      frames_ = layer.frames(layer.inputs());
      packed_ = at::zeros({layer.padded(layer.gates()) * positions * layer.inputs()}, layer.options);
      step_ = at::empty_like(packed_);
      // Winograd: a unit is one of 4 lines of positions and some row blocks, so many that their transforms of the source
      // are few, and so few that every thread has a unit.
      blocks_a_unit_ = layer.winograd ? std::max<int64_t>(1, blocks_ * 4 / std::max<int64_t>(4, 2 * at::get_num_threads())) : 1;
      weight_units_ = (layer.winograd ? 4 : positions) * ((blocks_ + blocks_a_unit_ - 1) / blocks_a_unit_);
    }
    if (needs_bias) bias_ = at::zeros({layer.padded(layer.gates())}, layer.options);
  }

  // Adds one step: x (N, Cin, H, W), h_previous (N, C, H, W) or undefined if zero, dgates frames of 4C channels.
  void add(const at::Tensor& x, const at::Tensor& h_previous, const at::Tensor& dgates) {
    if (packed_.defined()) {
      step_.zero_();
      layer_.to_frames(x, 0, frames_);
      if (h_previous.defined()) layer_.to_frames(h_previous, layer_.s.in_channels, frames_);
    }
    const int64_t channels = h_previous.defined() ? layer_.inputs() : layer_.s.in_channels;
    const int64_t units = weight_units_ + (bias_.defined() ? blocks_ : 0);
    const int64_t work = layer_.s.batch * layer_.grid.pixels() * layer_.kernel.row_block * layer_.s.channels;
    at::parallel_for(0, units, layer_.grain(work), [&](int64_t begin, int64_t end) {
      at::Tensor scratch;
      if (layer_.winograd) scratch = layer_.buffer(winograd_gradient_scratch(layer_.inputs(), blocks_a_unit_));
      for (int64_t unit = begin; unit < end; ++unit) {
        if (unit >= weight_units_) add_bias(unit - weight_units_, dgates);
        else if (layer_.winograd) add_winograd(unit, channels, dgates, scratch.data_ptr<T>());
        else add_direct(unit, channels, dgates);
      }
    });
    if (packed_.defined()) packed_.add_(step_);
  }

  // (4C, Cin, k, k) and (4C, C, k, k); undefined if not wanted.
  std::pair<at::Tensor, at::Tensor> weights() const {
    if (!packed_.defined()) return {};
    const int64_t k = layer_.window.kernel_size, gates = layer_.gates(), inputs = layer_.inputs();
    const int64_t block = layer_.kernel.row_block;
    at::Tensor weight = at::zeros({gates, inputs, k, k}, layer_.options);
    const FilterStrides strides{inputs * k * k, k * k};
    const T* packed = packed_.template data_ptr<T>();
    if (layer_.winograd) {
      for (int64_t i = 0; i < blocks_; ++i)
        unpack_winograd_block(packed + i * 16 * inputs * block, strides, i * block, gates, inputs, block, weight.data_ptr<T>());
    } else {
      unpack_weight(packed, strides, gates, inputs, layer_.window.taps(), block, weight.data_ptr<T>());
    }
    return {weight.narrow(1, 0, layer_.s.in_channels).contiguous(),
            weight.narrow(1, layer_.s.in_channels, layer_.s.channels).contiguous()};
  }
  at::Tensor bias() const { return bias_.narrow(0, 0, layer_.gates()).clone(); }

 private:
  // Unit: one tap of the window and one row block.
  void add_direct(int64_t unit, int64_t channels, const at::Tensor& dgates) {
    constexpr int64_t kChunkPixels = 256;  // stays in the second-level cache
    const Grid& grid = layer_.grid;
    const int64_t taps = layer_.window.size(), block = layer_.kernel.row_block, gates = layer_.gates();
    const int64_t chunk = std::max<int64_t>(1, kChunkPixels / grid.width);
    T* dweight = step_.template data_ptr<T>() + unit * layer_.inputs() * block;
    for (int64_t n = 0; n < layer_.s.batch; ++n)
      for (int64_t y = 0; y < grid.height; y += chunk) {
        const int64_t position = grid.position(y, 0);
        const T* source = layer_.frame(frames_, n, layer_.inputs()) + (position + offsets_[unit % taps]) * layer_.inputs();
        const T* from = layer_.frame(dgates, n, gates) + position * gates + unit / taps * block;
        layer_.kernel.weight_gradient({source, layer_.inputs(), channels}, from, gates, grid.width,
                                      std::min(chunk, grid.height - y), grid.pitch(), dweight);
      }
  }

  // Unit: one line of Winograd positions and some row blocks.
  void add_winograd(int64_t unit, int64_t channels, const at::Tensor& dgates, T* scratch) {
    const Strips& strips = layer_.strips;
    const int64_t first = unit / 4 * blocks_a_unit_, gates = layer_.gates(), step = layer_.s.dilation;
    const WinogradConvolution<T> convolution{nullptr, layer_.inputs(), layer_.padded(gates), step * layer_.grid.pitch(), step};
    for (int64_t n = 0; n < layer_.s.batch; ++n)
      layer_.kernel.winograd_weight_gradient(
          convolution, {layer_.frame(frames_, n, layer_.inputs()), layer_.inputs(), channels}, strips.corner.data(),
          {layer_.frame(dgates, n, gates), gates, gates}, strips.first.data(), static_cast<int64_t>(strips.first.size()),
          static_cast<int>(unit % 4), first, std::min(blocks_a_unit_, blocks_ - first), scratch, step_.template data_ptr<T>());
  }

  // Sums a row, then the rows of a step, then the steps: rounding errors grow with the longest of these, not the product.
  void add_bias(int64_t block, const at::Tensor& dgates) {
    const int64_t row = block * layer_.kernel.row_block, gates = layer_.gates();
    T step[kMaxRowBlock] = {};
    for (int64_t n = 0; n < layer_.s.batch; ++n)
      for (int64_t y = 0; y < layer_.grid.height; ++y)
        layer_.kernel.bias_gradient(layer_.frame(dgates, n, gates) + layer_.grid.position(y, 0) * gates + row, gates,
                                    layer_.grid.width, step);
    T* total = bias_.template data_ptr<T>() + row;
    for (int64_t i = 0; i < layer_.kernel.row_block; ++i) total[i] += step[i];
  }

  const Layer<T>& layer_;
  std::vector<int64_t> offsets_;
  int64_t blocks_, blocks_a_unit_ = 1, weight_units_ = 0;
  at::Tensor frames_, bias_;
  at::Tensor packed_, step_;  // weights' gradients, packed like the weights: of all steps so far, and of one
};

}  // namespace pdb::cpu
