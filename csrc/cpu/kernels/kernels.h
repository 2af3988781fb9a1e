// CPU kernels of the dilated ConvLSTM and ConvGRU: raw pointers, no torch, no threads. Each call does one piece of work
// that a caller may run in parallel with others. Compiled once for each instruction set; kernels<T>() picks one at run
// time.
//
// Inside the op every image is pixel-major: the channels of one pixel are neighbours in memory. A *frame* is such an
// image with a border of zeros as wide as the dilated window reaches, so that no convolution tests for the edge.
#pragma once

#include <cstdint>

#include "cpu/kernels/winograd_parts.h"

namespace pdb::cpu {

constexpr int kMaxRowBlock = 64;  // upper bound of Kernels::row_block

// A strip is a set of pixels of one image that is processed together: its pre-activations stay in the nearest caches.
constexpr int64_t kStripSlots = 96;
constexpr int64_t kStripTiles = kStripSlots / 4;

// A frame as the kernels see it: `stride` values from one pixel to the next, of which they read the first `channels`.
template <class T>
struct Source {
  const T* frame;
  int64_t stride, channels;
};

// A convolution with `taps` window positions. rows: a multiple of half a row block, so that the last block may be half
// empty. weight: [rows / row_block, rounded up][taps][channels][row_block], padded with zeros. If a Source has fewer
// channels, only the first ones take part.
template <class T>
struct Convolution {
  const T* weight;
  const int64_t* offsets;  // [taps] from a pixel to the one under the tap, in pixels of a frame
  int64_t taps, channels, rows;
};

// A convolution in the Winograd form F(2x2, 3x3) (filters_impl.h): 16 products instead of 36 for 2x2 pixels. A larger
// window is cut into parts with filters of their own, as far from the centre as shifts[part] says, in pixels of a
// frame; their products are summed before the transform back. weight: [rows / row_block, rounded
// up][parts.size()][channels][row_block], in the order of WinogradParts::index.
template <class T>
struct WinogradConvolution {
  const T* weight;
  int64_t channels, rows;
  int64_t step_y, step_x;  // pixels of a frame from one window position to the next
  WinogradParts parts;
  const int64_t* shifts;  // [parts.count()]
};

// Filters as they are before the transform, each value a row block: the one at the tap (y, x) of a part lies at first +
// y * row + x * column, and those of the next channel `channel` behind. Backwards for a mirrored window.
template <class T>
struct PartOfFilters {
  T* first;
  int64_t channel, row, column;
};

// The pixels of a strip. pixel[p] is the position in arrays over the whole image, [pixel][channels] or [pixel][gates *
// channels]; slot[p] that among the pre-activations of the strip; position[p] that in a frame.
struct StripPixels {
  int64_t pixels, channels;
  const int64_t *pixel, *slot, *position;
};

// The ConvLSTM's cell at the pixels of a strip. Null arrays are absent.
template <class T>
struct CellStrip : StripPixels {
  bool peephole_current;
  const T* peephole;  // [3][peephole_stride]
  int64_t peephole_stride;
  const T* c_previous;  // zeros if null
};
template <class T>
struct CellForward : CellStrip<T> {
  T* gates;  // [slot][gates_stride] pre-activations; overwritten
  int64_t gates_stride;
  T* c;  // may be c_previous
  T* h;  // [position][h_stride]
  int64_t h_stride;
  T* saved_gates;  // null in inference
};
template <class T>
struct CellBackward : CellStrip<T> {
  const T* saved_gates;
  const T* c;
  const T* dh;   // gradient of h_t
  T* dc;         // in, the gradient of c_t from later steps; out, that of c_{t-1}
  T* dgates;     // [position][4 * channels]
  T* dpeephole;  // laid out like the peephole; added to
};

// The ConvGRU's cell: the two halves of a step forward, and of one backward. Gates are [pixel][3 * channels], their
// gradients [position][3 * channels].
template <class T>
struct GruForward : StripPixels {
  const T* sums;  // [slot][sums_stride], pre-activations: of r and z in the first half, of n in the second
  int64_t sums_stride;
  const T* h_previous;  // [position][stride]; zeros if null
  T* result;  // [position][stride]: r . h_{t-1}, not written where that is zeros; then h_t, maybe in its place
  int64_t stride;
  T* gates;        // activations; the second half reads z
  bool saves_all;  // r and n as well, not z alone
};
// The first half backward, over a row of neighbouring pixels.
template <class T>
struct GruUpdateBackward {
  int64_t pixels, channels;
  const T* gates;
  const T* h_previous;  // [pixel][stride]; zeros if null
  int64_t stride;
  const T* grad;  // [pixel][channels], gradient of h_t as an output; zeros if null
  T* dh;          // [pixel][channels]: in, the gradient of h_t from later steps; out, what z . h_{t-1} passes on
  T* dgates;      // those of z and n; zeros for r if h_{t-1} is zeros
  T* reset;       // [pixel][stride]: r . h_{t-1}, for the gradient of the weights; null: not wanted
};
template <class T>
struct GruResetBackward : StripPixels {
  const T* sums;  // [slot][sums_stride], gradients of r . h_{t-1}
  int64_t sums_stride;
  const T* gates;
  const T* h_previous;  // [position][stride]; zeros if null
  int64_t stride;
  T* dgates;  // that of r
  T* dh;      // [pixel][channels]; added to
};

template <class T>
struct Kernels {
  const char* name;
  int row_block;

