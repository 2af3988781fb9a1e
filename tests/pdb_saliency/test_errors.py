"""Messages of other libraries, quoted in ours."""

import pytest

from pdb_saliency.errors import one_line


@pytest.mark.parametrize(
    ("error", "with_name", "without"),
    [
        (ValueError("wrong\nat line 3"), "ValueError: wrong", "wrong"),
        (RuntimeError("\n  wrong"), "RuntimeError: wrong", "wrong"),
        (MemoryError(), "MemoryError: ", "MemoryError"),
        (OSError("x" * 999), "OSError: " + "x" * 191, "x" * 200),
    ],
)
def test_an_error_in_one_line(error, with_name, without):
    assert (one_line(error), one_line(error, name=False)) == (with_name, without)
