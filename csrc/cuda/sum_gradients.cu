// Sums in a fixed order and without atomics: the gradients of bias and peephole weights, which are sums of gate gradients
// over images, and the parts of a weight gradient.
#include "kernels.h"
#include "launch.h"

namespace pdb::cuda {
namespace {

constexpr int kThreads = 256;

template <class A>
struct Storage {
  A sum[kThreads];
};

// A block sums one row of (images, rows, pixels).
template <class T, class A>
__global__ void __launch_bounds__(kThreads)
    bias_gradient_kernel(const A* grad_gates, int64_t images, int64_t rows, int64_t pixels, const A* before, T* grad_bias) {
  auto& storage = shared_storage<Storage<A>>();
  const int64_t row = blockIdx.x;
  A sum = 0;
  for (int64_t e = threadIdx.x; e < images * pixels; e += kThreads)
    sum += grad_gates[(e / pixels * rows + row) * pixels + e % pixels];
  storage.sum[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) storage.sum[threadIdx.x] += storage.sum[threadIdx.x + half];
  }
  if (threadIdx.x == 0) narrow(before ? before[row] + storage.sum[0] : storage.sum[0], grad_bias[row]);
}

// A thread sums the three peephole weights of one channel and pixel over all frames and images.
template <class T, class A, class R>
__global__ void __launch_bounds__(kThreads)
    peephole_gradient_kernel(Layer layer, int64_t first, int64_t frames, const A* grad_gates, const A* cells, const T* c_0,
                             const A* before, R* grad_peephole) {
  const int64_t plane = layer.channels * layer.pixels(), state = layer.batch * plane;
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < plane; e += gridDim.x * int64_t(kThreads)) {
    A sum_i = 0, sum_f = 0, sum_o = 0;
    if (before) sum_i = before[e], sum_f = before[plane + e], sum_o = before[2 * plane + e];
    for (int64_t t = first; t < first + frames; ++t) {
      for (int64_t n = 0; n < layer.batch; ++n) {
        const int64_t at = n * plane + e;
        const A c = cells[t * state + at];
        const A c_previous = t != layer.first() ? cells[(t + (layer.reverse ? 1 : -1)) * state + at]
                             : c_0              ? A(widen(c_0[at]))
                                                : A(0);
        const A* grad = grad_gates + ((t - first) * layer.batch + n) * 4 * plane + e;
        sum_i += grad[0] * c_previous;
        sum_f += grad[plane] * c_previous;
        sum_o += grad[2 * plane] * (layer.peephole_current ? c : c_previous);
      }
    }
    narrow(sum_i, grad_peephole[e]);
    narrow(sum_f, grad_peephole[plane + e]);
    narrow(sum_o, grad_peephole[2 * plane + e]);
  }
}

// grad_weight[e] = before[e] + the sum of partial[split][e] over the splits.
template <class T, class A>
__global__ void __launch_bounds__(kThreads)
    add_splits_kernel(const A* before, const A* partial, int64_t splits, int64_t count, T* grad_weight) {
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < count; e += gridDim.x * int64_t(kThreads)) {
    A sum = before ? before[e] : A(0);
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * count + e];
    narrow(sum, grad_weight[e]);
  }
}

}  // namespace

template <class T>
int launch_bias_gradient(const Layer& layer, int64_t images, const accumulation_t<T>* grad_gates,
                         const accumulation_t<T>* before, T* grad_bias, Stream stream) {
  return launch(bias_gradient_kernel<T, accumulation_t<T>>, 4 * layer.channels, kThreads, stream, grad_gates, images,
                4 * layer.channels, layer.pixels(), before, grad_bias);
}

template <class T, class R>
int launch_peephole_gradient(const Layer& layer, int64_t first, int64_t frames, const accumulation_t<T>* grad_gates,
                             const accumulation_t<T>* cells, const T* c_0, const accumulation_t<T>* before,
                             R* grad_peephole, Stream stream) {
  return launch(peephole_gradient_kernel<T, accumulation_t<T>, R>, grid_for(layer.channels * layer.pixels(), kThreads),
                kThreads, stream, layer, first, frames, grad_gates, cells, c_0, before, grad_peephole);
}

template <class T>
int launch_add_splits(const accumulation_t<T>* before, const accumulation_t<T>* partial, int64_t splits, int64_t count,
                      T* grad_weight, Stream stream) {
  return launch(add_splits_kernel<T, accumulation_t<T>>, grid_for(count, kThreads), kThreads, stream, before, partial,
                splits, count, grad_weight);
}

#define INSTANTIATE_PEEPHOLE(T, R)                                                                                   \
  template int launch_peephole_gradient(const Layer&, int64_t, int64_t, const accumulation_t<T>*,                    \
                                        const accumulation_t<T>*, const T*, const accumulation_t<T>*, R*, Stream);
#define INSTANTIATE(T)                                                                                               \
  template int launch_bias_gradient(const Layer&, int64_t, const accumulation_t<T>*, const accumulation_t<T>*, T*,   \
                                    Stream);                                                                         \
  template int launch_add_splits(const accumulation_t<T>*, const accumulation_t<T>*, int64_t, int64_t, T*, Stream);  \
  INSTANTIATE_PEEPHOLE(T, T)
PDB_FOR_EACH_DTYPE(INSTANTIATE)
INSTANTIATE_PEEPHOLE(Half, float)
INSTANTIATE_PEEPHOLE(BFloat16, float)

}  // namespace pdb::cuda
