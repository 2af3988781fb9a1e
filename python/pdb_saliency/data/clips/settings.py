"""The parameters of the clips made of stills and cut-outs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CameraSettings:
    """How a camera moves over a picture.

    side: longest side of the frames, in pixels; a smaller picture keeps its own size.
    rest: probability that the camera does not travel, turn or zoom (it may still shake).
    speed: slowest and fastest travel, in widths of the view a frame; drawn log-uniformly.
    zoom: largest mean change of scale a frame. rotation: largest mean turn a frame, in degrees.
    tilt: largest perspective: how much nearer one side of the view is than its centre.
    shake: largest standard deviation of the jitter of a hand-held camera, in widths of the view.
    view: smallest and largest share of the picture's width and height that a frame shows. Motion that needs more room
        is slowed down.
    shutter: longest exposure, as a share of the time from frame to frame; it causes motion blur.
    """

    side: int = 384
    rest: float = 0.15
    speed: tuple[float, float] = (0.003, 0.06)
    zoom: float = 0.02
    rotation: float = 0.8
    tilt: float = 0.06
    shake: float = 0.0015
    view: tuple[float, float] = (0.6, 1.0)
    shutter: float = 0.6


@dataclass(frozen=True)
class CutoutSettings:
    """What happens in a composite. Probabilities are per clip unless stated otherwise; ranges are drawn log-uniformly.

    camera: the scene's camera; its `side` limits the size of the frames.
    still_scene: probability that nothing moves independently; everything salient is labelled then.
    second_mover: probability of a second mover.
    own_moves: probability that the mover is the background's own object, taken out of its place, if it stands free. As
        other backgrounds are drawn again (`own_area`), this is so in about two of five clips with a mover by default.
    own_removed: probability that the background's own object is removed, if it stands free and does not move.
    own_area: largest share of the picture that a background's own object covers if it is removed, or at rest beside a
        mover: few people would look at the mover beside something larger. If it is larger, another background is drawn.
    distractors: probability of cut-outs at rest beside the mover. most_distractors: their largest number.
    twin: probability, for each distractor, that it is a copy of the mover.
    tracked: probability that the camera follows the mover, which then hardly moves in the frame.
    area: a cut-out's share of the frame.
    speed: a mover's speed relative to the scene, in frame widths a frame; a tracked mover is as fast as the camera.
    leaves: probability that a mover which the camera does not follow crosses the frame's border.
    occluder: probability of a strip of scenery in front of everything.
    own_in_front: probability that the background's own object, if at rest, is in front of the movers.
    parallax: how much more than the background the camera's travel shifts the nearest things at rest.
    sway: probability that part of the scenery moves in its place, like water or leaves, in clips with a mover.
    wobble: largest deformation of movers, as a share of their size.
    shadow: probability, for each cut-out, that it casts a shadow.
    match: largest strength with which a cut-out's colours are matched to the scene's.
    grain: largest standard deviation of noise, in grey levels.
    quality: lowest JPEG quality. 100 means no compression, which two of five clips have regardless.
    """

    camera: CameraSettings = field(default_factory=CameraSettings)
    still_scene: float = 0.15
    second_mover: float = 0.2
    own_moves: float = 0.25
    own_removed: float = 0.35
    own_area: float = 0.15
    distractors: float = 0.6
    most_distractors: int = 3
    twin: float = 0.2
    tracked: float = 0.4
    area: tuple[float, float] = (0.01, 0.25)
    speed: tuple[float, float] = (0.006, 0.05)
    leaves: float = 0.15
    occluder: float = 0.2
    own_in_front: float = 0.3
    parallax: float = 0.15
    sway: float = 0.15
    wobble: float = 0.03
    shadow: float = 0.4
    match: float = 0.4
    grain: float = 5.0
    quality: int = 50
