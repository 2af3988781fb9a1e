// Forward on tensor cores: the sums of a step's convolutions for several gates, as fma/gates.h. The rows of the weight
// are arranged so that the accumulators of one lane are all gates of a channel at two pixels (mma.h).
#pragma once

#include "cuda/common/step.h"
#include "cuda/step/kernels.h"
#include "cuda/step/mma/convolution.h"

namespace pdb::cuda {

// How a block is divided among warps, each with all gates of kSets sets of 8 channels (one gate: 16 channels).
template <int kGates_, int kChannelWarps_, int kSets_ = 1>
struct GateWarps {
  static constexpr int kGates = kGates_, kChannelWarps = kChannelWarps_, kSets = kSets_;
  static constexpr int kM = mma_gate_blocks(kGates) * kSets;  // row blocks of a warp
  static constexpr int kN = 4;                                // tile rows of a warp
  static constexpr int kSetChannels = kGates == 1 ? kMmaRows : 8;
  static constexpr int kChannels = kSetChannels * kSets;
  static constexpr int kThreads = 32 * kChannelWarps * (kMmaTile / kN);
  static constexpr int kBlockChannels = kChannels * kChannelWarps;
  static_assert(kMmaGatesBlocks % (kM * kChannelWarps) == 0, "a block's row blocks must lie within the packed weight");
};

// Calls use(image, channel, y, x, sums) with the sums of all gates.
template <class Warps, class T, class Use>
__device__ __forceinline__ void mma_convolve_gates(const Layer& layer, const BlockPlan& plan,
                                                   const GateOperands<T>& operands, const Use& use) {
  constexpr int kM = Warps::kM, kN = Warps::kN, kGates = Warps::kGates;
  auto& storage = shared_storage<MmaStorage>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();
  const int64_t channel_block = group * Warps::kChannelWarps + warp() % Warps::kChannelWarps;
  const int64_t row_block = kM * channel_block;
  const int tile_row = warp() / Warps::kChannelWarps * kN;
  const auto fragments = [&](const float* weight, int64_t channels) {
    return reinterpret_cast<const Fragment*>(weight) + row_block * mma_steps<T>(channels) * layer.taps() * 32;
  };

  float sum[kM][kN][4] = {};
  mma_convolve<T>(sum, storage, operands.x + image * layer.in_channels * layer.pixels(), layer.in_channels,
                  fragments(operands.weight_x, layer.in_channels), window, tile_row);
  if (operands.state)
    mma_convolve<T>(sum, storage, operands.state + image * layer.channels * layer.pixels(), layer.channels,
                    fragments(operands.weight_h, layer.channels), window, tile_row);

#pragma unroll
  for (int set = 0; set < Warps::kSets; ++set) {
    const int64_t channel = channel_block * Warps::kChannels + set * Warps::kSetChannels + lane() / 4;
    const int m = set * mma_gate_blocks(kGates);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t y = window.y + tile_row + n, x = window.x + lane() % 4 * 2 + i;
        // Where mma_gate_row() puts the gates. (A loop makes ptxas schedule more instructions.)
        if constexpr (kGates == 4) {
          const float gates[4] = {sum[m][n][i], sum[m][n][2 + i], sum[m + 1][n][i], sum[m + 1][n][2 + i]};
          if (channel < layer.channels && window.contains(y, x)) use(image, channel, y, x, gates);
        } else if constexpr (kGates == 2) {
          const float gates[2] = {sum[m][n][i], sum[m][n][2 + i]};
          if (channel < layer.channels && window.contains(y, x)) use(image, channel, y, x, gates);
        } else {
          static_assert(kGates == 1);
          if (channel < layer.channels && window.contains(y, x)) use(image, channel, y, x, &sum[m][n][i]);
          if (channel + 8 < layer.channels && window.contains(y, x)) use(image, channel + 8, y, x, &sum[m][n][2 + i]);
        }
      }
    }
  }
}

}  // namespace pdb::cuda
