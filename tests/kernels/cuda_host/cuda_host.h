// Host emulation of the part of CUDA that csrc/cuda uses: the same kernel text, compiled by g++ or clang++.
//
// A block's threads are fibers (ucontext). Between two barriers they run one after the other in an order drawn anew
// each time, so that a missing __syncthreads() shows as a wrong result: some thread then reads before another has
// written. The lanes of a warp meet at exchange(), on which the warp-wide instructions (mma.h) are built; from there
// each warp goes on at its own speed. Shared memory is a heap block of the exact size, filled with 0xFF (NaN) for every
// block, so that reads of memory that nothing wrote show, and AddressSanitizer sees every access out of bounds. A
// barrier that only some threads reach, or that they reach at different lines, ends the process with a message.
//
// The blocks of a cooperative launch run at the same time, each at its own speed, and communicate through flags
// (persistent/flags.h) under a memory model as weak as the GPU's: what a block stores for others stays its own until a
// thread that comes after the store (in its own program order, or after a barrier) releases it; and what a block has
// once read from others, it sees unchanged until it acquires. When all blocks wait for each other, the first of them
// gives up, as on a GPU after some time: it reports what it waited for, and the launch fails. Not covered: races
// between warps within one phase that the drawn orders miss, occupancy, speed.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __syncthreads() pdb::cuda::host::barrier(__FILE__, __LINE__)

namespace pdb::cuda::host {

struct Index {
  unsigned x;
};

// Set by the scheduler before it resumes a thread.
extern Index thread_index, block_index, block_dim, grid_dim;

void barrier(const char* file, int line);

// The words of every lane of a warp: [lane][word].
using WarpWords = std::array<std::array<uint32_t, 6>, 32>;

// Gives this lane's words and waits for those of the whole warp, which stay valid until its next exchange.
const WarpWords& exchange(const uint32_t (&words)[6]);

// The current block's shared memory. A kernel has one shared_storage().
void* shared_memory(size_t bytes);

// The same for a kernel whose size was given at the launch.
void* dynamic_shared_memory();

// Runs body() once per thread of every block, one block after the other.
void run_grid(int64_t blocks, int threads, const std::function<void()>& body);

// The same with all blocks at the same time. shared_bytes: for dynamic_shared_memory(). Returns 0, or the error of a
// failed assertion.
int run_resident(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& body);

// How many blocks the emulated GPU can hold at once. At first none, so that nothing is launched cooperatively.
extern int64_t resident_blocks;

// The number of cooperative launches so far.
extern int cooperative_launches;

// Stores for other blocks, and loads of what other blocks stored, up to 16 bytes.
void store_global(void* target, const void* value, size_t bytes);
void load_global(const void* source, void* value, size_t bytes);

// Sets a flag and releases; waits until a flag has at least this value and acquires, or ends the launch.
void publish_flag(uint32_t* flag, uint32_t value, const char* file, int line);
struct WaitingFor {
  int layer, step;
  bool backward;
};
void await_flag(const uint32_t* flag, uint32_t value, WaitingFor waiting, const char* file, int line);

// Draws the orders of the following launches from this seed.
void set_seed(uint64_t seed);

// Leaves out the blocks before this one in the following launches; negative: counted from the last, -1.
void run_blocks_from(int64_t block);

// Device::compiled; 0 emulates a GPU for which no kernel was compiled.
extern int compiled_architecture;

// The fault of a barrier, publish or await: none; it is missing; or it does not release or acquire.
enum class Fault { none, missing, relaxed };

// Injects a fault at this line of this file, named by its path below csrc/cuda ("persistent/loop.h"): does a test
// notice?
void inject(Fault fault, const char* file, int line);

}  // namespace pdb::cuda::host

#define threadIdx pdb::cuda::host::thread_index
#define blockIdx pdb::cuda::host::block_index
#define blockDim pdb::cuda::host::block_dim
#define gridDim pdb::cuda::host::grid_dim

namespace pdb::cuda {

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, Stream, Arguments... arguments) {
  host::run_grid(blocks, threads, [&] { kernel(arguments...); });
  return 0;
}

template <class... Parameters, class... Arguments>
int launch_cooperative(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, Stream,
                       Arguments... arguments) {
  return host::run_resident(blocks, threads, static_cast<size_t>(shared_bytes), [&] { kernel(arguments...); });
}

constexpr int64_t kHostProcessors = 132,
                  kHostSharedBytes = 227 * 1024;  // for a block, without the KB that each costs in addition

// Limited by shared memory; registers and threads are part of host::resident_blocks.
template <class... Parameters>
int64_t resident_blocks(void (*)(Parameters...), int, int64_t shared_bytes) {
  const int64_t by_memory = kHostProcessors * ((kHostSharedBytes + 1024) / (shared_bytes + 1024));
  return by_memory < host::resident_blocks ? by_memory : host::resident_blocks;
}

inline char* dynamic_shared_memory() { return static_cast<char*>(host::dynamic_shared_memory()); }

template <class... Parameters>
Device describe_device(void (*)(Parameters...)) {
  return {90, int(kHostProcessors), host::compiled_architecture};
}

template <class S>
S& shared_storage() {
  return *static_cast<S*>(host::shared_memory(sizeof(S)));
}

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// To nearest, ties away from zero, as cvt.rna.tf32.f32.
inline uint32_t round_to_tf32(float value) {
  return std::isfinite(value) ? (to_bits(value) + 0x1000) & ~0x1FFFu : to_bits(value);
}

inline float widen(BFloat16 value) { return from_bits(uint32_t(value.bits) << 16); }

inline void narrow(float value, BFloat16& result) {
  const uint32_t bits = to_bits(value);
  // Round to nearest even; a NaN keeps a set mantissa bit.
  result.bits = std::isnan(value) ? 0x7FFF : static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

inline float widen(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, exponent = value.bits >> 10 & 31,
                 mantissa = value.bits & 1023;
  if (exponent == 31) return from_bits(sign | 0x7F800000 | mantissa << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(float(mantissa), -24);
  return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline void narrow(float value, Half& result) {
  const uint32_t sign = to_bits(value) >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  uint32_t bits;
  if (std::isnan(value)) {
    bits = 0x7FFF;
  } else if (magnitude >= 65520.0f) {
    bits = 0x7C00;
  } else {
    // Rounded to a multiple of the spacing of half precision numbers, which is 2^-24 below 2^-14.
    int exponent;
    std::frexp(magnitude, &exponent);
    const int spacing = magnitude < 0x1p-14f ? -24 : exponent - 11;
    const uint32_t steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -spacing)));
    bits = spacing == -24 ? steps : (uint32_t(exponent + 14) << 10) + (steps - 1024);
  }
  result.bits = static_cast<unsigned short>(sign | bits);
}

}  // namespace pdb::cuda
