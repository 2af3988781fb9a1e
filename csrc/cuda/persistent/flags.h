// How the blocks of a cooperative launch hand data to each other: stores, a barrier, then one thread publishes a flag;
// others await the flag and load past L1. PDB_PUBLISH releases, PDB_AWAIT acquires, both at the scope of the GPU: what
// a block stored before the barrier before its publish is seen by whoever, after a barrier, comes after the await. The
// loads bypass L1, which is not coherent, and the compiler cannot move them above the await.
//
// No wait is endless: a block that has waited for kPatience clock cycles, about two seconds and thousands of times what
// a step takes, prints the layer and step, and ends the launch. A mistake in the flags is then an error of the next
// call that synchronises, like a failed assertion in a kernel, rather than a GPU that hangs.
#pragma once

#include <cassert>

#include "cuda/common/launch.h"

#if defined(__CUDACC__) && defined(__GNUC__) && defined(NDEBUG)  // else <cassert> declares it
extern "C" __host__ __device__ void __assert_fail(const char*, const char*, unsigned, const char*) noexcept
    __attribute__((__noreturn__));
#endif

namespace pdb::cuda {

// The unit of the exchange and of shared memory: 16 bytes, whatever they hold.
struct __attribute__((may_alias, aligned(16))) Chunk {
  uint32_t word[4];
};

// Two neighbours in a row, which one instruction loads or stores.
template <class S>
struct __attribute__((may_alias, aligned(2 * sizeof(S)))) Pair {
  S first, second;
};

// What a block is waiting for, in the caller's numbers of layers and steps.
struct Waiting {
  int layer, step;
  bool backward;
};

// Clock cycles, and looks at the flag: the clock alone may have run on while the whole GPU was stopped, for example by
// a debugger.
constexpr int64_t kPatience = int64_t(4) << 30;
constexpr int kLooks = 1 << 16;

#if defined(__CUDACC__)

#define PDB_PUBLISH(flag, value) pdb::cuda::publish_flag(flag, value)
#define PDB_AWAIT(flag, value, waiting) pdb::cuda::await_flag(flag, value, waiting)

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700

__device__ __forceinline__ void publish_flag(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(flag)), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t read_flag(const uint32_t* flag) {
  uint32_t seen;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(__cvta_generic_to_global(flag)) : "memory");
  return seen;
}

// Ends the kernel as assert() does, with a file name that names the layer and a line number that is the step.
static __device__ __noinline__ void give_up(Waiting waiting) {
  constexpr int kNames = 8;
  static const char names[kNames][48] = {
      "pdb_ext: persistent launch, layer 0, step", "pdb_ext: persistent launch, layer 1, step",
      "pdb_ext: persistent launch, layer 2, step", "pdb_ext: persistent launch, layer 3, step",
      "pdb_ext: persistent launch, layer 4, step", "pdb_ext: persistent launch, layer 5, step",
      "pdb_ext: persistent launch, layer 6, step", "pdb_ext: persistent launch, layer 7, step"};
#if defined(__GNUC__)
  __assert_fail("a neighbouring tile's flag came within 2 seconds", names[waiting.layer % kNames],
                unsigned(waiting.step),
                waiting.backward ? "persistent_kernel, backward" : "persistent_kernel, forward");
#endif
  __trap();
}

__device__ __forceinline__ void await_flag(const uint32_t* flag, uint32_t value, Waiting waiting) {
  if (read_flag(flag) >= value) return;
  const long long begin = clock64();
  for (int looks = 0; read_flag(flag) < value; ++looks)
    if (looks > kLooks && clock64() - begin > kPatience) give_up(waiting);
}

#else  // resident_blocks() keeps the kernels from being launched there

__device__ __forceinline__ void publish_flag(uint32_t*, uint32_t) { __trap(); }
__device__ __forceinline__ void await_flag(const uint32_t*, uint32_t, Waiting) { __trap(); }

#endif

__device__ __forceinline__ Chunk load_global(const Chunk* source) {
  Chunk c;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
               : "l"(__cvta_generic_to_global(source))
               : "memory");
  return c;
}

__device__ __forceinline__ float load_global(const float* source) {
  float value;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(__cvta_generic_to_global(source)) : "memory");
  return value;
}

__device__ __forceinline__ double load_global(const double* source) {
  double value;
  asm volatile("ld.global.cg.f64 %0, [%1];" : "=d"(value) : "l"(__cvta_generic_to_global(source)) : "memory");
  return value;
}

// Half and BFloat16.
template <class T>
__device__ __forceinline__ T load_global(const T* source) {
  T value;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(value.bits) : "l"(__cvta_generic_to_global(source)) : "memory");
  return value;
}

template <class T>
__device__ __forceinline__ void store_global(T* target, const T& value) {
  *target = value;
}

// The compiler makes two stores of some pairs of halves.
template <class T>
__device__ __forceinline__ void store_global(Pair<T>* target, const Pair<T>& value) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t bits = value.first.bits | uint32_t(value.second.bits) << 16;
    asm volatile("st.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(target)), "r"(bits) : "memory");
  } else {
    *target = value;
  }
}

#else

#define PDB_PUBLISH(flag, value) pdb::cuda::host::publish_flag(flag, value, __FILE__, __LINE__)
#define PDB_AWAIT(flag, value, waiting) \
  pdb::cuda::host::await_flag(flag, value, {(waiting).layer, (waiting).step, (waiting).backward}, __FILE__, __LINE__)

template <class T>
T load_global(const T* source) {
  T value;
  host::load_global(source, &value, sizeof value);
  return value;
}

template <class T>
void store_global(T* target, const T& value) {
  host::store_global(target, &value, sizeof value);
}

#endif

}  // namespace pdb::cuda
