"""Two names swapped in one step, which Python's `os` cannot do."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h and linux/fs.h
_RENAME_SWAP = 2  # macOS: sys/stdio.h


def exchange(one: Path, other: Path) -> bool:
    """Let two files or directories of one file system change names, so that neither name is ever missing.

    Returns:
        False, and nothing is changed, where the system or the file system cannot.
    """
    # What watches a process's renames learns of this one, too.
    sys.audit("os.rename", str(one), str(other), -1, -1)
    function = _function()
    if function is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        return bool(function(*names, _RENAME_SWAP) == 0)
    return bool(function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


@cache
def _function() -> Any:
    """The C library's own, or None where it has none."""
    name = {"linux": "renameat2", "darwin": "renamex_np"}.get(sys.platform, "")
    function: Any = getattr(ctypes.CDLL(None), name, None) if name else None
    if function is None:
        return None
    one_place = [ctypes.c_int, ctypes.c_char_p]
    swapped = [ctypes.c_char_p, ctypes.c_char_p] if sys.platform == "darwin" else one_place * 2
    function.argtypes = [*swapped, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function
