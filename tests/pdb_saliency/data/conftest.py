"""What the library logs appears as the command line shows it."""

import pytest

from pdb_saliency.cli.console import Verbosity, library_on_console


@pytest.fixture(autouse=True)
def console(monkeypatch):
    monkeypatch.setattr(Verbosity, "quiet", False)  # regardless of the options of the last command in this process
    with library_on_console():
        yield
