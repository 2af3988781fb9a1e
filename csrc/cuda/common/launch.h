// What a kernel file needs from its compiler: under nvcc the CUDA runtime; under a host compiler the emulation in
// tests/kernels/cuda_host/cuda_host.h, which runs the same kernel text with one fiber per thread.
#pragma once

#include <climits>
#include <cstdint>
#include <optional>
#include <tuple>

#include "cuda/common/device.h"
#include "cuda/common/dtype.h"
#include "cuda/common/layer.h"
#include "cuda/common/once.h"

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace pdb::cuda {

// Launches `blocks` x `threads` and returns the launch's cudaError_t. No blocks: nothing to do.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, Stream stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(arguments...);
  return cudaGetLastError();
}

// See resident_blocks(). Nothing if the CUDA runtime fails.
inline std::optional<int64_t> ask_resident_blocks(const void* kernel, int device, int threads, int64_t shared_bytes) {
  int processors = 0, cooperative = 0, largest = 0, blocks = 0;
  bool ok = cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device) == cudaSuccess &&
            cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
            cudaDeviceGetAttribute(&largest, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  if (ok && (!cooperative || shared_bytes > largest)) return 0;
  const size_t bytes = static_cast<size_t>(shared_bytes);
  ok = ok && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, largest) == cudaSuccess &&
       cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes) == cudaSuccess;
  if (!ok) cudaGetLastError();
  return ok ? std::optional<int64_t>(int64_t(blocks) * processors) : std::nullopt;
}

// How many blocks of this kernel, with so much dynamic shared memory, the current device runs at once; 0 if it can run
// none or cannot launch cooperatively. Also allows the kernel that much shared memory. The runtime is asked once per
// device and size: its half a dozen calls would take longer than the launch.
template <class... Parameters>
int64_t resident_blocks(void (*kernel)(Parameters...), int threads, int64_t shared_bytes) {
  static Answers<std::tuple<const void*, int, int, int64_t>, int64_t> known;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return cudaGetLastError(), 0;
  const void* const function = reinterpret_cast<const void*>(kernel);
  return known
      .get({function, device, threads, shared_bytes},
           [&] { return ask_resident_blocks(function, device, threads, shared_bytes); })
      .value_or(0);
}

// As launch(), for blocks that wait for each other, at most resident_blocks() of them. More give the error
// cudaErrorCooperativeLaunchTooLarge rather than a deadlock.
template <class... Parameters, class... Arguments>
int launch_cooperative(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, Stream stream,
                       Arguments... arguments) {
  void* pointers[] = {&arguments...};
  const cudaError_t error =
      cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), static_cast<unsigned>(blocks), threads,
                                  pointers, static_cast<size_t>(shared_bytes), stream);
  return error != cudaSuccess ? error : cudaGetLastError();
}

// The block's shared memory, of the size given at the launch, aligned to 16 bytes.
__device__ __forceinline__ char* dynamic_shared_memory() {
  extern __shared__ __align__(16) char dynamic_shared[];
  return dynamic_shared;
}

// The block's shared memory, holding one S. Its contents are indeterminate at first.
template <class S>
__device__ __forceinline__ S& shared_storage() {
  __shared__ S storage;
  return storage;
}

// See describe_device(). Nothing if the CUDA runtime fails.
inline std::optional<Device> ask_device(const void* kernel, int index) {
  int major = 0, minor = 0;
  Device device{};
  cudaFuncAttributes attributes{};
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index) != cudaSuccess ||
      cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index) != cudaSuccess)
    return cudaGetLastError(), std::nullopt;
  device.architecture = 10 * major + minor;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess) device.compiled = attributes.ptxVersion;
  if (error != cudaSuccess) cudaGetLastError();  // a GPU without our kernels is no error: the caller takes another path
  const bool known = error == cudaSuccess || error == cudaErrorNoKernelImageForDevice ||
                     error == cudaErrorInvalidDeviceFunction || error == cudaErrorUnsupportedPtxVersion;
  return known ? std::optional<Device>(device) : std::nullopt;
}

// The calling thread's GPU, and the architecture (80: sm_80) for which the loaded kernel was compiled; asked once per
// GPU.
template <class... Parameters>
Device describe_device(void (*kernel)(Parameters...)) {
  static Answers<int, Device> known;
  int index = 0;
  if (cudaGetDevice(&index) != cudaSuccess) return cudaGetLastError(), Device{};
  return known.get(index, [&] { return ask_device(reinterpret_cast<const void*>(kernel), index); }).value_or(Device{});
}

__device__ __forceinline__ float widen(Half value) {
  __half_raw raw;
  raw.x = value.bits;
  return __half2float(raw);
}

__device__ __forceinline__ float widen(BFloat16 value) {
  __nv_bfloat16_raw raw;
  raw.x = value.bits;
  return __bfloat162float(raw);
}

__device__ __forceinline__ void narrow(float value, Half& result) {
  result.bits = static_cast<__half_raw>(__float2half_rn(value)).x;
}

__device__ __forceinline__ void narrow(float value, BFloat16& result) {
  result.bits = static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(value)).x;
}

__device__ __forceinline__ uint32_t round_to_tf32(float value) {
  uint32_t bits;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#else
  bits = __float_as_uint(value);  // these have no TF32 products
#endif
  return bits;
}

}  // namespace pdb::cuda

#else

#include "cuda_host.h"

#endif

namespace pdb::cuda {

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ void narrow(float value, float& result) { result = value; }
__device__ __forceinline__ void narrow(double value, double& result) { result = value; }

// a / b for non-negative numbers; in 32 bits if both fit, which takes a quarter of the instructions.
PDB_HD int64_t quotient(int64_t a, int64_t b) {
  return (a | b) >> 31 ? a / b : int64_t(static_cast<uint32_t>(a) / static_cast<uint32_t>(b));
}

// The number of blocks for a kernel whose threads stride over `count` elements.
inline int64_t grid_for(int64_t count, int threads) {
  const int64_t blocks = (count + threads - 1) / threads;
  return blocks < 65536 ? blocks : 65536;
}

template <class T, class A>
__device__ __forceinline__ T narrowed(A value) {
  T result;
  narrow(value, result);
  return result;
}

}  // namespace pdb::cuda
