// Weight gradient of one of the layer's convolutions over all images at once, by fused multiply-adds.
#include "weight_gradient.h"

#include "add.h"

namespace pdb::cuda {
namespace {

constexpr int kRowThreads = 16, kColumnThreads = 8;  // how a block's threads lie over its part of the weight
constexpr int kThreadRows = kBlockRows / kRowThreads, kThreadColumns = kBlockColumns / kColumnThreads;
constexpr int kPitch = kChunk + 1;  // so that the same pixel of several rows falls into different banks
static_assert(kRowThreads * kColumnThreads == kWeightThreads, "every thread has its part");

template <class T, class A>
__global__ void __launch_bounds__(kWeightThreads) weight_gradient_kernel(WeightProduct<T> product, A* partial) {
  auto& storage = shared_storage<WeightStorage<A, kPitch>>();
  const int thread_row = threadIdx.x / kColumnThreads, thread_column = threadIdx.x % kColumnThreads;
  A sum[kThreadRows][kThreadColumns] = {};
  const auto convert = [](auto value) { return A(widen(value)); };
  product.for_each_chunk(storage, convert, [&] {
    A part[kThreadRows][kThreadColumns] = {};
    for (int p = 0; p < kChunk; ++p) {
      A input[kThreadColumns];
#pragma unroll
      for (int c = 0; c < kThreadColumns; ++c) input[c] = storage.input[(thread_column + c * kColumnThreads) * kPitch + p];
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r) {
        const A grad = storage.grad[(thread_row + r * kRowThreads) * kPitch + p];
#pragma unroll
        for (int c = 0; c < kThreadColumns; ++c) part[r][c] += grad * input[c];
      }
    }
    add(sum, part);
  });
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
    for (int c = 0; c < kThreadColumns; ++c)
      if (A* target = product.target(partial, thread_row + r * kRowThreads, thread_column + c * kColumnThreads))
        *target = sum[r][c];
  }
}

}  // namespace

int64_t weight_gradient_splits(const Layer& layer, int64_t images, int64_t channels) {
  return WeightPlan(layer, images, channels).splits;
}

int64_t weight_gradient_workspace(const Layer& layer, int64_t images, int64_t channels) {
  const WeightPlan plan(layer, images, channels);
  return plan.max_splits * plan.rows * plan.columns;
}

template <class T>
int launch_weight_gradient(const Layer& layer, int64_t channels, const ImagePairs<T>& first, const ImagePairs<T>& second,
                           accumulation_t<T>* partial, Stream stream) {
  const WeightPlan plan(layer, first.images + second.images, channels);
  const WeightProduct<T> product{layer, plan, channels, first, second};
  return launch(weight_gradient_kernel<T, accumulation_t<T>>, plan.blocks(), kWeightThreads, stream, product, partial);
}

#define INSTANTIATE(T)                                                                                         \
  template int launch_weight_gradient(const Layer&, int64_t, const ImagePairs<T>&, const ImagePairs<T>&,       \
                                      accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
