// cell.h over a strip of pixels, a vector of channels at a time; and the tanh of Eq. 5.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/vec.h"
#include "gate.h"

namespace pdb::cpu::PDB_ISA {

template <class T>
PDB_INLINE Gates<Vec<T>> load_gates(const T* gates, int64_t channels, int lanes) {
  using V = Vec<T>;
  return {V::load(gates + kGateI * channels, lanes), V::load(gates + kGateF * channels, lanes),
          V::load(gates + kGateO * channels, lanes), V::load(gates + kGateG * channels, lanes)};
}

template <class T>
PDB_INLINE void store_gates(const Gates<Vec<T>>& gates, T* to, int64_t channels, int lanes) {
  gates.i.store(to + kGateI * channels, lanes);
  gates.f.store(to + kGateF * channels, lanes);
  gates.o.store(to + kGateO * channels, lanes);
  gates.g.store(to + kGateG * channels, lanes);
}

template <class T>
PDB_INLINE Peephole<Vec<T>> load_peephole(const CellStrip<T>& strip, int64_t at, int lanes) {
  using V = Vec<T>;
  if (!strip.peephole) return {V(T(0)), V(T(0)), V(T(0))};
  const T* from = strip.peephole + at;
  return {V::load(from + kGateI * strip.peephole_stride, lanes), V::load(from + kGateF * strip.peephole_stride, lanes),
          V::load(from + kGateO * strip.peephole_stride, lanes)};
}

// Calls body(p, channel, lanes) for every vector of channels of every pixel; lanes < Vec<T>::size only at the end.
template <class T, class Body>
PDB_INLINE void for_each_vector(const StripPixels& strip, Body body) {
  for (int64_t p = 0; p < strip.pixels; ++p)
    for_each_vector<T>(strip.channels,
                       [&](int64_t channel, int lanes) __attribute__((always_inline)) { body(p, channel, lanes); });
}

// Each half of the step is a loop of its own: it is a long chain of dependent operations, and the processor overlaps
// more vectors of one half than of both together.
template <class T>
void cell_forward(const CellForward<T>& strip) {
  using V = Vec<T>;
  const int64_t C = strip.channels;
  const auto state = [&](int64_t p, int64_t channel, int lanes) __attribute__((always_inline)) {
    const int64_t at = strip.pixel[p] * C + channel;
    T* pre = strip.gates + strip.slot[p] * strip.gates_stride + channel;
    const V c_previous = strip.c_previous ? V::load(strip.c_previous + at, lanes) : V(T(0));
    Gates<V> gates = load_gates(pre, C, lanes);
    cell_state(gates, load_peephole<T>(strip, at, lanes), c_previous, strip.peephole_current)
        .store(strip.c + at, lanes);
    if (strip.peephole) gates.o.store(pre + kGateO * C, lanes);
    if (strip.saved_gates) store_gates(gates, strip.saved_gates + strip.pixel[p] * kGateCount * C + channel, C, lanes);
  };
  const auto output = [&](int64_t p, int64_t channel, int lanes) __attribute__((always_inline)) {
    const int64_t picture = strip.pixel[p] * C;
    V o = V::load(strip.gates + strip.slot[p] * strip.gates_stride + kGateO * C + channel, lanes);
    cell_output(o, V::load(strip.c + picture + channel, lanes))
        .store(strip.h + strip.position[p] * strip.h_stride + channel, lanes);
    if (strip.saved_gates) o.store(strip.saved_gates + kGateCount * picture + kGateO * C + channel, lanes);
  };
  for (int64_t p = 0; p < strip.pixels; ++p) {
    for_each_vector<T>(C, [&](int64_t channel, int lanes) __attribute__((always_inline)) { state(p, channel, lanes); });
    for_each_vector<T>(C,
                       [&](int64_t channel, int lanes) __attribute__((always_inline)) { output(p, channel, lanes); });
  }
}

template <class T>
void tanh_strip(const T* sums, int64_t stride, const int64_t* slot, const int64_t* pixel, int64_t pixels,
                int64_t channels, T* to) {
  for (int64_t p = 0; p < pixels; ++p)
    for_each_vector<T>(channels, [&](int64_t channel, int lanes) __attribute__((always_inline)) {
      tanh(Vec<T>::load(sums + slot[p] * stride + channel, lanes)).store(to + pixel[p] * channels + channel, lanes);
    });
}

template <class T>
PDB_INLINE void add(T* to, Vec<T> value, int lanes) {
  (Vec<T>::load(to, lanes) + value).store(to, lanes);
}

template <class T>
void cell_backward(const CellBackward<T>& strip) {
  using V = Vec<T>;
  const int64_t C = strip.channels;
  for_each_vector<T>(strip, [&](int64_t p, int64_t channel, int lanes) __attribute__((always_inline)) {
    const int64_t at = strip.pixel[p] * C + channel;
    const V c_previous = strip.c_previous ? V::load(strip.c_previous + at, lanes) : V(T(0));
    const V c = V::load(strip.c + at, lanes);
    const Gates<V> gates = load_gates(strip.saved_gates + strip.pixel[p] * kGateCount * C + channel, C, lanes);
    V dc = V::load(strip.dc + at, lanes);
    Gates<V> dgates;
    pdb::cell_backward(gates, load_peephole<T>(strip, at, lanes), c_previous, c, strip.peephole_current,
                       V::load(strip.dh + at, lanes), dc, dgates);
    dc.store(strip.dc + at, lanes);
    store_gates(dgates, strip.dgates + strip.position[p] * kGateCount * C + channel, C, lanes);
    if (strip.dpeephole) {
      T* to = strip.dpeephole + at;
      add(to + kGateI * strip.peephole_stride, dgates.i * c_previous, lanes);
      add(to + kGateF * strip.peephole_stride, dgates.f * c_previous, lanes);
      add(to + kGateO * strip.peephole_stride, dgates.o * (strip.peephole_current ? c : c_previous), lanes);
    }
  });
}

}  // namespace pdb::cpu::PDB_ISA
