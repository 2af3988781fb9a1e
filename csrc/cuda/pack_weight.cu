// Rearranges a convolution weight so that the convolution core reads it row by row (see kernels.h), in accumulation_t<T>.
#include "kernels.h"
#include "launch.h"

namespace pdb::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, class A>
__global__ void pack_weight_kernel(const T* weight, int64_t rows, int64_t columns, int64_t taps, int64_t pitch,
                                   bool transposed, A* packed, int64_t count) {
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < count; e += gridDim.x * int64_t(kThreads)) {
    const int64_t output = e % pitch, tap = e / pitch % taps, depth = e / pitch / taps;
    int64_t row, column, source_tap;
    if (transposed) {
      row = depth, column = output, source_tap = taps - 1 - tap;
    } else {
      row = output % 4 * (rows / 4) + output / 4, column = depth, source_tap = tap;
    }
    const bool padding = output >= (transposed ? columns : rows);
    packed[e] = padding ? A(0) : A(widen(weight[(row * columns + column) * taps + source_tap]));
  }
}

}  // namespace

template <class T>
int launch_pack_weight(const T* weight, int64_t rows, int64_t columns, int64_t kernel, Packing packing,
                       accumulation_t<T>* packed, Stream stream) {
  const bool transposed = packing == Packing::transposed;
  const int64_t taps = kernel * kernel, pitch = packed_pitch(transposed ? columns : rows);
  const int64_t count = (transposed ? rows : columns) * taps * pitch;
  return launch(pack_weight_kernel<T, accumulation_t<T>>, grid_for(count, kThreads), kThreads, stream, weight, rows,
                columns, taps, pitch, transposed, packed, count);
}

#define INSTANTIATE(T) \
  template int launch_pack_weight(const T*, int64_t, int64_t, int64_t, Packing, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