  // out[p][row] = init[row] + sum over taps and channels, for the pixels whose frame positions are centers[0 ..
  // pixels); out is [pixels][rows].
  void (*convolve)(const Convolution<T>&, const Source<T>&, const int64_t* centers, int64_t pixels, const T* init,
                   T* out);

  // One tap and one row block of it, wherever the pixels are: sums[pixels[p]][r] += sum over channels of
  // source[positions[p]][channel] * weight[channel][row_block], for p < count and r < rows, rounded up to half a row
  // block. sums: `stride` values a pixel.
  void (*convolve_tap)(const T* weight, const Source<T>&, const int64_t* positions, const int64_t* pixels,
                       int64_t count, int64_t rows, T* sums, int64_t stride);

  // The same as convolve for the 2x2 pixels of each of up to kStripTiles tiles. corners: frame positions of the top
  // left of the 4x4 pixels that a tile reads. out is [4 * tiles][rows], the pixels of a tile in reading order. scratch:
  // winograd_scratch(parts.count() * channels) values.
  void (*winograd)(const WinogradConvolution<T>&, const Source<T>&, const int64_t* corners, int64_t tiles,
                   const T* init, T* scratch, T* out);

  void (*cell_forward)(const CellForward<T>&);
  void (*cell_backward)(const CellBackward<T>&);
  void (*gru_reset)(const GruForward<T>&);
  void (*gru_update)(const GruForward<T>&);
  void (*gru_update_backward)(const GruUpdateBackward<T>&);
  void (*gru_reset_backward)(const GruResetBackward<T>&);

  // to[pixel[p]][channel] = tanh(sums[slot[p]][channel]), sums [slot][stride], to [pixel][channels].
  void (*tanh)(const T* sums, int64_t stride, const int64_t* slot, const int64_t* pixel, int64_t pixels,
               int64_t channels, T* to);

  // dweight[channel * stride + r] += sum over the pixels p of source[p][channel] * dgates[p][r], r < row_block, for
  // `rows` image rows of `width` pixels, `pitch` apart. source, dgates: at the first of these pixels.
  void (*weight_gradient)(const Source<T>& source, const T* dgates, int64_t gates, int64_t width, int64_t rows,
                          int64_t pitch, T* dweight, int64_t stride);

  // The same in the Winograd form, for its positions 4 * line + j, j < 4, and the row blocks first_block .. first_block
  // + blocks: adds to dweight, laid out like the convolution's weight. source and dgates: whole frames; corners as
  // above; firsts: frame positions of the tiles' first pixels. scratch: winograd_gradient_scratch() values.
  void (*winograd_weight_gradient)(const WinogradConvolution<T>&, const Source<T>& source, const int64_t* corners,
                                   const Source<T>& dgates, const int64_t* firsts, int64_t tiles, int line,
                                   int64_t first_block, int64_t blocks, T* scratch, T* dweight);

  // The transform of the filters of part (y, x): the values at each position go to packed + its index * slab,
  // [channels][row_block].
  void (*winograd_filters)(const PartOfFilters<const T>&, const WinogradParts&, int64_t y, int64_t x, int64_t channels,
                           T* packed, int64_t slab);
  // The transposed map, for gradients, from what winograd_weight_gradient leaves.
  void (*winograd_filter_gradients)(const T* packed, int64_t slab, const WinogradParts&, int64_t y, int64_t x,
                                    int64_t channels, const PartOfFilters<T>&);

  // dbias[r] += sum over `pixels` consecutive pixels of dgates[p][r], r < row_block.
  void (*bias_gradient)(const T* dgates, int64_t gates, int64_t pixels, T* dbias);

  // to[c * to_stride + r] = from[r * from_stride + c] for r < rows, c < columns.
  void (*transpose)(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride);
};

constexpr int64_t kGradientTiles = 48;  // tiles that winograd_weight_gradient transforms at once

// A gap of a cache line between the arrays of two Winograd positions: without it their sizes, mostly powers of two,
// would put what is stored together into the same sets of the cache.
constexpr int64_t kGap = 16;
constexpr int64_t winograd_scratch(int64_t channels) {
  return 16 * (kStripTiles * (channels + kMaxRowBlock) + 2 * kGap);
}
constexpr int64_t winograd_gradient_scratch(int64_t channels, int64_t blocks) {
  return 4 * (kGradientTiles * (channels + blocks * kMaxRowBlock) + 2 * kGap);
}

// The kernels of the best instruction set that this processor has, or of the one that the environment variable
// PDB_EXT_CPU names ("avx512", "avx2", "generic"). Throws std::runtime_error if that one is unknown or not available.
template <class T>
const Kernels<T>& kernels();

}  // namespace pdb::cpu
