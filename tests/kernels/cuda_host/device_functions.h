// The float functions of csrc/cell.h as inexact as a GPU's may be, for kernels on the host: expf, tanhf and __fdividef
// within 2 ulp. Included before everything else. The error is a pseudo-random function of the argument, and is off at
// first.
#pragma once

#define PDB_DEVICE_FUNCTIONS

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pdb {

// 0: none; 1: in expf and tanhf, as in PyTorch's operators on a GPU; 2: in the quotient as well. See cuda_host.cpp.
extern int device_errors;

// value with an error of at most the given number of units in the last place (ulps); the bits of the argument
// determine the error.
inline float off_by(float value, float ulps, float argument) {
  if (!std::isfinite(value) || value == 0) return value;
  uint32_t bits;
  std::memcpy(&bits, &argument, sizeof bits);
  bits = (bits ^ bits >> 16) * 0x7FEB352Du;
  bits = (bits ^ bits >> 15) * 0x846CA68Bu;
  const float unit = std::nextafter(std::fabs(value), INFINITY) - std::fabs(value);
  return value + (static_cast<float>(bits >> 8) * 0x1p-23f - 1) * ulps * unit;
}

inline float expf(float x) { return device_errors > 0 ? off_by(::expf(x), 2, x) : ::expf(x); }
inline float tanhf(float x) { return device_errors > 0 ? off_by(::tanhf(x), 2, x) : ::tanhf(x); }
inline float reciprocal(float x) { return device_errors > 1 ? off_by(1.0f / x, 2, x) : 1.0f / x; }

}  // namespace pdb
