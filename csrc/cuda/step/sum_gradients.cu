// Sums in a fixed order and without atomics: the gradients of bias and peephole weights, which are sums of gate
// gradients over images; and the parts of weight gradients.
#include "cuda/common/jobs.h"
#include "cuda/step/kernels.h"
#include "gate.h"

namespace pdb::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBatch = 8;  // loads in flight at a time: one wait for L2 for all of them

// Element e of the result.
template <class T, class A>
__device__ __forceinline__ void put(const SumTarget<T>& target, int64_t e, A sum) {
  if (target.before) sum += target.before[e];
  if (target.gradient)
    target.gradient[e] = narrowed<T>(sum);
  else
    target.sum[e] = sum;
}

template <class A>
struct Storage {
  A sum[kThreads];
};

template <class T>
using BiasJobs = Jobs<BiasGradient<T>, kMaxBiasGradients>;

// A block sums one row of (images, rows, pixels).
template <class T>
__global__ void __launch_bounds__(kThreads) bias_gradient_kernel(const __grid_constant__ BiasJobs<T> all) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<Storage<A>>();
  const int index = all.find();
  const BiasGradient<T>& job = all.jobs[index];
  const int64_t row = blockIdx.x - all.first_block[index];
  int64_t image = quotient(threadIdx.x, job.pixels), pixel = threadIdx.x - image * job.pixels;
  A sum = 0;
  while (image < job.images) {
    T value[kBatch] = {};
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (image < job.images) value[i] = job.grad_gates[(image * job.rows + row) * job.pixels + pixel];
      pixel += kThreads;
      while (pixel >= job.pixels) pixel -= job.pixels, ++image;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum += A(widen(value[i]));
  }
  storage.sum[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) storage.sum[threadIdx.x] += storage.sum[threadIdx.x + half];
  }
  if (threadIdx.x == 0) put(job.target, row, storage.sum[0]);
}

// A thread sums the three peephole weights of one channel and pixel over all frames and images.
template <class T, class A>
__global__ void __launch_bounds__(kThreads)
    peephole_gradient_kernel(Layer layer, int64_t first, int64_t frames, const T* grad_gates, const A* cells,
                             const T* c_0, SumTarget<T> target) {
  const int64_t plane = layer.channels * layer.pixels(), state = layer.batch * plane;
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < plane; e += gridDim.x * int64_t(kThreads)) {
    A sum_i = 0, sum_f = 0, sum_o = 0;
    for (int64_t t = first; t < first + frames; ++t) {
      for (int64_t n = 0; n < layer.batch; ++n) {
        const int64_t at = n * plane + e;
        const A c = cells[t * state + at];
        const A c_previous = t != layer.first() ? cells[layer.frame_before(t) * state + at]
                             : c_0              ? A(widen(c_0[at]))
                                                : A(0);
        const T* grad = grad_gates + ((t - first) * layer.batch + n) * kGateCount * plane + e;
        sum_i += widen(grad[kGateI * plane]) * c_previous;
        sum_f += widen(grad[kGateF * plane]) * c_previous;
        sum_o += widen(grad[kGateO * plane]) * (layer.peephole_current ? c : c_previous);
      }
    }
    put(target, kGateI * plane + e, sum_i);
    put(target, kGateF * plane + e, sum_f);
    put(target, kGateO * plane + e, sum_o);
  }
}

template <class T>
using SplitJobs = Jobs<SplitSum<T>, kMaxWeightGradients>;

// A thread adds the parts of one element.
template <class T>
__global__ void __launch_bounds__(kThreads) add_splits_kernel(const __grid_constant__ SplitJobs<T> all) {
  using A = accumulation_t<T>;
  const int index = all.find();
  const SplitSum<T>& job = all.jobs[index];
  const int64_t e = (blockIdx.x - all.first_block[index]) * int64_t(kThreads) + threadIdx.x;
  if (e >= job.count) return;
  A sum = 0;
  for (int64_t split = 0; split < job.splits; split += kBatch) {
    A value[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      value[i] = split + i < job.splits ? job.partial[(split + i) * job.count + e] : A(0);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum += value[i];
  }
  put(job.target, e, sum);
}

}  // namespace

template <class T>
int launch_bias_gradients(const BiasGradient<T>* gradients, int count, Stream stream) {
  BiasJobs<T> all{};
  for (int i = 0; i < count; ++i) all.add(gradients[i], gradients[i].rows);
  return launch(bias_gradient_kernel<T>, all.blocks, kThreads, stream, all);
}

template <class T>
int launch_peephole_gradient(const Layer& layer, int64_t first, int64_t frames, const T* grad_gates,
                             const accumulation_t<T>* cells, const T* c_0, const SumTarget<T>& target, Stream stream) {
  return launch(peephole_gradient_kernel<T, accumulation_t<T>>, grid_for(layer.channels * layer.pixels(), kThreads),
                kThreads, stream, layer, first, frames, grad_gates, cells, c_0, target);
}

template <class T>
int launch_add_splits(const SplitSum<T>* sums, int count, Stream stream) {
  SplitJobs<T> all{};
  for (int i = 0; i < count; ++i) all.add(sums[i], (sums[i].count + kThreads - 1) / kThreads);
  return launch(add_splits_kernel<T>, all.blocks, kThreads, stream, all);
}

#define INSTANTIATE(T)                                                                                                \
  template int launch_bias_gradients(const BiasGradient<T>*, int, Stream);                                            \
  template int launch_add_splits(const SplitSum<T>*, int, Stream);                                                    \
  template int launch_peephole_gradient(const Layer&, int64_t, int64_t, const T*, const accumulation_t<T>*, const T*, \
                                        const SumTarget<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
