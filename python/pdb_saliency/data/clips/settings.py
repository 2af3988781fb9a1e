"""What the clips made of stills and cut-outs look like, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CameraSettings:
    """How a camera moves over a picture. Shares of the picture are of its width and height.

    side: longest side of the frames in pixels; a smaller picture keeps its own size.
    rest: probability that the camera does not travel, turn or zoom (its hand may still shake).
    speed: slowest and fastest travel, in widths of the view a frame; its logarithm is uniform.
    zoom: largest mean change of scale a frame. rotation: largest mean turn a frame, in degrees.
    tilt: largest perspective: how much nearer one side of the view is than its centre.
    shake: largest standard deviation of the hand's jitter, in widths of the view.
    view: smallest and largest share of the picture that a frame shows. Motion that needs more room is slowed down.
    shutter: longest exposure, as a share of the time from frame to frame; it is what motion blur comes from.
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
    """What happens in a composite. Probabilities are of a clip unless said otherwise; ranges are of log-uniform draws.

    camera: of the scene; its `side` bounds the frames.
    still_scene: nothing moves by itself, and all that is salient is labelled.
    second_mover: a second thing moves.
    own_moves: the mover is the background's own object, taken out of its place. Of backgrounds where it stands free; as
        others are drawn again (`own_area`), some two of five clips with a mover come out so by default.
    own_removed: the background's own object is taken out, where it stands free and does not move.
    own_area: largest share of the picture that a background's own object covers when it is taken out, or at rest beside a
        mover: beside something larger few people would look at the mover. Where it is larger, another background is drawn.
    distractors: at least one cut-out lies at rest beside the mover. most_distractors: largest number of them.
    twin: probability of each distractor to be a copy of the mover.
    tracked: the camera follows the mover, which then hardly moves in the frame.
    area: a cut-out's share of the frame. speed: a mover's, in frame widths a frame, relative to the scene; a tracked one
        moves as fast as the camera.
    leaves: probability of a mover that the camera does not follow to cross the frame's border.
    occluder: a strip of scenery stands in front.
    own_in_front: the background's own object at rest stands in front of the movers.
    parallax: how much further than the background the nearest things at rest are shifted by the camera's travel.
    sway: part of the scenery stirs, as water and leaves do, in clips with a mover.
    wobble: largest deformation of movers, as a share of their size. shadow: a cut-out casts a shadow (each one for itself).
    match: largest strength of matching a cut-out's colours to the scene.
    grain: largest standard deviation of noise in grey levels. quality: lowest JPEG quality; 100 is no compression, and in
        two of five clips there is none.
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
