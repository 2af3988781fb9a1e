// Arrays of the convolutions that a library computes.
#pragma once

namespace pdb::cuda {

// Order in memory of an array (N, channels, H, W): as written, or (N, H, W, channels), which libraries' tensor-core
// convolutions read and write without rearranging it first.
enum class Layout { contiguous, channels_last };

// The parts of the pre-activations.
template <class T>
struct GateSums {
  const T* x;  // (N, gates * C, H, W): convolution of x_t, without bias
  const T* h;  // the same of h_{t-1}, or null for zeros
};

}  // namespace pdb::cuda
