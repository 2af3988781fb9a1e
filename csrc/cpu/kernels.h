// CPU kernels of the dilated ConvLSTM: raw pointers, no torch, no threads. Each call does one piece of work that a caller
// may run in parallel with the others. Compiled once for each instruction set; kernels<T>() picks one at run time.
//
// Inside the op every picture lies pixel-major: the channels of one pixel are neighbours in memory. A *frame* is such a
// picture with a border of zeros as wide as the dilated window reaches, so that no convolution tests for the edge.
#pragma once

#include <cstdint>

namespace pdb::cpu {

struct Grid {
  int64_t height, width;  // pixels of the picture
  int64_t pad_y, pad_x;   // border on each side

  int64_t pixels() const { return height * width; }
  int64_t pitch() const { return width + 2 * pad_x; }  // pixels from one row of a frame to the next
  int64_t frame_pixels() const { return (height + 2 * pad_y) * pitch(); }
  // The frame pixel at which picture pixel `pixel` (row-major, no border) lies.
  int64_t frame_pixel(int64_t pixel) const {
    return (pixel / width + pad_y) * pitch() + pixel % width + pad_x;
  }
};

constexpr int kMaxRowBlock = 64;    // upper bound of Kernels::row_block
constexpr int64_t kStripPixels = 48;  // pixels of a strip: its pre-activations stay in the nearest caches

// A convolution with `taps` window positions, its weight packed as [rows / row_block][taps][channels][row_block],
// rows padded with zeros to a multiple of row_block.
template <class T>
struct Convolution {
  const T* weight;
  const int64_t* offsets;  // [taps] from a pixel to the one under the tap, in pixels of a frame
  int64_t taps, channels, rows;
};

// A strip of up to kStripPixels pixels of one picture and what one time step of the cell reads and writes there.
// Null: absent. Saved activations are [pixel][4C], states [pixel][C], the peephole [3][peephole_stride], each from the
// strip's first pixel on.
template <class T>
struct CellStrip {
  int64_t pixels, channels;
  bool peephole_current;
  const T* peephole;
  int64_t peephole_stride;
  const T* c_previous;  // zeros if null
};
template <class T>
struct CellForward : CellStrip<T> {
  const T* gates;         // [pixels][gates_stride] pre-activations
  int64_t gates_stride;
  T* c;                   // may be c_previous
  T* h;                   // [pixels][channels]
  T* saved_gates;         // null in inference
};
template <class T>
struct CellBackward : CellStrip<T> {
  const T* saved_gates;
  const T* c;
  const T* dh;            // [pixels][channels], gradient of h_t
  T* dc;                  // gradient of c_t from later steps in, of c_{t-1} out
  T* dgates;              // [pixels][4C]
  T* dpeephole;           // laid out as the peephole; added to
};

template <class T>
struct Kernels {
  const char* name;
  int row_block;

  // out[p][row] = init[row] + sum over taps and channels, for the pixels at centers[0 .. pixels) of a frame;
  // out [pixels][rows]; with init null the sum is added to out.
  void (*convolve)(const Convolution<T>&, const T* const* centers, int64_t pixels, const T* init, T* out);

  void (*cell_forward)(const CellForward<T>&);
  void (*cell_backward)(const CellBackward<T>&);

  // dweight[channel][r] += sum over all pixels p of source[p + offset][channel] * dgates[p][row + r], r < row_block,
  // over `batch` frames of either. Reads up to row_block values past the last row of the last pixel.
  void (*weight_gradient)(const Grid&, int64_t batch, const T* source, int64_t channels, int64_t offset,
                          const T* dgates, int64_t rows, int64_t row, T* dweight);
  // dbias[r] += sum over all pixels of dgates[p][row + r].
  void (*bias_gradient)(const Grid&, int64_t batch, const T* dgates, int64_t rows, int64_t row, T* dbias);
};

// The kernels of the best instruction set that this processor has, or of the one that the environment variable
// PDB_EXT_CPU names ("avx512", "avx2", "generic"); throws std::runtime_error if that one is unknown or not available.
template <class T>
const Kernels<T>& kernels();

}  // namespace pdb::cpu
