"""Pictures made from a frame and its map."""

import numpy as np

from pdb_saliency.predict.outputs.result import to_map, to_mask, to_overlay


def test_map_mask_and_overlay():
    saliency = np.array([[0, 0.4199, 0.42, 1]], np.float32)
    assert to_map(saliency).tolist() == [[0, 107, 107, 255]]
    assert to_mask(saliency).tolist() == [[0, 0, 255, 255]]
    assert to_mask(saliency, 1).tolist() == [[0, 0, 0, 255]]
    picture = np.full((1, 4, 3), 100, np.uint8)
    tinted = to_overlay(picture, saliency)
    assert tinted[0, 0].tolist() == [100, 100, 100]
    assert (np.diff(tinted[0, :, 2].astype(int)) >= 0).all() and tinted[0, 3, 2] > 180 > 60 > tinted[0, 3, 0]
