"""Load models by name or from a .safetensors, .pth or .caffemodel file, and save them."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pdb_saliency.errors import OutputError, WeightsError, one_line
from pdb_saliency.model.backbones.efficientnet import WEIGHTS_PACKAGE, imagenet_weights_path, load_imagenet_weights
from pdb_saliency.model.caffe.released import load_caffemodel
from pdb_saliency.runtime.files import replacing

from .assemble import fill, skeleton
from .config import LITE, ModelConfig
from .saliency import SaliencyModel

DEFAULT = "lite"
_SHIPPED = Path(__file__).parents[1] / "shipped"


def load_model(weights: str | Path | None = None) -> SaliencyModel:
    """A model on the CPU in eval mode.

    weights: a name (`pdb-saliency info` lists them), a .safetensors or .pth file that `save_model` wrote, the authors'
    .caffemodel, or None for the default model, "lite". `model.untrained` says in words which weights are random (None:
    none).

    Raises WeightsError, one line, for a missing, damaged or foreign file or an unknown name.
    """
    name = DEFAULT if weights is None else str(weights)
    if name in _NAMED:
        return _NAMED[name]()
    path = Path(name)
    suffixes = (*_READERS, ".caffemodel")
    if path.suffix.lower() not in suffixes:
        raise WeightsError(f"weights must be {', '.join(_NAMED)} or a file ending in {', '.join(suffixes)}, got {name}")
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
    except OSError as error:  # The name is too long, or the folder may not be read.
        raise WeightsError(f"{name}: cannot be read ({error.strerror})") from error
    if path.suffix.lower() == ".caffemodel":
        return load_caffemodel(path)
    try:
        state, metadata = _READERS[path.suffix.lower()](path)
        config, untrained = ModelConfig.from_dict(metadata["config"]), metadata["untrained"]
        if not isinstance(untrained, (str, type(None))):
            raise ValueError("untrained must be a text or null")
    except Exception as error:  # Unpickling a damaged file can raise nearly anything.
        raise WeightsError(f"{path}: not a model file of pdb_saliency, or damaged ({one_line(error)})") from error
    model = fill(skeleton(config, str(path)), state, str(path))
    model.untrained = untrained
    return model


def check_model_path(path: Path) -> None:
    """Raises OutputError if it is certain that `save_model` cannot write there."""
    if path.suffix.lower() not in _SERIALISERS:
        raise OutputError(f"{path}: a model file must end in {' or '.join(_SERIALISERS)}")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: cannot be written (the folder does not exist)")


def save_model(model: SaliencyModel, path: str | Path) -> None:
    """Write weights and configuration to a .safetensors or .pth file, which appears complete or not at all.

    A process killed while writing leaves a hidden file, .NAME.PROCESS.part; `train` removes those of its own runs.
    Raises OutputError for another suffix, or if the file cannot be written.
    """
    path = Path(path)
    check_model_path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = _SERIALISERS[path.suffix.lower()](state, {"config": model.config.to_dict(), "untrained": model.untrained})
    try:
        with replacing(path, durable=True) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def weight_names() -> dict[str, str]:
    """The names `load_model` knows, each with one line about it."""
    return {name: build.__doc__.strip() for name, build in _NAMED.items()}


def _lite() -> SaliencyModel:
    """EfficientNet-Lite0, PDC, PDB-ConvLSTM, skip decoder; trained on stills and clips made of them (the default)."""
    return load_model(_SHIPPED / "lite.safetensors")


def _imagenet() -> SaliencyModel:
    """The same with ImageNet weights in the backbone, everything else untrained (random, always the same)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SaliencyModel(LITE)
    if imagenet_weights_path() is None:
        package = WEIGHTS_PACKAGE.replace("_", "-")
        model.untrained += f" (the package {package}, which holds the ImageNet backbone, is not installed)"
        return model.eval()
    load_imagenet_weights(model.spatial.backbone)
    model.untrained = (
        "only the backbone is trained (on ImageNet, for classification); the PDC module, the temporal part and the "
        "head are untrained (random weights), so the maps do not show saliency yet"
    )
    return model.eval()


_NAMED = {"lite": _lite, "imagenet": _imagenet}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {})["pdb_saliency"])
        return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata


def _read_pth(path: Path) -> tuple[dict[str, Tensor], dict]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch warns about a foreign pickle, which is refused below with our own message.
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except (
            Exception
        ) as error:  # It can raise nearly anything. torch's own message recommends running the code in the file.
            raise ValueError("it cannot be read as tensors and plain values") from error
    state = stored["state_dict"]
    if not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and _is_plain(tensor) for name, tensor in state.items()
    ):
        raise ValueError("state_dict must map names to dense tensors that hold data")
    return state, stored["pdb_saliency"]


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is dense, on the CPU, and has a stored value for each of its elements."""
    dense = (
        tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_quantized) and tensor.device.type == "cpu"
    )
    return dense and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _safetensors_bytes(state: dict[str, Tensor], metadata: dict) -> bytes:
    return safetensors.torch.save(state, {"pdb_saliency": json.dumps(metadata)})


def _pth_bytes(state: dict[str, Tensor], metadata: dict) -> bytes:
    # In memory first: torch.save reports a full disk as a RuntimeError without a cause.
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "pdb_saliency": metadata}, buffer)
    return buffer.getvalue()


_READERS = {".safetensors": _read_safetensors, ".pth": _read_pth}
_SERIALISERS = {".safetensors": _safetensors_bytes, ".pth": _pth_bytes}
