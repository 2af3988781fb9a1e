// One ConvLSTM layer over a whole sequence on the CPU, forward and backward, and the merge of two layers' outputs, in
// float or double. No torch: the only interface between the kernels and their callers.
#pragma once

#include <cstdint>
#include <functional>

#include "layer_arguments.h"

namespace pdb::cpu {

// Runs body(begin, end) over parts of [0, size), possibly in parallel; all parts but the last have at least `grain`
// elements.
using ParallelFor = void (*)(int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

struct Threads {
  ParallelFor parallel_for;
  int count;  // the most that parallel_for uses
};

// A tensor (T, N, channels, H, W) of any strides, in elements.
template <class T>
struct Frames {
  T* data;
  int64_t step, image, channel, row, column;
};

template <class T>
using ForwardTensors = ForwardArrays<T, T, Frames<const T>>;

template <class T>
using BackwardTensors = BackwardArrays<T, T, Frames<const T>>;

// The layer's dilation must be bounded (with_bounded_dilation), here and below.
template <class T>
void forward(const Layer& layer, const ForwardTensors<T>& tensors, const Threads& threads);

template <class T>
void backward(const Layer& layer, const BackwardTensors<T>& tensors, const Threads& threads);

// Eq. 5 of Song et al. 2018 over a whole sequence: output = tanh(conv(h_f, weight_f) + conv(h_b, weight_b) + bias).
template <class T>
struct MergeTensors {
  Frames<const T> h_f, h_b;  // (T, N, C, H, W)
  const T* weight_f;         // (C, C, k, k)
  const T* weight_b;         // (C, C, k, k)
  const T* bias;             // (C) or null
  T* output;                 // (T, N, C, H, W)
};

// The layer's in_channels must equal its channels; reverse and peephole_current are not read.
template <class T>
void merge(const Layer& layer, const MergeTensors<T>& tensors, const Threads& threads);

}  // namespace pdb::cpu
