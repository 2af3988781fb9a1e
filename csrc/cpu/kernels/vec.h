// A SIMD vector of T in the compiler's own vector type (GCC and Clang), with the functions that cell.h needs. Included
// once in each kernels_*.cpp, after its `#pragma GCC target`; PDB_ISA names the namespace and PDB_VECTOR_BYTES the
// width. Everything is force-inlined: a function compiled for one instruction set must never serve another.
#pragma once

#include <cstdint>

#define PDB_INLINE inline __attribute__((always_inline))

namespace pdb::cpu::PDB_ISA {

// The vector of T, and the unsigned integers of the same size, whose bits hold T's exponent.
template <class T>
struct Native;
template <>
struct Native<float> {
  typedef float Values __attribute__((vector_size(PDB_VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(PDB_VECTOR_BYTES)));
  static constexpr int mantissa = 23;
  static constexpr uint32_t bias = 127;
};
template <>
struct Native<double> {
  typedef double Values __attribute__((vector_size(PDB_VECTOR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(PDB_VECTOR_BYTES)));
  static constexpr int mantissa = 52;
  static constexpr uint64_t bias = 1023;
};

template <class T>
struct Vec {
  using Scalar = T;
  using Values = typename Native<T>::Values;
  static constexpr int size = PDB_VECTOR_BYTES / sizeof(T);
  Values v;

  Vec() = default;
  PDB_INLINE Vec(Values values) : v(values) {}
  PDB_INLINE explicit Vec(T scalar) : v(scalar - Values{}) {}  // scalar - 0 broadcasts, and keeps -0 and NaN

  static PDB_INLINE Vec load(const T* from) {
    Vec result;
    __builtin_memcpy(&result.v, from, sizeof(Values));
    return result;
  }
  PDB_INLINE void store(T* to) const { __builtin_memcpy(to, &v, sizeof(Values)); }

  // Only the first n of `size` lanes. load: the others are 0; store: the others are left alone.
  static PDB_INLINE Vec load(const T* from, int n) {
    if (n == size) return load(from);
    Vec result(T(0));
    for (int lane = 0; lane < n; ++lane) result.v[lane] = from[lane];
    return result;
  }
  PDB_INLINE void store(T* to, int n) const {
    if (n == size) return store(to);
    for (int lane = 0; lane < n; ++lane) to[lane] = v[lane];
  }
};

// Calls body(at, lanes) for every vector of `count` values; lanes < Vec<T>::size only for the last.
template <class T, class Body>
PDB_INLINE void for_each_vector(int64_t count, Body body) {
  constexpr int64_t size = Vec<T>::size;
  int64_t at = 0;
  for (; at + size <= count; at += size) body(at, static_cast<int>(size));
  if (at < count) body(at, static_cast<int>(count - at));
}

template <class T>
PDB_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return a.v + b.v;
}
template <class T>
PDB_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return a.v - b.v;
}
template <class T>
PDB_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return a.v * b.v;
}
template <class T>
PDB_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return a.v / b.v;
}

// exp(r) - 1 for |r| <= ln(2)/2, accurate for small r too; coefficients of Cephes (expf.c, exp.c).
PDB_INLINE Vec<float> expm1_reduced(Vec<float> r) {
  using V = Vec<float>;
  V p = V(1.9875691500e-4f);
  p = p * r + V(1.3981999507e-3f);
  p = p * r + V(8.3334519073e-3f);
  p = p * r + V(4.1665795894e-2f);
  p = p * r + V(1.6666665459e-1f);
  p = p * r + V(5.0000001201e-1f);
  return p * (r * r) + r;
}
PDB_INLINE Vec<double> expm1_reduced(Vec<double> r) {
  using V = Vec<double>;
  const V z = r * r;
  const V p = r * ((V(1.26177193074810590878e-4) * z + V(3.02994407707441961300e-2)) * z + V(1.0));
  V q = V(3.00198505138664455042e-6);
  q = q * z + V(2.52448340349684104192e-3);
  q = q * z + V(2.27265548208155028766e-1);
  q = q * z + V(2.0);
  return V(2.0) * p / (q - p);
}

template <class T>
struct ExpConstants;  // range without subnormal or infinite powers of two; 1.5 * 2^mantissa; ln(2) in two parts
template <>
struct ExpConstants<float> {
  static constexpr float low = -87.0f, high = 88.0f, round = 12582912.0f;
  static constexpr float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <>
struct ExpConstants<double> {
  static constexpr double low = -708.0, high = 709.0, round = 6755399441055744.0;
  static constexpr double log2e = 1.4426950408889634074, ln2_high = 6.93145751953125e-1,
                          ln2_low = 1.42860682030941723212e-6;
};

// exp(x) = scale * (1 + rest), x clamped to where that is a normal number; NaN stays NaN.
template <class T>
struct Exponential {
  Vec<T> scale, rest;  // a power of two; exp(r) - 1 for the remainder r
};
template <class T>
PDB_INLINE Exponential<T> exponential(Vec<T> x) {
  using V = Vec<T>;
  using C = ExpConstants<T>;
  using Bits = typename Native<T>::Bits;
  x.v = x.v < C::low ? V(C::low).v : x.v;
  x.v = x.v > C::high ? V(C::high).v : x.v;
  const V shifted = x * V(C::log2e) + V(C::round);  // the integer nearest to x / ln(2), in the low mantissa bits
  const V n = shifted - V(C::round);
  const V r = (x - n * V(C::ln2_high)) - n * V(C::ln2_low);
  const Bits exponent = (Bits)shifted.v - (Bits)V(C::round).v + Native<T>::bias;
  return {V((typename V::Values)(exponent << Native<T>::mantissa)), expm1_reduced(r)};
}

template <class T>
PDB_INLINE Vec<T> unit(Vec<T>) {
  return Vec<T>(T(1));
}

template <class T>
PDB_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> one(T(1));
  const Exponential<T> e = exponential(Vec<T>(T(0)) - x);
  return one / (one + (one + e.rest) * e.scale);
}

// m / (m + 2) with m = exp(2x) - 1. For small x, scale is 1 and m = rest, which keeps its accuracy.
template <class T>
PDB_INLINE Vec<T> tanh(Vec<T> x) {
  const Exponential<T> e = exponential(x + x);
  const Vec<T> m = e.rest * e.scale + (e.scale - Vec<T>(T(1)));
  return m / (m + Vec<T>(T(2)));
}

}  // namespace pdb::cpu::PDB_ISA
