"""The paper's tables with its numbers, and the rows to which a model belongs.

Source of all numbers: Song et al., "Pyramid Dilated Deeper ConvLSTM for Video Salient Object Detection", ECCV 2018,
Tables 1, 2, 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from pdb_saliency.model.config import ModelConfig
from pdb_saliency.model.temporal import TEMPORAL_MODULES

OURS = "Ours"
OURS_CRF = "Ours+"


@dataclass(frozen=True)
class Table:
    """columns: (test set, field of `Scores`). rows: method -> the paper's value for each column.

    scale: the factor from a score in [0, 1] to the paper's unit.
    """

    number: int
    title: str
    columns: tuple[tuple[str, str], ...]
    rows: dict[str, tuple[float, ...]]
    scale: int = 1

    @property
    def digits(self) -> int:
        return 3 if self.scale == 1 else 1


_TABLE_1 = Table(
    1,
    "MAE and maximum F-measure of video salient object detection",
    tuple((name, score) for name in ("DAVIS", "FBMS", "ViSal") for score in ("mae", "max_f")),
    {
        "Amulet": (0.082, 0.699, 0.110, 0.725, 0.032, 0.894),
        "SRM": (0.039, 0.779, 0.071, 0.776, 0.028, 0.890),
        "UCF": (0.107, 0.716, 0.147, 0.679, 0.068, 0.870),
        "DSS": (0.062, 0.717, 0.083, 0.764, 0.028, 0.906),
        "MSR": (0.057, 0.746, 0.064, 0.787, 0.031, 0.901),
        "NLDF": (0.056, 0.723, 0.092, 0.736, 0.023, 0.916),
        "DCL": (0.070, 0.631, 0.089, 0.726, 0.035, 0.869),
        "DHS": (0.039, 0.758, 0.083, 0.743, 0.025, 0.911),
        "ELD": (0.070, 0.688, 0.103, 0.719, 0.038, 0.890),
        "KSR": (0.077, 0.601, 0.101, 0.649, 0.063, 0.826),
        "RFCN": (0.065, 0.710, 0.105, 0.736, 0.043, 0.888),
        "FGRNE": (0.043, 0.786, 0.083, 0.779, 0.040, 0.850),
        "FCNS": (0.053, 0.729, 0.100, 0.735, 0.041, 0.877),
        "SGSP": (0.128, 0.677, 0.171, 0.571, 0.172, 0.648),
        "GAFL": (0.091, 0.578, 0.150, 0.551, 0.099, 0.726),
        "SAGE": (0.105, 0.479, 0.142, 0.581, 0.096, 0.734),
        "STUW": (0.098, 0.692, 0.143, 0.528, 0.132, 0.671),
        "SP": (0.130, 0.601, 0.161, 0.538, 0.126, 0.731),
        OURS: (0.030, 0.849, 0.069, 0.815, 0.022, 0.917),
    },
)
_TABLE_2 = Table(
    2,
    "J and F of unsupervised video object segmentation, in percent",
    (("DAVIS", "j_mean"), ("DAVIS", "f_mean"), ("FBMS", "j_mean")),
    {
        "ARP": (76.2, 70.6, 59.8),
        "LVO": (75.9, 72.1, 65.1),
        "FSEG": (70.7, 65.3, 68.4),
        "LMP": (70.0, 65.9, 35.7),
        "SFL": (67.4, 66.7, 55.0),
        "FST": (55.8, 51.1, 47.7),
        "SAGE": (41.5, 36.9, 61.2),
        OURS: (74.3, 72.8, 72.3),
        OURS_CRF: (77.2, 74.5, 74.0),
    },
    scale=100,
)
_ABLATION = (("DAVIS", "max_f"), ("DAVIS", "mae"), ("FBMS", "max_f"), ("FBMS", "mae"))
_TABLE_4 = Table(
    4,
    "the PDC module, in the spatial part alone",
    _ABLATION,
    {
        "r = 2": (0.703, 0.079, 0.707, 0.110),
        "r = 4": (0.704, 0.077, 0.702, 0.109),
        "r = 8": (0.715, 0.074, 0.714, 0.107),
        "r = 16": (0.708, 0.074, 0.716, 0.108),
        "r = 2, 4, 8, 16": (0.774, 0.047, 0.744, 0.103),
        "ASPP": (0.769, 0.045, 0.730, 0.111),
    },
)
_TABLE_5 = Table(
    5,
    "the temporal module",
    _ABLATION,
    {
        "FC-LSTM": (0.705, 0.056, 0.672, 0.121),
        "ConvLSTM": (0.783, 0.043, 0.755, 0.096),
        "B-ConvLSTM": (0.786, 0.039, 0.757, 0.094),
        "DB-ConvLSTM": (0.809, 0.036, 0.799, 0.072),
        "PDB-ConvLSTM": (0.849, 0.030, 0.815, 0.069),
    },
)
TABLES = {table.number: table for table in (_TABLE_1, _TABLE_2, _TABLE_4, _TABLE_5)}


def rows_of(config: ModelConfig) -> dict[int, str]:
    """Table number -> the row to which a model with this configuration belongs.

    Table 4 has models without a temporal module, as its numbers show (0.774 with the paper's dilation rates; the full
    model has 0.849). Rates that the paper does not have get their own row. A model with a temporal module belongs
    to no table unless its PDC module is the paper's, with several rates concatenated.
    """
    if config.temporal == "none":
        rates = ", ".join(map(str, config.pdc_dilations))
        return {4: "ASPP" if config.pdc == "aspp" else f"r = {rates}"}
    if config.pdc != "pdc" or len(config.pdc_dilations) == 1:
        return {}
    row = {5: TEMPORAL_MODULES[config.temporal]}
    return row | {1: OURS, 2: OURS} if config.temporal == "pdb_convlstm" else row
