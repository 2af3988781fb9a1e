// Random values and comparisons for the tests of the CPU kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

inline std::mt19937 generator(0);

template <class T>
std::vector<T> normal(int64_t size, double scale = 1) {
  std::normal_distribution<double> distribution(0, scale);
  std::vector<T> values(size);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

inline void fail(const char* what, const char* isa, double got, double expected) {
  std::printf("%s (%s): got %.9g, expected %.9g\n", what, isa, got, expected);
  std::exit(1);
}

template <class T>
void expect_near(const char* what, const char* isa, double got, double expected, double scale) {
  const double tolerance = 32 * std::numeric_limits<T>::epsilon() * scale;
  if (!(std::abs(got - expected) <= tolerance)) fail(what, isa, got, expected);
}
