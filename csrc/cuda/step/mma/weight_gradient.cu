// fma/weight_gradient.cu on tensor cores. Inputs and gate gradients are rounded to T as operands.
#include <type_traits>

#include "cuda/common/mma.h"
#include "cuda/step/weight_gradient.h"

namespace pdb::cuda {
namespace {

constexpr int kM = 2, kN = kMmaBlockColumns / kMmaColumns;  // blocks of 16 rows and 8 columns of a warp
static_assert(kM * kMmaRows * kWeightThreads / 32 == kBlockRows, "every warp has its rows");

template <class T>
struct Operands {
  using Element = std::conditional_t<sizeof(T) == 2, unsigned short, uint32_t>;
  static constexpr int kWords = kChunk / kPerWord<T>;  // of a chunk
  // The lanes of a warp read 4 words of 8 rows or columns, which then lie in 32 different banks.
  static constexpr int kPitchWords = kWords + 4;
  static constexpr int kPitch = kPitchWords * kPerWord<T>;
  using Storage = WeightStorage<Element, kMmaBlockColumns, kPitch>;
};

// The words of row `row`, from the lane's first word of product `step` on.
template <class T>
__device__ __forceinline__ const uint32_t* words(const typename Operands<T>::Element* elements, int row, int step) {
  return reinterpret_cast<const uint32_t*>(elements) + row * Operands<T>::kPitchWords + step * kMmaWords + lane() % 4;
}

// Blocks for whose registers a multiprocessor has room: if fewer are asked for, ptxas takes more registers than it
// needs, and for sm_120 it needs more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kResidentBlocks = 2;
#else
constexpr int kResidentBlocks = 3;
#endif

template <class T>
__global__ void __launch_bounds__(kWeightThreads, kResidentBlocks)
    mma_weight_gradient_kernel(const __grid_constant__ WeightJobs<T> jobs) {
  using Element = typename Operands<T>::Element;
  auto& storage = shared_storage<typename Operands<T>::Storage>();
  const WeightProduct<T, kMmaBlockColumns> product(jobs);
  const int row = warp() * kM * kMmaRows + lane() / 4;
  float sum[kM][kN][4] = {};
  const auto convert = [](auto value) { return static_cast<Element>(operand_bits(value, T{})); };
  product.for_each_chunk(storage, convert, [&] {
#pragma unroll
    for (int step = 0; step < Operands<T>::kWords / kMmaWords; ++step) {
      uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const uint32_t* upper = words<T>(storage.grad, row + m * kMmaRows, step);
        const uint32_t* lower = words<T>(storage.grad, row + m * kMmaRows + 8, step);
        a[m][0] = upper[0], a[m][1] = lower[0], a[m][2] = upper[4], a[m][3] = lower[4];
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const uint32_t* column = words<T>(storage.input, n * kMmaColumns + lane() / 4, step);
        const uint32_t b[2] = {column[0], column[4]};
#pragma unroll
        for (int m = 0; m < kM; ++m) mma<T>(sum[m][n], a[m], b);
      }
    }
  });
  // Element i of a row: element i % 2 of column block i / 2.
  const auto column = [](int i) { return i / 2 * kMmaColumns + lane() % 4 * 2 + i % 2; };
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      product.template store_row<2 * kN>(row + m * kMmaRows + half * 8, column,
                                         [&](int i) { return sum[m][i / 2][half * 2 + i % 2]; });
  }
}

}  // namespace

template <class T>
int launch_mma_weight_products(const WeightGradient<T>* gradients, int count, int64_t tiles, float* workspace,
                               Stream stream) {
  return launch_weight_products(mma_weight_gradient_kernel<T>, gradients, count, tiles, workspace, stream);
}

#define INSTANTIATE(T) template int launch_mma_weight_products(const WeightGradient<T>*, int, int64_t, float*, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
