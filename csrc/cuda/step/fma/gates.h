// Forward: the sums of a step's convolutions for several gates. A thread holds all gates of kChannels channels at
// kPixels pixels, so that the cell runs in its registers.
#pragma once

#include "cuda/common/step.h"
#include "cuda/step/fma/convolution.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {

// Channels of a block.
template <int kChannels>
constexpr int kGateBlockChannels = kWarps * kChannels;

// Calls use(image, channel, y, x, sums) with the sums of all kGates gates, packed as c * kGates + gate.
template <int kGates, int kChannels, class T, class Use>
__device__ __forceinline__ void convolve_gates(const Layer& layer, const BlockPlan& plan,
                                               const GateOperands<T>& operands, const Use& use) {
  using A = accumulation_t<T>;
  constexpr int kRows = kGates * kChannels;
  static_assert(kPackedColumns % (kWarps * kRows) == 0, "a block's columns must lie within the packed weight");
  auto& storage = shared_storage<ConvolutionStorage<A, kRows>>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();
  const int64_t pitch = packed_pitch(kGates * layer.channels), column = group * kWarps * kRows;

  A sum[kPixels][kRows] = {};
  convolve<kRows>(sum, storage, operands.x + image * layer.in_channels * layer.pixels(), layer.in_channels,
                  operands.weight_x + column, pitch, window);
  if (operands.state)
    convolve<kRows>(sum, storage, operands.state + image * layer.channels * layer.pixels(), layer.channels,
                    operands.weight_h + column, pitch, window);
  for_each_output<kGates>(
      window, sum, group * kGateBlockChannels<kChannels>, layer.channels,
      [&](int64_t channel, int64_t y, int64_t x, const A* sums) { use(image, channel, y, x, sums); });
}

}  // namespace pdb::cuda
