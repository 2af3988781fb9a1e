// How Winograd's form covers a window: by `side` x `side` parts, along each axis first `wide` parts of three taps, then
// parts of two: 5 = 3 + 2, 7 = 3 + 2 + 2.
//
// A part has its values at the points 0, 1, -1 and infinity of each axis, in this order; one of two taps does without
// -1 (filters_impl.h). So of the 16 positions, 4 * (point of y) + (point of x), some have fewer parts than others.
#pragma once

#include <cstdint>

// Inlined at all events: a function compiled for one instruction set must never serve another.
#define PDB_PARTS_INLINE __attribute__((always_inline)) constexpr

namespace pdb::cpu {

struct WinogradParts {
  int64_t side, wide;

  static PDB_PARTS_INLINE WinogradParts of(int64_t kernel_size) {
    const int64_t side = (kernel_size + 2) / 3;
    return {side, kernel_size - 2 * side};
  }

  PDB_PARTS_INLINE int64_t count() const { return side * side; }
  // The first tap of the part `i` along an axis.
  PDB_PARTS_INLINE int64_t first_tap(int64_t i) const { return i <= wide ? 3 * i : 2 * i + wide; }
  // How many parts along an axis have the point; they are the first ones.
  PDB_PARTS_INLINE int64_t along(int64_t point) const { return point == 2 ? wide : side; }
  // Where part (y, x) lies: the parts of a position behind each other, and one position behind the other.
  PDB_PARTS_INLINE int64_t index(int64_t position, int64_t y, int64_t x) const {
    return begin(position) + y * along(position % 4) + x;
  }
  PDB_PARTS_INLINE int64_t begin(int64_t position) const {
    return before(position / 4) * before(4) + along(position / 4) * before(position % 4);
  }
  PDB_PARTS_INLINE int64_t size() const { return before(4) * before(4); }  // products of a tile

 private:
  PDB_PARTS_INLINE int64_t before(int64_t point) const { return point < 3 ? point * side : (point - 1) * side + wide; }
};

}  // namespace pdb::cpu

#undef PDB_PARTS_INLINE
