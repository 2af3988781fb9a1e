// Weight gradients of several convolutions over all their images at once, by fused multiply-adds.
#include "cuda/step/weight_gradient.h"

#include "cuda/common/add.h"

namespace pdb::cuda {
namespace {

constexpr int kRowThreads = 16, kColumnThreads = 8;  // how a block's threads lie over its part of the weight
constexpr int kThreadRows = kBlockRows / kRowThreads, kThreadColumns = kFmaBlockColumns / kColumnThreads;
// Chunks in a sum of their own, which then is added to the others. A split has up to some thousand chunks; with sums of
// a hundred pixels and a hundred such sums rounding errors are least.
constexpr int kChunksOfPart = 4;
constexpr int kPitch = kChunk + 1;  // so that the same pixel of several rows falls into different banks
static_assert(kRowThreads * kColumnThreads == kWeightThreads, "every thread has its part");

template <class T>
__global__ void __launch_bounds__(kWeightThreads, 2)
    weight_gradient_kernel(const __grid_constant__ WeightJobs<T> jobs) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<WeightStorage<A, kFmaBlockColumns, kPitch>>();
  const WeightProduct<T, kFmaBlockColumns> product(jobs);
  const int thread_row = threadIdx.x / kColumnThreads, thread_column = threadIdx.x % kColumnThreads;
  A sum[kThreadRows][kThreadColumns] = {}, part[kThreadRows][kThreadColumns] = {};
  int chunks = 0;
  const auto multiply = [&](A(&into)[kThreadRows][kThreadColumns]) {
    for (int p = 0; p < kChunk; ++p) {
      A input[kThreadColumns];
#pragma unroll
      for (int c = 0; c < kThreadColumns; ++c)
        input[c] = storage.input[(thread_column + c * kColumnThreads) * kPitch + p];
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r) {
        const A grad = storage.grad[(thread_row + r * kRowThreads) * kPitch + p];
#pragma unroll
        for (int c = 0; c < kThreadColumns; ++c) into[r][c] += grad * input[c];
      }
    }
  };
  const auto convert = [](auto value) { return A(widen(value)); };
  product.for_each_chunk(storage, convert, [&] {
    if constexpr (sizeof(A) == 8) {  // there are no registers to keep two sums of doubles while a chunk is loaded
      A own[kThreadRows][kThreadColumns] = {};
      multiply(own);
      add(sum, own);
    } else {
      multiply(part);
      if (++chunks % kChunksOfPart == 0) move(sum, part);
    }
  });
  move(sum, part);
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r)
    product.template store_row<kThreadColumns>(
        thread_row + r * kRowThreads, [&](int c) { return thread_column + c * kColumnThreads; },
        [&](int c) { return sum[r][c]; });
}

template <class T>
int launch_products(const WeightGradient<T>* gradients, int count, int64_t tiles, accumulation_t<T>* workspace,
                    Stream stream) {
  if constexpr (!std::is_same_v<T, double>)
    if (weight_gradient_on_tensor_cores<T>(gradients[0].shape.layer))
      return launch_mma_weight_products(gradients, count, tiles, workspace, stream);
  return launch_weight_products(weight_gradient_kernel<T>, gradients, count, tiles, workspace, stream);
}

}  // namespace

template <class T>
int64_t weight_gradient_tiles(const WeightShape& shape) {
  return WeightPlan(shape, 0, 1, weight_gradient_on_tensor_cores<T>(shape.layer)).tiles();
}

template <class T>
int64_t weight_gradient_workspace(const WeightShape& shape, int64_t images, int64_t tiles) {
  return WeightPlan(shape, images, tiles, weight_gradient_on_tensor_cores<T>(shape.layer)).partial();
}

template <class T>
int launch_weight_gradients(const WeightGradient<T>* gradients, int count, int64_t tiles, accumulation_t<T>* workspace,
                            Stream stream) {
  if (count == 0) return 0;
  if (int error = launch_products(gradients, count, tiles, workspace, stream)) return error;
  SplitSum<T> sums[kMaxWeightGradients];
  for (int i = 0; i < count; ++i) {
    const WeightGradient<T>& g = gradients[i];
    const bool tensor_cores = weight_gradient_on_tensor_cores<T>(g.shape.layer);
    const WeightPlan plan(g.shape, g.first.images + g.second.images, tiles, tensor_cores);
    sums[i] = {workspace, plan.splits, plan.rows * plan.columns, g.target};
    workspace += plan.partial();
  }
  return launch_add_splits(sums, count, stream);
}

#define INSTANTIATE(T)                                                                 \
  template int64_t weight_gradient_tiles<T>(const WeightShape&);                       \
  template int64_t weight_gradient_workspace<T>(const WeightShape&, int64_t, int64_t); \
  template int launch_weight_gradients(const WeightGradient<T>*, int, int64_t, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
