"""The layers, with the conventions of `torch.nn`: ConvLSTM and ConvLSTMCell, and those of the paper."""

from .cell import ConvLSTMCell
from .convlstm import ConvLSTM
from .paper import DBConvLSTM, PDBConvLSTM

__all__ = ["ConvLSTM", "ConvLSTMCell", "DBConvLSTM", "PDBConvLSTM"]
