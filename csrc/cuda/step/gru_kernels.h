// The launchers of a ConvGRU's steps, as kernels.h.
#pragma once

#include "cuda/common/gru_step.h"

namespace pdb::cuda {

// One half of a step in one launch: its convolutions and its part of the cell.
template <class T>
int launch_gru_forward(const Layer& layer, GruHalf half, const GruForwardStep<T>& step, Stream stream);

template <class T>
int launch_mma_gru_forward(const Layer& layer, GruHalf half, const GruForwardStep<T>& step, Stream stream);

// Backward, `update` before `reset`: the convolution of the gate gradients of the half before (in the step that ran
// after this one, or in this one), and this half's part of the cell.
template <class T>
int launch_gru_backward(const Layer& layer, GruHalf half, const GruBackwardStep<T>& step, Stream stream);

template <class T>
int launch_mma_gru_backward(const Layer& layer, GruHalf half, const GruBackwardStep<T>& step, Stream stream);

}  // namespace pdb::cuda
