// What a kernel file needs from its compiler: under nvcc the CUDA runtime; under a host compiler the emulation in
// tests/cuda_host/cuda_host.h, which runs the same kernel text with one fiber per thread.
#pragma once

#include <climits>
#include <cstdint>

#include "device.h"
#include "dtype.h"
#include "sequence.h"

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

// How many blocks of this kernel, with so much dynamic shared memory, run on the current device at once; 0 if none can, or
// the device cannot launch cooperatively. Allows the kernel that much.
template <class... Parameters>
int64_t resident_blocks(void (*kernel)(Parameters...), int threads, int64_t shared_bytes) {
  int device = 0, processors = 0, cooperative = 0, largest = 0, blocks = 0;
  bool ok = cudaGetDevice(&device) == cudaSuccess &&
            cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device) == cudaSuccess &&
            cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
            cudaDeviceGetAttribute(&largest, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  if (ok && (!cooperative || shared_bytes > largest)) return 0;
  const int bytes = static_cast<int>(shared_bytes);
  ok = ok && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, largest) == cudaSuccess &&
       cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes) == cudaSuccess;
  if (!ok) cudaGetLastError();
  return ok ? int64_t(blocks) * processors : 0;
}

// As launch(), of blocks that wait for each other; no more than resident_blocks(). cudaErrorCooperativeLaunchTooLarge
// rather than a deadlock if there were more.
template <class... Parameters, class... Arguments>
int launch_cooperative(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, Stream stream,
                       Arguments... arguments) {
  void* pointers[] = {&arguments...};
  const cudaError_t error = cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel),
                                                        static_cast<unsigned>(blocks), threads, pointers,
                                                        static_cast<size_t>(shared_bytes), stream);
  return error != cudaSuccess ? error : cudaGetLastError();
}

// The block's shared memory of a size given at the launch, aligned to 16 bytes.
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

// The calling thread's GPU, and for which architecture (80: sm_80) the kernel as loaded was compiled.
template <class... Parameters>
Device describe_device(void (*kernel)(Parameters...)) {
  int index = 0, major = 0, minor = 0;
  Device device{};
  cudaFuncAttributes attributes;
  if (cudaGetDevice(&index) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index) == cudaSuccess &&
      cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index) == cudaSuccess &&
      cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess)
    device.compiled = attributes.ptxVersion;
  else
    cudaGetLastError();  // a GPU without a kernel of ours is no error here: the caller takes another path
  device.architecture = 10 * major + minor;
  return device;
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
  bits = __float_as_uint(value);  // there are no TF32 products to feed
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

// Blocks of a kernel whose threads stride over `count` elements.
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
