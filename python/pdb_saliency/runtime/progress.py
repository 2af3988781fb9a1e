"""Progress bars on stderr, which stay away until a program asks for them, and text that a terminal can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_wanted = False


def show_progress(wanted: bool = True) -> None:
    """Whether this process shows progress bars from now on. The library shows none of its own accord."""
    global _wanted
    _wanted = wanted


def progress_bar(desc: str = "", show: bool | None = None, **options: Any) -> tqdm:
    """A tqdm bar on stderr, once `show_progress` has been called.

    show: None shows it only where stderr is a terminal; True elsewhere, too; False never.
    """
    from tqdm import tqdm

    disable = True if not _wanted else None if show is None else not show
    return tqdm(dynamic_ncols=True, disable=disable, desc=printable(desc) or None, **options)


def printable(text: object) -> str:
    """The text with its control characters, line breaks among them, escaped: file names may contain any."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
