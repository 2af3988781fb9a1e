// Measures what one dependent step between two blocks costs at least: a flag written by one block with a release and
// seen by another with an acquire, through the L2 cache. Prints nanoseconds for one way, the best of several runs.
// gpu_check.py compiles and runs it; the floor of a sequence of T steps is T such ways.
#include <cstdio>

__device__ void store(unsigned* flag, unsigned value) {
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

__device__ unsigned load(unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// Block 0 counts up in flags[0] what block 1 answers in flags[32], another cache line. Two blocks of one thread are
// always resident at once.
__global__ void ping_pong(unsigned* flags, unsigned rounds) {
  unsigned* mine = flags + 32 * blockIdx.x;
  unsigned* other = flags + 32 * (1 - blockIdx.x);
  for (unsigned round = 1; round <= rounds; ++round) {
    if (blockIdx.x == 0) store(mine, round);
    while (load(other) < round) {
    }
    if (blockIdx.x == 1) store(mine, round);
  }
}

int main() {
  constexpr unsigned kRounds = 20000;
  unsigned* flags;
  cudaEvent_t begin, end;
  if (cudaMalloc(&flags, 256) != cudaSuccess) return 1;
  if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) return 1;
  float best = 1e30f;
  for (int run = 0; run < 5; ++run) {
    if (cudaMemset(flags, 0, 256) != cudaSuccess) return 1;
    cudaEventRecord(begin);
    ping_pong<<<2, 1>>>(flags, kRounds);
    cudaEventRecord(end);
    float milliseconds;
    if (cudaEventSynchronize(end) != cudaSuccess || cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess)
      return 1;
    if (milliseconds < best) best = milliseconds;
  }
  std::printf("%.1f\n", best * 1e6 / (2.0 * kRounds));
  return 0;
}
