// The table of kernels of one instruction set; included by each kernels_*.cpp after its `#pragma GCC target`.
#pragma once

#include "cpu/kernels/cell_impl.h"
#include "cpu/kernels/convolution_impl.h"
#include "cpu/kernels/filters_impl.h"
#include "cpu/kernels/gru_impl.h"
#include "cpu/kernels/transpose_impl.h"
#include "cpu/kernels/winograd_impl.h"

#define PDB_STRING_OF(name) #name
#define PDB_STRING(name) PDB_STRING_OF(name)

namespace pdb::cpu::PDB_ISA {

template <class T>
const Kernels<T>& table() {
  static_assert(kRowBlock<T> <= kMaxRowBlock);
  static constexpr Kernels<T> kernels = {PDB_STRING(PDB_ISA),   kRowBlock<T>,
                                         convolve<T>,           convolve_tap<T>,
                                         winograd<T>,           cell_forward<T>,
                                         cell_backward<T>,      gru_reset<T>,
                                         gru_update<T>,         gru_update_backward<T>,
                                         gru_reset_backward<T>, tanh_strip<T>,
                                         weight_gradient<T>,    winograd_weight_gradient<T>,
                                         winograd_filters<T>,   winograd_filter_gradients<T>,
                                         bias_gradient<T>,      transpose<T>};
  return kernels;
}

template const Kernels<float>& table<float>();
template const Kernels<double>& table<double>();

}  // namespace pdb::cpu::PDB_ISA
