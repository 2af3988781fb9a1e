// Rearranges convolution weights so that the convolution cores read them row by row, or as fragments of tensor-core
// products (see kernels.h).
#include "cuda/common/jobs.h"
#include "cuda/common/mma.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {
namespace {

constexpr int kThreads = 256;

// One weight of a launch. depth, outputs: of the convolution that it is packed for.
template <class T>
struct PackJob {
  const T* weight;
  int64_t rows, columns, taps, gates, depth, outputs, pitch, steps, count;
  bool transposed, tensor_cores;
  accumulation_t<T>* packed;

  __device__ T read(int64_t row, int64_t column, int64_t tap) const {
    return weight[(row * columns + column) * taps + tap];
  }

  // Element e of (depth, taps, pitch).
  __device__ accumulation_t<T> element(int64_t e) const {
    using A = accumulation_t<T>;
    const int64_t rest = quotient(e, pitch), output = e - rest * pitch, at = quotient(rest, taps),
                  tap = rest - at * taps;
    if (output >= outputs) return A(0);
    if (transposed) return A(widen(read(at, output, taps - 1 - tap)));
    const int64_t channel = quotient(output, gates), gate = output - channel * gates;
    return A(widen(read(gate * quotient(rows, gates) + channel, at, tap)));
  }

  // The operand at (output row, depth, tap); 0 beyond the weight.
  __device__ uint32_t operand(int64_t row, int64_t channel, int64_t tap) const {
    if (channel >= depth) return 0;
    if (transposed) return row < columns ? operand_bits(read(channel, row, taps - 1 - tap), T{}) : 0;
    int64_t output, gate;
    if (gates == 4)
      mma_gate_row<4>(row, output, gate);
    else if (gates == 2)
      mma_gate_row<2>(row, output, gate);
    else
      mma_gate_row<1>(row, output, gate);
    const int64_t outputs = quotient(rows, gates);
    return output < outputs ? operand_bits(read(gate * outputs + output, channel, tap), T{}) : 0;
  }

  // Word e of the fragments (row block, step, tap, lane, 4).
  __device__ uint32_t word(int64_t e) const {
    const int64_t word = e % 4, lane = e / 4 % 32, rest = quotient(e / 128, taps), tap = e / 128 - rest * taps;
    const int64_t block = quotient(rest, steps), step = rest - block * steps;
    const int64_t row = block * kMmaRows + lane / 4 + word % 2 * 8;
    const int64_t channel = (step * kMmaWords + lane % 4 + word / 2 * 4) * kPerWord<T>;
    uint32_t bits = 0;
    for (int i = 0; i < kPerWord<T>; ++i) bits |= operand(row, channel + i, tap) << (16 * i);
    return bits;
  }
};

template <class T>
PackJob<T> make_job(const WeightToPack<T>& w) {
  const bool transposed = w.packing == Packing::transposed;
  const int64_t taps = w.kernel * w.kernel, depth = transposed ? w.rows : w.columns;
  const int64_t outputs = transposed ? w.columns : w.rows, pitch = packed_pitch(outputs);
  const int64_t multiple = kMmaRows * (transposed ? kMmaTransposedBlocks : kMmaGatesBlocks);
  const int64_t row_blocks = (outputs + multiple - 1) / multiple * multiple / kMmaRows;
  int64_t steps = 0;
  if constexpr (sizeof(accumulation_t<T>) == 4) steps = mma_steps<T>(depth);
  const int64_t count = w.tensor_cores ? row_blocks * steps * taps * 128 : depth * taps * pitch;
  return {w.weight, w.rows, w.columns, taps,       w.gates,        depth,   outputs,
          pitch,    steps,  count,     transposed, w.tensor_cores, w.packed};
}

template <class T>
using PackJobs = Jobs<PackJob<T>, kMaxWeightsToPack>;

template <class T>
__global__ void __launch_bounds__(kThreads) pack_weights_kernel(const __grid_constant__ PackJobs<T> all) {
  const int index = all.find();
  const PackJob<T>& job = all.jobs[index];
  const int64_t e = (blockIdx.x - all.first_block[index]) * int64_t(kThreads) + threadIdx.x;
  if (e >= job.count) return;
  if constexpr (sizeof(accumulation_t<T>) == 4)
    if (job.tensor_cores) {
      reinterpret_cast<uint32_t*>(job.packed)[e] = job.word(e);
      return;
    }
  job.packed[e] = job.element(e);
}

}  // namespace

template <class T>
int64_t packed_size(const WeightToPack<T>& weight) {
  return make_job(weight).count;
}

template <class T>
int launch_pack_weights(const WeightToPack<T>* weights, int count, Stream stream) {
  PackJobs<T> all{};
  for (int i = 0; i < count; ++i) {
    const PackJob<T> job = make_job(weights[i]);
    all.add(job, (job.count + kThreads - 1) / kThreads);
  }
  return launch(pack_weights_kernel<T>, all.blocks, kThreads, stream, all);
}

#define INSTANTIATE(T)                                  \
  template int64_t packed_size(const WeightToPack<T>&); \
  template int launch_pack_weights(const WeightToPack<T>*, int, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
