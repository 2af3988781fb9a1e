"""What a run can write and how it runs, and the defaults. Imports nothing heavy, so that the command line knows them at once."""

from __future__ import annotations

from dataclasses import dataclass

PICTURES = ("maps", "masks", "overlay", "cutout", "side")  # A folder each, with one picture for every frame.
VIDEOS = {"video": "overlay.mp4", "side-video": "side.mp4", "cutout-webm": "cutout.webm", "cutout-prores": "cutout.mov"}
RECORDS = {"json": "frames.jsonl", "coco": "coco.json", "report": "report.html"}
FILES = {**VIDEOS, **RECORDS}  # One file each, for the whole run.
KINDS = (*PICTURES, *FILES)
DEMO_KINDS = ("maps", "masks", "overlay", "video", "report")
THRESHOLD = 0.42  # Of the masks; §4.3, validated by the authors on the training set of DAVIS.
CLIP_LENGTH = 5  # The authors' batch: consecutive, non-overlapping.
PRECISIONS = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class EngineOptions:
    """How a stream of frames goes through the network.

    clip_length: frames that the network sees together; the authors' 5.
    overlap: frames that neighbouring clips share, below clip_length. Their maps are blended, with weights that grow by one
        from either end of a clip to its middle: 1, 2, 3, 2, 1 for five frames.
    causal: every map comes with its frame, from this and earlier frames alone, see `SaliencyModel.step`; no clips, no
        overlap. For live sources.
    batch: frames that go through the spatial part of the network together; None: 1 on a CPU, 16 on a GPU.
    precision: of the network, one of `PRECISIONS`; "auto" is float16 on CUDA GPUs, else float32.
    compile: `torch.compile` the spatial part. Where that fails a line says so, and the run goes on without.

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
