"""timm and torch, asked for what anyone may have written into a file.

What they raise is about that, in one line. Only calls of theirs belong inside: a fault of this package's own
code must come out as what it is, and never as its user's mistake.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
from torch import nn

from matvit.errors import NonsenseError

_RAISED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def asked() -> Iterator[None]:
    """Around one call of a library.

    Raises:
        NonsenseError: It cannot do what it was asked for.
    """
    try:
        yield
    except OSError:  # a hub that is not reached; some releases of its library raise it as a ValueError, too
        raise
    except _RAISED as error:
        # A first line that ends in a colon only announces those that follow.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise NonsenseError(lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]) from error


def plain_model(architecture: str, **arguments: Any) -> nn.Module:
    """timm's own model of an architecture; of `matvit_*`, the one that it makes elastic.

    Args:
        architecture: A name that timm knows.
        **arguments: Of `timm.create_model`.

    Raises:
        NonsenseError: timm cannot make a model of the arguments.
    """
    with asked():
        return timm.create_model(plain_name(architecture), **arguments)


def plain_name(architecture: str) -> str:
    """The timm name of the plain encoder: ``vit_*`` for ``matvit_*``, and its own for any other."""
    return architecture.removeprefix("mat") if architecture.startswith("matvit_") else architecture
