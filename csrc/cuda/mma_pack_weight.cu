// Rearranges a convolution weight into the fragments of the tensor-core kernels (see kernels.h).
#include "kernels.h"
#include "mma_convolution.h"

namespace pdb::cuda {
namespace {

constexpr int kThreads = 256;

// What a weight (rows, columns, k, k) becomes.
struct Fragments {
  int64_t rows, columns, taps, depth, steps, count;  // depth: input channels; count: words
  bool transposed;

  // Element (output row, input channel, tap) of the convolution that the fragments compute; 0 beyond the weight.
  template <class T>
  __device__ uint32_t operand(const T* weight, int64_t row, int64_t channel, int64_t tap) const {
    if (channel >= depth) return 0;
    int64_t source_row = channel, source_column = row, source_tap = taps - 1 - tap;
    if (transposed) {
      if (row >= columns) return 0;
    } else {
      // Row blocks alternate between i, f and o, g of 8 channels.
      const int64_t gate = row / 16 % 2 * 2 + row / 8 % 2, output = row / 32 * 8 + row % 8;
      if (output >= rows / 4) return 0;
      source_row = gate * (rows / 4) + output, source_column = channel, source_tap = tap;
    }
    return operand_bits(weight[(source_row * columns + source_column) * taps + source_tap], T{});
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) mma_pack_weight_kernel(const T* weight, Fragments fragments, uint32_t* packed) {
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < fragments.count; e += gridDim.x * int64_t(kThreads)) {
    const int64_t word = e % 4, lane = e / 4 % 32, tap = e / 128 % fragments.taps;
    const int64_t step = e / 128 / fragments.taps % fragments.steps, block = e / 128 / fragments.taps / fragments.steps;
    const int64_t row = block * kMmaRows + lane / 4 + word % 2 * 8;
    const int64_t channel = (step * kMmaWords + lane % 4 + word / 2 * 4) * kPerWord<T>;
    uint32_t bits = 0;
    for (int i = 0; i < kPerWord<T>; ++i) bits |= fragments.operand(weight, row, channel + i, tap) << (16 * i);
    packed[e] = bits;
  }
}

template <class T>
Fragments make_fragments(int64_t rows, int64_t columns, int64_t kernel, Packing packing) {
  const bool transposed = packing == Packing::transposed;
  const int64_t depth = transposed ? rows : columns, outputs = transposed ? columns : rows;
  const int64_t multiple = kMmaRows * (transposed ? kMmaTransposedBlocks : kMmaGatesBlocks);
  const int64_t padded = (outputs + multiple - 1) / multiple * multiple;
  const int64_t steps = mma_steps<T>(depth), taps = kernel * kernel;
  return {rows, columns, taps, depth, steps, padded / kMmaRows * steps * taps * 128, transposed};
}

}  // namespace

template <class T>
int64_t mma_packed_size(int64_t rows, int64_t columns, int64_t kernel, Packing packing) {
  return make_fragments<T>(rows, columns, kernel, packing).count;
}

template <class T>
int launch_mma_pack_weight(const T* weight, int64_t rows, int64_t columns, int64_t kernel, Packing packing,
                           float* packed, Stream stream) {
  const Fragments fragments = make_fragments<T>(rows, columns, kernel, packing);
  return launch(mma_pack_weight_kernel<T>, grid_for(fragments.count, kThreads), kThreads, stream, weight, fragments,
                reinterpret_cast<uint32_t*>(packed));
}

#define INSTANTIATE(T)                                                                   \
  template int64_t mma_packed_size<T>(int64_t, int64_t, int64_t, Packing);               \
  template int launch_mma_pack_weight(const T*, int64_t, int64_t, int64_t, Packing, float*, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
