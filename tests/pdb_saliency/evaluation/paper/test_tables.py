"""The paper's tables: the numbers are those of the paper, and every model finds its rows."""

import dataclasses
import re

import pytest

from helpers.paths import shared_path
from pdb_saliency.evaluation.paper.tables import TABLES, rows_of
from pdb_saliency.model.config import PAPER
from pdb_saliency.options import PAPER_TABLES


def test_the_command_line_offers_the_tables_that_there_are():
    assert tuple(TABLES) == PAPER_TABLES


def rows_in_paper(text, caption, following):
    """The lines of numbers between two places: second cell -> numbers."""
    lines = [
        line.split("\t") for line in text[text.index(caption) : text.index(following)].splitlines() if "\t" in line
    ]
    return [
        (cells[1].split("[")[0].strip(" *"), [c for c in cells if re.fullmatch(r"0\.\d{3}|\d\d\.\d", c)])
        for cells in lines
    ]


def test_numbers_are_the_papers():
    text = shared_path("paper.txt").read_text()
    found = dict(rows_in_paper(text, "Table 1.", "Non-deep learning model"))
    for name, values in TABLES[1].rows.items():
        assert [f"{value:.3f}" for value in values] == found[name], name
    numbers = [row for _, row in rows_in_paper(text, "Table 2.", "classification of each pixel") if len(row) == 9]
    columns = [[f"{value:.1f}" for value in column] for column in zip(*TABLES[2].rows.values())]
    assert numbers == columns
    for number, following in ((4, "For reference, LDOF"), (5, "Four baselines are used")):
        caption = {4: "Table 4.", 5: "PDB\\text{-}ConvLSTM}~"}[number]
        width = len(TABLES[number].rows)
        numbers = [row for _, row in rows_in_paper(text, caption, following) if len(row) == width]
        columns = [[f"{value:.3f}" for value in column] for column in zip(*TABLES[number].rows.values())]
        assert numbers == columns


def test_tables_agree_with_each_other():
    ours = dict(zip(TABLES[1].columns, TABLES[1].rows["Ours"]))
    full = dict(zip(TABLES[5].columns, TABLES[5].rows["PDB-ConvLSTM"]))
    assert full == {column: ours[column] for column in full}
    for table in TABLES.values():
        assert {len(values) for values in table.rows.values()} == {len(table.columns)}


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, {1: "Ours", 2: "Ours", 5: "PDB-ConvLSTM"}),
        ({"temporal": "fc_lstm"}, {5: "FC-LSTM"}),
        ({"temporal": "convlstm"}, {5: "ConvLSTM"}),
        ({"temporal": "b_convlstm"}, {5: "B-ConvLSTM"}),
        ({"temporal": "db_convlstm"}, {5: "DB-ConvLSTM"}),
        ({"temporal": "none"}, {4: "r = 2, 4, 8, 16"}),
        ({"temporal": "none", "pdc_dilations": (8,)}, {4: "r = 8"}),
        ({"temporal": "none", "pdc_dilations": (1, 2)}, {4: "r = 1, 2"}),
        ({"temporal": "none", "pdc": "aspp"}, {4: "ASPP"}),
        ({"pdc": "aspp"}, {}),
        ({"pdc_dilations": (4,)}, {}),
    ],
)
def test_where_a_model_belongs(options, rows):
    assert rows_of(dataclasses.replace(PAPER, **options)) == rows
    assert all(row in TABLES[number].rows or row == "r = 1, 2" for number, row in rows.items())
