"""Choices that the command line and the library share, with their defaults. Imports the standard library only."""

from __future__ import annotations

from dataclasses import dataclass

# Of `predict`; what it can write is listed in predict/outputs.
DEMO_KINDS = ("maps", "masks", "overlay", "video", "report")
THRESHOLD = 0.42  # of the masks; §4.3, validated by the authors on the training set of DAVIS
CLIP_LENGTH = 5  # the authors' batch: consecutive, non-overlapping
PRECISIONS = ("auto", "float32", "float16", "bfloat16")

# Of training and of the networks.
NETWORKS = ("lite", "paper", "released")  # Their configurations are in model/config.py.
STAGES = ("spatial", "temporal", "joint")
PRESETS = ("paper", "modern")
CLIP_KINDS = ("copies", "camera", "cutouts", "video")  # The paper's are copies of a still, and video.
TEMPORAL_KINDS = ("fc_lstm", "convlstm", "b_convlstm", "db_convlstm", "pdb_convlstm")  # The rows of Table 5.
MOTIONS = ("none", "residual")
BATCH_NORMS = ("frozen", "new_layers", "train")
AUGMENTATIONS = ("paper", "modern", "none")
TRAINING_PRECISIONS = ("auto", "32-true", "bf16-mixed")

EXPORT_FORMATS = ("torch-export", "aoti", "onnx")  # How each is written is in inference/export.py.
PAPER_TABLES = (1, 2, 4, 5)  # Those that `reproduce` can measure; the numbers are in evaluation/paper/tables.py.


@dataclass(frozen=True)
class EngineOptions:
    """How a stream of frames goes through the network.

    clip_length: frames that the network sees together; 5 in the authors' code.
    overlap: frames that neighbouring clips share, less than clip_length. Their maps are blended, with weights that grow
        by one from both ends of a clip to its middle: 1, 2, 3, 2, 1 for five frames.
    causal: for live sources. Every map comes with its frame, computed from this and earlier frames alone, see
        `SaliencyModel.step`. There are no clips and no overlap.
    batch: frames that go through the spatial part of the network together; None: 1 on a CPU, 16 on a GPU.
    precision: of the network, one of `PRECISIONS`; "auto" is float16 on CUDA GPUs, else float32.
    compile: `torch.compile` the spatial part. If that fails, a warning is logged and the network runs without it.

    Raises ValueError, which names the option.
    """

    clip_length: int = CLIP_LENGTH
    overlap: int = 0
    causal: bool = False
    batch: int | None = None
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self):
        for name, least in (("clip_length", 1), ("overlap", 0), ("batch", 1)):
            value = getattr(self, name)
            if value is None and name == "batch":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.overlap >= self.clip_length:
            raise ValueError(f"overlap must be below clip_length = {self.clip_length}, got {self.overlap}")
        if self.causal and (self.overlap or self.clip_length != CLIP_LENGTH):
            raise ValueError("causal has no clips: clip_length and overlap must be left out")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
