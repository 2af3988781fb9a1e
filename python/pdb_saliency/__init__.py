"""Video saliency with the pyramid dilated bidirectional ConvLSTM (Song et al., ECCV 2018)."""

from __future__ import annotations

import importlib

# Where each public name lives. Names are imported on first use, so that `pdb-saliency --help` need not wait for torch.
_MODULES = {
    "EngineOptions": "options",
    "InputError": "errors",
    "InputSpec": "model.input",
    "ModelConfig": "model.config",
    "OutputError": "errors",
    "Predictor": "api",
    "SaliencyError": "errors",
    "SaliencyModel": "model.saliency",
    "WeightsError": "errors",
    "load": "api",
    "load_caffemodel": "model.caffe.released",
    "load_model": "model.weights",
    "save_model": "model.weights",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
