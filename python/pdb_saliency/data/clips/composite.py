"""Clips of cut-outs that move over another picture, with salient things at rest beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.sets.items import Still
from pdb_saliency.errors import InputError

from .actors import Stage, place_cutout, place_own, place_strip
from .background import Sway, fill
from .camera import Camera, read_scene, sample_points
from .cutouts import Cutout, largest_object, stands_free
from .effects import film
from .layers import Layer, paint
from .settings import CutoutSettings

_LEAST_AREA = 0.004  # The smallest labelled share of a clip's pixels.


class CutoutClips:
    """A ClipSource: cut-outs move over another picture, seen by a moving camera.

    The mask (255) shows what a network trained on these clips will learn to regard as salient:

    - If something moves independently (most clips): only the one or two movers. Everything at rest in the scene is
      background, however salient it is: cut-outs placed there as distractors, the background's own salient object
      (unless it is the mover, or removed), strips of scenery in front. These move in the frame as the camera moves,
      with some parallax. Scenery that moves in its place is background as well.
    - If nothing moves independently (the share `still_scene`): everything salient, i.e. the cut-outs at rest and the
      background's own object, as in a still. A clip of one frame shows no motion, so it is always of this kind.

    A pixel is labelled if at least half of its light comes from labelled things, after occlusion and motion blur.
    Shadows are background. Movers and distractors are drawn from the same cut-outs, sizes, colours and edges, so that
    only motion distinguishes them.
    """

    def __init__(
        self, cutouts: Sequence[Cutout], backgrounds: Sequence[Still | Path], settings: CutoutSettings | None = None
    ):
        """backgrounds: stills, or pictures without a salient object. Raises InputError if either sequence is empty."""
        if not cutouts or not backgrounds:
            raise InputError(
                f"composites need at least one cut-out and one background, got {len(cutouts)} and {len(backgrounds)}"
            )
        self._cutouts, self._backgrounds = cutouts, backgrounds
        self._settings = settings or CutoutSettings()

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """See ClipSource. Raises InputError if a picture that is needed cannot be read."""
        for _ in range(4):  # Labelled things may be hidden or out of sight, but rarely four times in a row.
            clip = self._compose(rng, length)
            if np.mean(clip.masks) >= _LEAST_AREA * 255:
                break
        return clip

    def _compose(self, rng: np.random.Generator, length: int) -> TrainingClip:
        settings = self._settings
        still = length == 1 or rng.random() < settings.still_scene
        background, picture, own, role = self._background(rng, still)
        tracked = not still and rng.random() < settings.tracked
        focus = sample_points(own) if role == "moves" else None
        camera = Camera(rng, length, own.shape, settings.camera, travels=True if tracked else None, focus=focus)
        stage = Stage(camera, settings, picture, length, tracked)
        names, layers = self._cast(rng, stage, own, role, still)
        if role != "rests":
            picture = fill(picture, own)
        labelled = own if still and role == "rests" else None
        sway = Sway(rng, own.shape) if not still and rng.random() < settings.sway else None
        shutter = rng.uniform(0, settings.camera.shutter)
        pictures = [sway(picture, time) if sway else picture for time in range(length)]
        frames, masks = _render(pictures, labelled, layers, camera, shutter)
        quality = int(min(rng.uniform(settings.quality, 100) + 100 * (rng.random() < 0.4), 100))
        frames = film(frames, rng, settings.grain * rng.random(), quality)
        name = background.name if isinstance(background, Still) else background.stem
        return TrainingClip(" + ".join([name, *names]), frames, masks)

    def _background(self, rng: np.random.Generator, still: bool) -> tuple[Still | Path, np.ndarray, np.ndarray, str]:
        """A background, its picture, its own object's mask, and the object's role: "moves", "removed" or "rests"."""
        settings = self._settings
        for _ in range(8):
            background = self._backgrounds[rng.integers(len(self._backgrounds))]
            picture, own = read_scene(background, settings.camera.side)
            free, small = _is_one_free_object(own), np.count_nonzero(own) <= settings.own_area * own.size
            moves, removed = rng.random(2) < (settings.own_moves, settings.own_removed)
            if free and moves and not still:
                return background, picture, own, "moves"
            if free and removed and small:
                return background, picture, own, "removed"
            if small or still:
                break
        return background, picture, own, "rests"

    def _cast(
        self, rng: np.random.Generator, stage: Stage, own: np.ndarray, role: str, still: bool
    ) -> tuple[list[str], list[Layer]]:
        """The names of the cut-outs, and the layers from back to front. role: of the background's own object."""
        settings = self._settings
        movers, names = [], []
        if role == "rests" and own.any():
            stage.avoid(own)
        if role == "moves":
            movers.append(place_own(rng, stage, own, moves=True))
            names.append("its own object (moves)")
        wanted = 0 if still else 1 + (rng.random() < settings.second_mover)
        cast = [self._pick(rng) for _ in range(wanted - len(movers))]
        movers += [place_cutout(rng, stage, cutout, moves=True, labelled=True) for cutout in cast]
        names += [f"{cutout.name} (moves)" for cutout in cast]
        resting = []
        for _ in range(self._number_at_rest(rng, least=int(still and not (role == "rests" and own.any())))):
            twin = cast and rng.random() < settings.twin
            cutout = cast[0] if twin else self._pick(rng)
            resting.append(place_cutout(rng, stage, cutout, moves=False, labelled=still))
            names.append(f"{cutout.name} (rests)")
        layers = movers + resting
        layers = [layers[i] for i in rng.permutation(len(layers))]
        if role == "rests" and own.any() and not still and rng.random() < settings.own_in_front:
            layers.append(place_own(rng, stage, own, moves=False))
        if rng.random() < settings.occluder:
            layers.append(place_strip(rng, stage))
        return names, layers

    def _number_at_rest(self, rng: np.random.Generator, least: int) -> int:
        if rng.random() < self._settings.distractors:
            return int(rng.integers(1, self._settings.most_distractors + 1))
        return least

    def _pick(self, rng: np.random.Generator) -> Cutout:
        return self._cutouts[rng.integers(len(self._cutouts))]


def _is_one_free_object(mask: np.ndarray) -> bool:
    return stands_free(mask) and np.count_nonzero(largest_object(mask)) >= 0.9 * np.count_nonzero(mask)


def _render(
    pictures: list[np.ndarray], labelled: np.ndarray | None, layers: list[Layer], camera: Camera, shutter: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    frames, masks = [], []
    for time, picture in enumerate(pictures):
        frame = camera.shoot(picture, time, shutter)
        visible = (
            np.zeros(camera.frame, np.uint8) if labelled is None else camera.warp(labelled, time, cv2.INTER_NEAREST)
        )
        for layer in layers:
            paint(layer, camera, time, shutter, frame, visible)
        frames.append(frame)
        masks.append(np.where(visible >= 128, np.uint8(255), np.uint8(0)))
    return frames, masks
