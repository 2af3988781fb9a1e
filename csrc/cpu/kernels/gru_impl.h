// gru_cell.h over the pixels of a strip or a row, a vector of channels at a time.
#pragma once

#include "cpu/kernels/cell_impl.h"
#include "gru_cell.h"

namespace pdb::cpu::PDB_ISA {

// Zeros if there is no h_{t-1}.
template <class T>
PDB_INLINE Vec<T> load_or_zeros(const T* from, int64_t at, int lanes) {
  return from ? Vec<T>::load(from + at, lanes) : Vec<T>(T(0));
}

template <class T>
void gru_reset(const GruForward<T>& strip) {
  using V = Vec<T>;
  const int64_t C = strip.channels;
  for_each_vector<T>(strip, [&](int64_t p, int64_t channel, int lanes) __attribute__((always_inline)) {
    const T* sums = strip.sums + strip.slot[p] * strip.sums_stride + channel;
    T* gates = strip.gates + strip.pixel[p] * kGruGateCount * C + channel;
    const int64_t at = strip.position[p] * strip.stride + channel;
    V r = V::load(sums + kGateR * C, lanes), z = V::load(sums + kGateZ * C, lanes);
    const V reset = pdb::gru_reset(r, z, load_or_zeros(strip.h_previous, at, lanes));
    if (strip.h_previous) reset.store(strip.result + at, lanes);
    z.store(gates + kGateZ * C, lanes);
    if (strip.saves_all) r.store(gates + kGateR * C, lanes);
  });
}

template <class T>
void gru_update(const GruForward<T>& strip) {
  using V = Vec<T>;
  const int64_t C = strip.channels;
  for_each_vector<T>(strip, [&](int64_t p, int64_t channel, int lanes) __attribute__((always_inline)) {
    T* gates = strip.gates + strip.pixel[p] * kGruGateCount * C + channel;
    const int64_t at = strip.position[p] * strip.stride + channel;
    V n = V::load(strip.sums + strip.slot[p] * strip.sums_stride + channel, lanes);
    pdb::gru_update(n, V::load(gates + kGateZ * C, lanes), load_or_zeros(strip.h_previous, at, lanes))
        .store(strip.result + at, lanes);
    if (strip.saves_all) n.store(gates + kGateN * C, lanes);
  });
}

template <class T>
void gru_update_backward(const GruUpdateBackward<T>& row) {
  using V = Vec<T>;
  const int64_t C = row.channels;
  for (int64_t p = 0; p < row.pixels; ++p)
    for_each_vector<T>(C, [&](int64_t channel, int lanes) __attribute__((always_inline)) {
      const T* gates = row.gates + p * kGruGateCount * C + channel;
      T *dgates = row.dgates + p * kGruGateCount * C + channel, *dh = row.dh + p * C + channel;
      const V h_previous = load_or_zeros(row.h_previous, p * row.stride + channel, lanes);
      const V grad = V::load(dh, lanes) + load_or_zeros(row.grad, p * C + channel, lanes);
      V dz, dn;
      pdb::gru_update_backward(V::load(gates + kGateZ * C, lanes), V::load(gates + kGateN * C, lanes), h_previous, grad,
                               dz, dn)
          .store(dh, lanes);
      dz.store(dgates + kGateZ * C, lanes);
      dn.store(dgates + kGateN * C, lanes);
      if (!row.h_previous) V(T(0)).store(dgates + kGateR * C, lanes);
      if (row.reset)
        (V::load(gates + kGateR * C, lanes) * h_previous).store(row.reset + p * row.stride + channel, lanes);
    });
}

template <class T>
void gru_reset_backward(const GruResetBackward<T>& strip) {
  using V = Vec<T>;
  const int64_t C = strip.channels;
  for_each_vector<T>(strip, [&](int64_t p, int64_t channel, int lanes) __attribute__((always_inline)) {
    const int64_t position = strip.position[p];
    const V r = V::load(strip.gates + (strip.pixel[p] * kGruGateCount + kGateR) * C + channel, lanes);
    const V drh = V::load(strip.sums + strip.slot[p] * strip.sums_stride + channel, lanes);
    V dr;
    add(strip.dh + strip.pixel[p] * C + channel,
        pdb::gru_reset_backward(r, load_or_zeros(strip.h_previous, position * strip.stride + channel, lanes), drh, dr),
        lanes);
    dr.store(strip.dgates + (position * kGruGateCount + kGateR) * C + channel, lanes);
  });
}

}  // namespace pdb::cpu::PDB_ISA
