// Tensor-core products of one warp: c (16 x 8, float) += a (16 x 8 words) b (8 words x 8). A word of 32 bits holds two
// half-precision values of neighbouring depth, or one float rounded to TF32, so that one layout serves all three types:
// mma.m16n8k16 and mma.m16n8k8 spread them alike over the lanes. With g = lane / 4 and t = lane % 4 a lane holds
//   a[0..3]: words (row g, depth t), (g + 8, t), (g, t + 4), (g + 8, t + 4)
//   b[0..1]: words (depth t, column g), (t + 4, g)
//   c[0..3]: (row g, column 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
#pragma once

#include "cuda/common/launch.h"
#include "gate.h"

namespace pdb::cuda {

constexpr int kMmaRows = 16, kMmaColumns = 8, kMmaWords = 8;

// A weight whose rows are gates is packed in blocks of 16 rows, each with two gates of 8 channels: for four gates in
// turn i and f, then o and g. A lane then holds all gates of a channel at two pixels: those of `gate` in c[gate % 2 *
// 2] and the next element of its block gate / 2. With one gate a block has 16 channels, and a lane two of them.
PDB_HD constexpr int mma_gate_blocks(int gates) { return gates > 1 ? gates / 2 : 1; }
constexpr int kMmaGateBlocks = mma_gate_blocks(kGateCount);

template <int kGates = kGateCount, class I>
PDB_HD void mma_gate_row(I row, I& channel, I& gate) {
  constexpr int kBlocks = mma_gate_blocks(kGates);
  gate = kGates == 1 ? 0 : row / kMmaRows % kBlocks * 2 + row / 8 % 2;
  channel = kGates == 1 ? row : row / (kMmaRows * kBlocks) * 8 + row % 8;
}

// Values of T in a word. float stands for TF32.
template <class T>
constexpr int kPerWord = sizeof(float) / sizeof(T);

// Input depth in whole products.
template <class T>
PDB_HD int64_t mma_steps(int64_t channels) {
  return (channels + kMmaWords * kPerWord<T> - 1) / (kMmaWords * kPerWord<T>);
}

__device__ __forceinline__ uint32_t operand_bits(Half value, Half) { return value.bits; }
__device__ __forceinline__ uint32_t operand_bits(BFloat16 value, BFloat16) { return value.bits; }
__device__ __forceinline__ uint32_t operand_bits(float value, Half) { return narrowed<Half>(value).bits; }
__device__ __forceinline__ uint32_t operand_bits(float value, BFloat16) { return narrowed<BFloat16>(value).bits; }
__device__ __forceinline__ uint32_t operand_bits(float value, float) { return round_to_tf32(value); }

#if defined(__CUDACC__)

template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// These instructions do not exist below sm_80; Device::has_tensor_cores keeps the kernels from being launched there.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define PDB_MMA(SHAPE, TYPE)                                  \
  asm("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE \
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "          \
      "{%0,%1,%2,%3};"                                        \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])        \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define PDB_MMA(SHAPE, TYPE) __trap()
#endif

template <>
__device__ __forceinline__ void mma<Half>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PDB_MMA("m16n8k16", "f16");
}

template <>
__device__ __forceinline__ void mma<BFloat16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PDB_MMA("m16n8k16", "bf16");
}

template <>
__device__ __forceinline__ void mma<float>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PDB_MMA("m16n8k8", "tf32");
}

#undef PDB_MMA

#else

// The product of two words.
inline double product(uint32_t a, uint32_t b, Half) {
  auto value = [](uint32_t bits) { return double(widen(Half{static_cast<unsigned short>(bits)})); };
  return value(a & 0xFFFF) * value(b & 0xFFFF) + value(a >> 16) * value(b >> 16);
}
inline double product(uint32_t a, uint32_t b, BFloat16) {
  return double(from_bits(a << 16)) * from_bits(b << 16) +
         double(from_bits(a & 0xFFFF0000)) * from_bits(b & 0xFFFF0000);
}
inline double product(uint32_t a, uint32_t b, float) {
  // The hardware reads the upper 19 bits only.
  return double(from_bits(a & ~0x1FFFu)) * from_bits(b & ~0x1FFFu);
}

template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const host::WarpWords& words = host::exchange(mine);
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (int depth = 0; depth < kMmaWords; ++depth)
      sum += product(words[row % 8 * 4 + depth % 4][row / 8 + depth / 4 * 2],
                     words[column * 4 + depth % 4][4 + depth / 4], T{});
    c[i] = static_cast<float>(sum);
  }
}

#endif

}  // namespace pdb::cuda
