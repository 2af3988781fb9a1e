"""The command's options under torchrun, whose own parser reads them first."""

import argparse

import pytest
from torch.distributed.run import parse_args

from pdb_saliency.cli.program import make_parser


def options():
    """Every option of every command."""
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        yield from (
            pytest.param(name, option, id=f"{name} {option}") for a in parser._actions for option in a.option_strings
        )


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_torchrun_hands_every_option_on(command, option):
    """`--log` is not an option of torchrun but a prefix of two, and it refuses ambiguous ones."""
    theirs = ["--no-python", "--nproc-per-node", "2", "pdb-saliency"]
    assert parse_args([*theirs, command, option, "7"]).training_script_args == [command, option, "7"]
