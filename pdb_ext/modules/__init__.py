"""The layers, with the conventions of `torch.nn`: ConvLSTM and ConvGRU, their cells, and those of the paper."""

from .cell import ConvLSTMCell
from .convgru import ConvGRU
from .convlstm import ConvLSTM
from .gru_cell import ConvGRUCell
from .paper import DBConvLSTM, PDBConvLSTM

__all__ = ["ConvGRU", "ConvGRUCell", "ConvLSTM", "ConvLSTMCell", "DBConvLSTM", "PDBConvLSTM"]
