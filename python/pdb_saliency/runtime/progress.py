"""Progress bars on stderr, off until a program asks for them, and text that is safe to print on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_wanted = False


def show_progress(wanted: bool = True) -> None:
    """Turn progress bars on or off for this process. By default the library shows none."""
    global _wanted
    _wanted = wanted


def progress_bar(desc: str = "", show: bool | None = None, **options: Any) -> tqdm:
    """A tqdm bar on stderr, once `show_progress` has been called.

    show: None shows it only if stderr is a terminal, True always, False never.
    """
    from tqdm import tqdm

    disable = True if not _wanted else None if show is None else not show
    return tqdm(dynamic_ncols=True, disable=disable, desc=printable(desc) or None, **options)


def printable(text: object) -> str:
    """The text with its control characters, line breaks among them, escaped: file names may contain any."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
