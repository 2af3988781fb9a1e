// The float functions of csrc/cell.h with as large an error as a GPU's may have by the CUDA programming guide, for kernels on
// the host: expf 1 ulp, tanhf 1 ulp, __fdividef 2 ulp. Included before everything else. The error is drawn anew for every
// argument and is off at first.
#pragma once

#define PDB_DEVICE_FUNCTIONS

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pdb {

extern bool device_errors;  // cuda_host.cpp

// value, off by at most so many units in the last place; by how many, depends on the bits of the argument.
inline float off_by(float value, float ulps, float argument) {
  if (!device_errors || !std::isfinite(value) || value == 0) return value;
  uint32_t bits;
  std::memcpy(&bits, &argument, sizeof bits);
  bits = (bits ^ bits >> 16) * 0x7FEB352Du;
  bits = (bits ^ bits >> 15) * 0x846CA68Bu;
  const float unit = std::nextafter(std::fabs(value), INFINITY) - std::fabs(value);
  return value + (static_cast<float>(bits >> 8) * 0x1p-23f - 1) * ulps * unit;
}

inline float expf(float x) { return off_by(::expf(x), 1, x); }
inline float tanhf(float x) { return off_by(::tanhf(x), 1, x); }
inline float reciprocal(float x) { return off_by(1.0f / x, 2, x); }

}  // namespace pdb
