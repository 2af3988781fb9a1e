// Kernels for any processor: 16-byte vectors (SSE2, NEON, ...), whatever the compiler takes as its baseline.
#include <cmath>
#include <cstdint>
#include <utility>

#define PDB_ISA generic
#define PDB_VECTOR_BYTES 16
#include "cpu/kernels/kernels_impl.h"
