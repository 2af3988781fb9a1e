// A block that waits for a flag that nobody sets, on a real GPU: the launch must end with a failed assertion within
// seconds. tests/kernels/test_on_gpu_device.py compiles and runs it.
#include <cstdio>

#include "cuda/persistent/flags.h"

__global__ void starve(const uint32_t* flag) {
  const pdb::cuda::Waiting waiting{3, 7, true};
  PDB_AWAIT(flag, 1u, waiting);
}

int main() {
  uint32_t* flag;
  if (cudaMalloc(&flag, sizeof *flag) != cudaSuccess || cudaMemset(flag, 0, sizeof *flag) != cudaSuccess) return 2;
  starve<<<1, 32>>>(flag);
  const cudaError_t error = cudaDeviceSynchronize();
  std::printf("%s\n", cudaGetErrorName(error));
  return error == cudaErrorAssert ? 0 : 1;
}
