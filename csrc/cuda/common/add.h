// Summation in parts, shared by the kernels that multiply.
#pragma once

#include "cuda/common/launch.h"

namespace pdb::cuda {

// sum += part. Sums of sums: rounding errors grow with the length of one sum, which this keeps short.
template <int kRows, int kColumns, class A>
__device__ __forceinline__ void add(A (&sum)[kRows][kColumns], const A (&part)[kRows][kColumns]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sum[r][c] += part[r][c];
  }
}

// As add(), and part is zero afterwards.
template <int kRows, int kColumns, class A>
__device__ __forceinline__ void move(A (&sum)[kRows][kColumns], A (&part)[kRows][kColumns]) {
  add(sum, part);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) part[r][c] = 0;
  }
}

}  // namespace pdb::cuda
