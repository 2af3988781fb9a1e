// One ConvGRU layer over a whole sequence on the CPU, forward and backward, in float or double; as cpu/layer.h.
#pragma once

#include "cpu/layer.h"
#include "gru_arguments.h"

namespace pdb::cpu {

template <class T>
using GruForwardTensors = GruForwardArrays<T, Frames<const T>>;

template <class T>
using GruBackwardTensors = GruBackwardArrays<T, Frames<const T>>;

template <class T>
void gru_forward(const Layer& layer, const GruForwardTensors<T>& tensors, const Threads& threads);

template <class T>
void gru_backward(const Layer& layer, const GruBackwardTensors<T>& tensors, const Threads& threads);

}  // namespace pdb::cpu
