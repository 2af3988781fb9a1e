// The transpose of a matrix in blocks of as many rows and columns as a vector has values.
#pragma once

#include "cpu/kernels/vec.h"

namespace pdb::cpu::PDB_ISA {

// Alternates the values of a and b, a's first, from value `first` of each on.
template <class T, int first, size_t... I>
PDB_INLINE Vec<T> interleave(Vec<T> a, Vec<T> b, std::index_sequence<I...>) {
#if defined(__clang__)
  return Vec<T>(__builtin_shufflevector(a.v, b.v, (first + I / 2 + I % 2 * Vec<T>::size)...));
#else
  return Vec<T>(__builtin_shuffle(a.v, b.v, typename Native<T>::Bits{(first + I / 2 + I % 2 * Vec<T>::size)...}));
#endif
}

// Each round interleaves row i with row i + size / 2; after log2(size) rounds the rows are columns.
template <class T>
PDB_INLINE void transpose_vectors(Vec<T> (&rows)[Vec<T>::size]) {
  constexpr int size = Vec<T>::size;
  using Lanes = std::make_index_sequence<size>;
  Vec<T> next[size];
#pragma GCC unroll 4
  for (int round = 1; round < size; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < size / 2; ++i) {
      next[2 * i] = interleave<T, 0>(rows[i], rows[i + size / 2], Lanes());
      next[2 * i + 1] = interleave<T, size / 2>(rows[i], rows[i + size / 2], Lanes());
    }
#pragma GCC unroll 16
    for (int i = 0; i < size; ++i) rows[i] = next[i];
  }
}

template <class T>
PDB_INLINE void transpose_block(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  constexpr int size = Vec<T>::size;
  Vec<T> rows[size];
#pragma GCC unroll 16
  for (int i = 0; i < size; ++i) rows[i] = Vec<T>::load(from + i * from_stride);
  transpose_vectors(rows);
#pragma GCC unroll 16
  for (int i = 0; i < size; ++i) rows[i].store(to + i * to_stride);
}

// At least `size` rows of fewer than `size` columns. What a vector holds behind a row's end is dropped.
template <class T>
void transpose_narrow(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  constexpr int size = Vec<T>::size;
  const int64_t end = (rows - 1) * from_stride + columns;  // of what may be read
  for (int64_t row = 0; row < rows; row += size) {
    const int64_t r = row + size <= rows ? row : rows - size;
    Vec<T> block[size];
#pragma GCC unroll 16
    for (int i = 0; i < size; ++i) {
      const int64_t at = (r + i) * from_stride;
      block[i] = at + size <= end ? Vec<T>::load(from + at) : Vec<T>::load(from + at, static_cast<int>(columns));
    }
    transpose_vectors(block);
    for (int c = 0; c < columns; ++c) block[c].store(to + c * to_stride + r);
  }
}

template <class T>
void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  constexpr int64_t size = Vec<T>::size;
  if (rows >= size && columns < size) return transpose_narrow(from, from_stride, rows, columns, to, to_stride);
  if (rows < size) {
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
    return;
  }
  // The last block of a row or column overlaps the one before it.
  for (int64_t column = 0; column < columns; column += size) {
    const int64_t c = column + size <= columns ? column : columns - size;
    for (int64_t row = 0; row < rows; row += size) {
      const int64_t r = row + size <= rows ? row : rows - size;
      transpose_block(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
    }
  }
}

}  // namespace pdb::cpu::PDB_ISA
