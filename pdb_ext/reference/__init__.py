"""The layers in plain PyTorch: the definitions that every other implementation is measured against."""

from .gru import convgru, convgru_of_checked, gru_step
from .lstm import CellOptions, cell, convlstm, convlstm_of_checked

__all__ = ["CellOptions", "cell", "convgru", "convgru_of_checked", "convlstm", "convlstm_of_checked", "gru_step"]
