"""Video saliency with the pyramid dilated bidirectional ConvLSTM (Song et al., ECCV 2018)."""

from __future__ import annotations

from .runtime.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
