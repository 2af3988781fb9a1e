"""What the library logs appears as the command line shows it."""

import pytest

from pdb_saliency.cli.console import library_on_console


@pytest.fixture(autouse=True)
def console():
    with library_on_console():
        yield
