// What the loops over the steps of a sequence share.
#pragma once

#include <algorithm>

#include "cuda/layer.h"

namespace pdb::cuda {

// The frame of the s-th step that runs, and the frame of the step that ran before t.
inline int64_t frame(const Layer& layer, int64_t s) { return layer.reverse ? layer.steps - 1 - s : s; }
inline int64_t before(const Layer& layer, int64_t t) { return layer.reverse ? t + 1 : t - 1; }

// Beyond the larger image side every tap but the centre lies outside the image, whatever the dilation: bounded by it,
// no offset can overflow.
inline Layer with_bounded_dilation(Layer layer) {
  layer.dilation = std::min(layer.dilation, std::max(layer.height, layer.width));
  return layer;
}

template <class P>
P* offset(P* array, int64_t elements) {
  return array ? array + elements : nullptr;
}

}  // namespace pdb::cuda
