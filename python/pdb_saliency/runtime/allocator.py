"""Makes malloc of the GNU C library keep freed memory in the process."""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make malloc serve large blocks from the heap and keep what is freed, for as long as the process lives.

    By default each feature map is mapped from the kernel and returned to it, and the kernel clears every page on first
    touch: on a CPU that takes up to half the time of a training step. Does nothing where there is no mallopt.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # Another C library.
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    mallopt(_M_TOP_PAD, 64 << 20)
