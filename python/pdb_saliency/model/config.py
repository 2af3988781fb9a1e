"""What a saliency model is made of: one frozen dataclass, which is also stored with the weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pdb_saliency.model.backbones import BACKBONES
from pdb_saliency.options import MOTIONS, TEMPORAL_KINDS

from .input import InputSpec
from .output import OutputSpec

VARIANTS = ("paper", "released")
PDC_MODES = ("pdc", "aspp")
DECODERS = ("none", "skip")
REFINEMENTS = ("none", "guided")
# Far above any useful size; it keeps a damaged configuration from asking for absurd amounts of memory.
MAX_SIZE = 1 << 14
MAX_PIXELS = 1 << 24


@dataclass(frozen=True)
class ModelConfig:
    """The network of §3.3. The defaults are the paper's own model.

    variant: "paper" follows Eq. 3-6 as printed; "released" is the authors' Caffe model: peepholes of one weight for
        each pixel, directions merged by a sum, two-channel head, frozen batch normalisation.
    backbone: a name in `BACKBONES`: "resnet50" or "efficientnet_lite0".
    width: channels of the first layer of "resnet50" (64 gives 2048 features); "efficientnet_lite0" has fixed widths.
    pdc: "pdc" (Eq. 3) or "aspp" (sum, Table 4).
    pdc_dilations, pdc_channels: r_k and C of Eq. 1; one dilation alone is Table 4's single rate.
    reduced_channels: channels after the 1x1 reduction.
    temporal: "none", or one of `TEMPORAL_KINDS`: "fc_lstm", "convlstm", "b_convlstm", "db_convlstm" or "pdb_convlstm"
        (Table 5).
    hidden_channels: of each LSTM.
    temporal_dilations: of the branches of "pdb_convlstm".
    decoder: "none", the paper's 1x1 head on the temporal features; or "skip", which the paper does not have: the
        temporal features are added to the spatial ones by a 1x1 convolution that is zero at first, and a `SkipDecoder`
        predicts at stride 4. A model thus begins its second stage of training as good as its spatial part alone.
    motion: "residual" appends the `ResidualMotion` of the skip connection to the input of the temporal module, so that
        it can distinguish moving objects from those that only the camera moves past. The paper has "none". Needs
        decoder "skip".
    input_size: (height, width) that `InputSpec` resizes frames to. The released variant takes only this size, because
        its peepholes have one weight for each feature pixel. Sizes of the form 8k + 1 put the first and the last
        feature exactly on the first and the last pixel.
    keep_aspect: every video gets its own input size: the shape of its frames, with about as many pixels as
        `input_size`. The paper resizes all frames to one square.
    refine: "guided" aligns the borders in the map with those in the frame, by a guided filter (`output.guided`); the
        paper has "none", or its CRF.
    calibration: scale and offset that are applied last, to the logits of the map (`output.calibrated`).

    Raises ValueError, which names the field.
    """

    variant: str = "paper"
    backbone: str = "resnet50"
    width: int = 64
    pdc: str = "pdc"
    pdc_dilations: tuple[int, ...] = (2, 4, 8, 16)
    pdc_channels: int = 512
    reduced_channels: int = 32
    temporal: str = "pdb_convlstm"
    hidden_channels: int = 32
    temporal_dilations: tuple[int, ...] = (1, 2)
    decoder: str = "none"
    motion: str = "none"
    input_size: tuple[int, int] = (473, 473)
    keep_aspect: bool = False
    refine: str = "none"
    calibration: tuple[float, float] = (1.0, 0.0)

    def __post_init__(self):
        choices = {"variant": VARIANTS, "backbone": BACKBONES, "pdc": PDC_MODES, "temporal": ("none", *TEMPORAL_KINDS)}
        choices |= {"decoder": DECODERS, "motion": MOTIONS, "refine": REFINEMENTS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.variant == "released" and self.decoder != "none":
            raise ValueError(f"the released variant has no decoder, got decoder={self.decoder!r}")
        if self.motion != "none" and self.decoder != "skip":
            raise ValueError(
                f"motion {self.motion!r} is found in the skip connection, which decoder {self.decoder!r} does not have"
            )
        if not isinstance(self.keep_aspect, bool) or (self.keep_aspect and self.variant == "released"):
            raise ValueError(
                f"keep_aspect must be true or false, and false for the released variant, got {self.keep_aspect!r}"
            )
        _check_calibration(self.calibration)
        for name in ("width", "pdc_channels", "reduced_channels", "hidden_channels"):
            _check_sizes(name, (getattr(self, name),))
        for name in ("pdc_dilations", "temporal_dilations", "input_size"):
            _check_sizes(name, getattr(self, name))
        if len(self.input_size) != 2:
            raise ValueError(f"input_size must be (height, width), got {self.input_size!r}")
        if self.input_size[0] * self.input_size[1] > MAX_PIXELS:
            raise ValueError(f"input_size must be at most {MAX_PIXELS} pixels, got {self.input_size!r}")

    @property
    def input_spec(self) -> InputSpec:
        """Size, channel order and normalisation that the backbone was trained with."""
        return BACKBONES[self.backbone].input_spec(*self.input_size, self.keep_aspect)

    @property
    def output_spec(self) -> OutputSpec:
        """How the network's map becomes the map of the frame."""
        return OutputSpec(self.refine == "guided", *self.calibration)

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> ModelConfig:
        """The inverse of `to_dict`, even through JSON. Raises ValueError, which names a wrong entry."""
        names = {field.name for field in dataclasses.fields(cls)}
        if isinstance(values, dict):
            values = _ADDED_LATER | values
        if not isinstance(values, dict) or set(values) != names:
            found = ", ".join(sorted(map(str, values))) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"a model configuration must have the entries {', '.join(sorted(names))}, got {found}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _check_calibration(calibration: tuple[float, float]) -> None:
    numbers = isinstance(calibration, tuple) and all(type(number) in (int, float) for number in calibration)
    if not numbers or len(calibration) != 2 or not (0 < calibration[0] < 100 and abs(calibration[1]) < 100):
        raise ValueError(
            f"calibration must be (scale, offset), 0 < scale < 100 and |offset| < 100, got {calibration!r}"
        )


def _check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    integers = isinstance(sizes, tuple) and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not integers or not sizes or not all(1 <= size <= MAX_SIZE for size in sizes):
        raise ValueError(f"{name} must hold integers from 1 to {MAX_SIZE}, got {sizes!r}")


# Entries that older model files lack, with the values that those models have.
_ADDED_LATER = {"motion": "none", "keep_aspect": False, "refine": "none", "calibration": (1.0, 0.0)}

PAPER = ModelConfig()
RELEASED = ModelConfig(variant="released")
# For CPUs. The PDC branches are a quarter as wide as the features, as in the paper; 185x321 is 16:9 with a quarter of
# the paper's pixels, and the dilations of the PDC module are smaller in proportion.
LITE = ModelConfig(
    backbone="efficientnet_lite0", pdc_dilations=(1, 2, 4, 8), pdc_channels=80, decoder="skip", motion="residual",
    input_size=(185, 321), keep_aspect=True, refine="guided",
)  # fmt: skip

# The networks that the command line and `InitialModel` know by name; the names alone are in options.NETWORKS.
NETWORKS: dict[str, ModelConfig] = {"lite": LITE, "paper": PAPER, "released": RELEASED}
