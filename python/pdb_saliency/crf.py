"""Saliency refined by a fully connected CRF (Krähenbühl and Koltun, NIPS 2011): the paper's "Ours+", §4.2."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from .errors import SaliencyError

# The paper gives none; these are the usual ones of saliency work, distances in pixels and colours in 0..255.
_ITERATIONS = 5
_SMOOTHNESS = {"sxy": 3, "compat": 3}
_APPEARANCE = {"sxy": 60, "srgb": 5, "compat": 5}
_SMALLEST = 1e-5  # Probabilities of 0 would forbid a label for ever.


def require() -> ModuleType:
    """The CRF library. Raises SaliencyError where it is not installed."""
    try:
        import pydensecrf.densecrf
    except ImportError as error:
        raise SaliencyError("the CRF needs pydensecrf2: pip install 'pdb-ext[crf]'") from error
    return pydensecrf.densecrf


def refine(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Probability of the object after mean-field inference, float32 (H, W) in [0, 1].

    image: uint8 (H, W, 3), BGR. saliency: float32 (H, W) in [0, 1], the unary term; 1 - saliency is the background's.
    Raises ValueError for other shapes or dtypes, SaliencyError without the library.
    """
    if image.dtype != np.uint8 or image.shape != (*saliency.shape, 3):
        raise ValueError(f"image must be uint8 {(*saliency.shape, 3)}, got {image.dtype} {image.shape}")
    height, width = saliency.shape
    field = require().DenseCRF2D(width, height, 2)
    object_ = np.clip(saliency.astype(np.float32), _SMALLEST, 1 - _SMALLEST)
    field.setUnaryEnergy(-np.log(np.stack([1 - object_, object_])).reshape(2, -1))
    field.addPairwiseGaussian(**_SMOOTHNESS)
    field.addPairwiseBilateral(rgbim=np.ascontiguousarray(image), **_APPEARANCE)  # Any order of the channels gives the same.
    return np.asarray(field.inference(_ITERATIONS), np.float32).reshape(2, height, width)[1]
