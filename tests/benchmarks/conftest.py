"""The benchmarks are scripts: they import each other by name."""

import pytest

from helpers.paths import BENCHMARKS


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
