"""`pdb-saliency data` without the rest of the command line."""

import argparse

from pdb_saliency.cli import data as command
from pdb_saliency.cli.console import library_on_console


def run(*words):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["data", *map(str, words)])
    with library_on_console():
        arguments.command(arguments)
