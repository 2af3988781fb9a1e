// Backward on tensor cores: data gradients of convolutions from the gate gradients, which are rounded to T as operands.
#pragma once

#include "cuda/step/kernels.h"
#include "cuda/step/mma/convolution.h"

namespace pdb::cuda {

constexpr int kGradientM = 1, kGradientN = 4;  // row blocks of 16 channels, and tile rows, of a warp
constexpr int kGradientWarps = 2;
constexpr int kGradientThreads = 32 * kGradientWarps * (kMmaTile / kGradientN);
constexpr int kGradientChannels = kMmaRows * kGradientWarps;
static_assert(kGradientM * kGradientWarps == kMmaTransposedBlocks,
              "a block's row blocks must lie within the packed weight");

// Calls use(channel, y, x, sum) for every element of the data gradient that this thread computed. part(i): the i-th of
// `count` convolutions, over `rows` rows of gate gradients, of which an image has image_rows.
template <class T, class Part, class Use>
__device__ __forceinline__ void convolve_gradients(const BlockPlan& plan, int64_t rows, int64_t image_rows,
                                                   int64_t channels, int count, const Part& part, const Use& use) {
  auto& storage = shared_storage<MmaStorage>();
  Window window = plan.window();
  const int64_t row_block = plan.group() * kGradientWarps + warp() % kGradientWarps;
  const int tile_row = warp() / kGradientWarps * kGradientN;
  float sum[kGradientM][kGradientN][4] = {};
  for (int i = 0; i < count; ++i) {
    const DataGradient<T> gradient = part(i);
    window.dilation = gradient.dilation;
    mma_convolve<T>(sum, storage, gradient.grad_gates + plan.image() * image_rows * window.pixels(), rows,
                    reinterpret_cast<const Fragment*>(gradient.weight) +
                        row_block * mma_steps<T>(rows) * window.kernel * window.kernel * 32,
                    window, tile_row);
  }
#pragma unroll
  for (int n = 0; n < kGradientN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t channel = row_block * kMmaRows + lane() / 4 + i / 2 * 8;
      const int64_t y = window.y + tile_row + n, x = window.x + lane() % 4 * 2 + i % 2;
      if (channel < channels && window.contains(y, x)) use(channel, y, x, sum[0][n][i]);
    }
  }
}

}  // namespace pdb::cuda
