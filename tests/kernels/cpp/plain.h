// What the tests of whole CPU layers share: values, threads, and a convolution by its definition.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "checks.h"
#include "cpu/layer.h"

using namespace pdb::cpu;
using pdb::Layer;
using Values = std::vector<double>;

inline Values normal(int64_t size, double scale) { return normal<double>(size, scale); }

inline const double* data_or_null(const Values& values) { return values.empty() ? nullptr : values.data(); }

inline void run_in_parts(int64_t size, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  std::thread first([&] { body(0, size / 2); });
  body(size / 2, size);
  first.join();
}
inline void run_at_once(int64_t size, int64_t, const std::function<void(int64_t, int64_t)>& body) { body(0, size); }
inline Threads threads(int count) { return {count > 1 ? run_in_parts : run_at_once, count}; }

// (T, N, channels, H, W), contiguous.
inline Frames<const double> frames(const Layer& l, const Values& values, int64_t channels) {
  return {values.data(), l.batch * channels * l.pixels(), channels * l.pixels(), l.pixels(), l.width, 1};
}

// conv2d(input, weight) at one pixel: input (channels, H, W), weight (channels, k, k) of one row.
inline double convolve(const Layer& l, const double* input, int64_t channels, const double* weight, int64_t y,
                       int64_t x) {
  double sum = 0;
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t tap = 0; tap < l.kernel * l.kernel; ++tap) {
      const int64_t from_y = y + (tap / l.kernel - l.kernel / 2) * l.dilation;
      const int64_t from_x = x + (tap % l.kernel - l.kernel / 2) * l.dilation;
      if (from_y >= 0 && from_y < l.height && from_x >= 0 && from_x < l.width)
        sum += input[(channel * l.height + from_y) * l.width + from_x] * weight[channel * l.kernel * l.kernel + tap];
    }
  return sum;
}

inline double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline void expect_near(const char* what, double got, double expected, double tolerance) {
  if (std::abs(got - expected) <= tolerance) return;
  std::printf("%s: got %.12g, expected %.12g\n", what, got, expected);
  std::exit(1);
}
