"""The command line, in this process and in others."""

import argparse
import os
import subprocess
import sys

import pytest

from pdb_saliency import cli
from pdb_saliency.cli import data
from pdb_saliency.cli.console import library_on_console


def run_process(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, **options
    )


def help_of(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def run_data(*words):
    """`pdb-saliency data` without the rest of the command line, so that its errors are raised."""
    parser = argparse.ArgumentParser()
    data.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["data", *map(str, words)])
    with library_on_console():
        arguments.command(arguments)
