"""Models for other programs: a `torch.export` program, an AOTInductor package or ONNX, which need none of our code.

The exported network takes `clip`, float32 (N, T, 3, H, W): RGB frames in 0 .. 255, resized to the model's input size.
It returns `saliency`, float32 (N, T, H, W) in [0, 1]. Normalisation, the channel order of the backbone and the
calibration are inside; the guided filter is not, which needs the frames at their own size (`refine`, about forty lines
of OpenCV). N is free; T, H and W are chosen at export. Batch normalisation is folded, and the ConvLSTM layers are
decomposed into PyTorch's own operators (`pdb_ext.reference`, unrolled over T), so that `pdb_ext` is not needed.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdb_ext import ConvLSTM
from pdb_saliency.errors import InputError, OutputError, SaliencyError, one_line
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.options import CLIP_LENGTH
from pdb_saliency.runtime.files import replacing
from pdb_saliency.runtime.isolation import isolate_compiler

from .optimise import fold_batch_norm

_log = logging.getLogger(__name__)

# Largest relative RMS difference of an exported network's answer from the model's; float32 kernels differ by far less.
_LIMIT = 1e-3


class Portable(nn.Module):
    """The network as it is exported: clip (N, T, 3, H, W), RGB in 0 .. 255, to saliency (N, T, H, W)."""

    def __init__(self, model: SaliencyModel):
        super().__init__()
        self.model = decompose(fold_batch_norm(copy.deepcopy(model).eval().requires_grad_(False)))
        spec = model.input_spec
        self.bgr = spec.bgr
        self.calibration = (model.output_spec.scale, model.output_spec.offset)
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.flatten(0, 1)
        frames = frames.flip(1) if self.bgr else frames
        encoded = self.model.encode((frames - self.mean) / self.std)
        saliency = self.model.saliency(encoded, clip.shape[:2], clip.shape[-2:])
        if self.calibration == (1.0, 0.0):
            return saliency
        scale, offset = self.calibration
        return torch.sigmoid(scale * torch.logit(saliency) + offset)


def decompose(module: nn.Module) -> nn.Module:
    """Let every ConvLSTM in `module` use PyTorch's own operators alone, in place; returns `module`."""
    for part in module.modules():
        if isinstance(part, ConvLSTM):
            part.implementation = "reference"
    return module


def export(
    model: SaliencyModel,
    path: str | Path,
    format: str,
    clip_length: int = CLIP_LENGTH,
    device: str | torch.device = "cpu",
    size: tuple[int, int] | None = None,
) -> float:
    """Write the model to `path`, which appears complete or not at all; return how much its answer differs.

    format: a key of `FORMATS`. clip_length: T. device: where an AOTInductor package will run; others run anywhere.
    size: (H, W), None for the model's input size.
    Returns the relative RMS difference between the written file's answer and the model's on a random clip.

    Raises InputError: a size that the model cannot have. OutputError: a wrong suffix, a file that cannot be written.
    SaliencyError: a library or a compiler is missing, or the answer differs. ValueError: an unknown format.
    """
    size = _input_size(model, size)
    _log.info("%s, on %s", model.description, device)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    suffix, write, read = FORMATS[format]
    path = Path(path)
    if path.suffix != suffix:
        raise OutputError(f"{path}: a file of format {format} must end in {suffix}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise OutputError(f"{path}: the folder does not exist or cannot be written to")
    portable = Portable(model).to(device)
    clip = _example(clip_length, size).to(device)
    hidden = path.with_name(f".{path.stem[:50]}.{os.getpid()}{suffix}")  # The libraries go by the suffix.
    try:
        with replacing(path, hidden) as file:
            _in_words(format, lambda: write(portable, clip, file))
            return _compare(_in_words(format, lambda: read(file)(clip)), portable, clip)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _input_size(model: SaliencyModel, size: tuple[int, int] | None) -> tuple[int, int]:
    own = model.config.input_size
    if model.config.variant == "released" and size not in (None, own):
        raise InputError(f"the released variant has its own input size, {own}: leave --size out")
    return size or own


def _example(clip_length: int, size: tuple[int, int]) -> Tensor:
    """Two clips, because a program traced with one clip would accept only one."""
    return torch.randint(0, 256, (2, clip_length, 3, *size), generator=torch.Generator().manual_seed(0)).float()


@torch.inference_mode()
def _compare(answer: Tensor, portable: Portable, clip: Tensor) -> float:
    exact = portable(clip).double().cpu()
    difference = float((answer.double().cpu() - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    if not difference <= _LIMIT:
        raise SaliencyError(
            f"the exported network's answer differs from the model's by {difference:.2g} (RMS), allowed {_LIMIT}"
        )
    return difference


def _program(portable: Portable, clip: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(portable, (clip,), dynamic_shapes={"clip": {0: torch.export.Dim("N", min=1)}})


def _write_program(portable: Portable, clip: Tensor, path: Path) -> None:
    torch.export.save(_program(portable, clip), path)


def _read_program(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _write_package(portable: Portable, clip: Tensor, path: Path) -> None:
    isolate_compiler()
    torch._inductor.aoti_compile_and_package(_program(portable, clip), package_path=str(path))


def _read_package(path: Path) -> Callable[[Tensor], Tensor]:
    return torch._inductor.aoti_load_package(str(path))


def _write_onnx(portable: Portable, clip: Tensor, path: Path) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(library)
        except ImportError as error:
            raise SaliencyError(f"ONNX needs {library}: pip install 'pdb-ext[export]'") from error
    write_onnx(_program(portable, clip), ["clip"], ["saliency"], path)


def write_onnx(program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str], path: Path) -> None:
    # The exporter warns about operators of torchvision, which is not used here, even if it is not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    torch.onnx.export(program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False).save(str(path))


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(clip: Tensor) -> Tensor:
        (saliency,) = session.run(["saliency"], {"clip": np.ascontiguousarray(clip.cpu().numpy())})
        return torch.from_numpy(saliency)

    return call


# The `EXPORT_FORMATS`: suffix of the file, and how to write and read it.
FORMATS: dict[str, tuple[str, Callable, Callable]] = {
    "torch-export": (".pt2", _write_program, _read_program),
    "aoti": (".pt2", _write_package, _read_package),
    "onnx": (".onnx", _write_onnx, _read_onnx),
}


def _in_words(format: str, work: Callable[[], Any]) -> Any:
    """The result of the work; any error of the exporters becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The exporters warn about themselves.
            return work()
    except (SaliencyError, OSError):
        raise
    except Exception as error:
        hint = " (it needs a C++ compiler)" if format == "aoti" else ""
        raise SaliencyError(f"the export to {format} failed{hint}: {one_line(error, name=False)}") from error
