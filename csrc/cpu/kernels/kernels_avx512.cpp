// Kernels for processors with avx512f, avx512dq, avx512vl, avx512bw, avx2, fma. Only dispatch.cpp may call them.
#if defined(__x86_64__)

#include <cmath>
#include <cstdint>
#include <utility>

// After the standard headers, so that no inline function of theirs is compiled for this instruction set.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#endif

#define PDB_ISA avx512
#define PDB_VECTOR_BYTES 64
#include "cpu/kernels/kernels_impl.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
