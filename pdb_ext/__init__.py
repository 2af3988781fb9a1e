"""Dilated ConvLSTM and ConvGRU layers for PyTorch with a fused native kernel."""

from . import reference
from ._info import build_info
from ._version import __version__
from .convert import Conversion, convert, unconvert
from .convgru import convgru
from .keras_weights import from_keras
from .modules import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, DBConvLSTM, PDBConvLSTM
from .ops import convlstm
from .runtime import cache_weights, clear_weight_cache, record_calls

__all__ = [
    "Conversion",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "DBConvLSTM",
    "PDBConvLSTM",
    "__version__",
    "build_info",
    "cache_weights",
    "clear_weight_cache",
    "convert",
    "convgru",
    "convlstm",
    "from_keras",
    "record_calls",
    "reference",
    "unconvert",
]
