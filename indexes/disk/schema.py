"""What the values in a manifest may be: types that `msgspec` checks when one is read."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import Meta

_T = TypeVar("_T")

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Settings = Mapping[str, bool | int | float | str | list[bool | int | float | str | None] | None]
"""Names and plain values, or lists of them: nothing nested, which a stranger could nest without end."""


class Calibration(TypedDict):
    """What the budget `auto` means for an index, and how it was found: see `retrieval.measuring.calibrate`.

    `rows` is the number of images that could be found then. Older records lack `refits`.
    """

    refits: NotRequired[Sha256 | None]
    submodel: str
    share_of_xl: Share
    max_drop: Share
    confidence: Share
    queries: Count
    losses: Count
    gains: Count
    check_queries: Count
    check_drop: float | None
    check_low: float | None
    check_high: float | None
    rows: Count


class MeasuredCurve(TypedDict):
    """Which submodels keep most of the full encoder's answers on images of an index, at every cost.

    `cosines` are their embeddings' to the full encoder's, by spelling, over so many `images`: dearer ones are
    closer. `refits` identifies what the submodels are made of, beside the full encoder.
    """

    refits: Sha256 | None
    cosines: dict[str, float]
    images: Count


def checked(value: Any, kind: type[_T]) -> _T:
    """A value as JSON gives it, as the dataclass or type that it must be; nothing is rounded or parsed.

    Raises:
        ValueError: It is another; the message says where. Names that a dataclass does not know are ignored:
            see `unknown`.
    """
    return msgspec.convert(value, kind, strict=True)


def unknown(given: Mapping[str, Any], known: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The names in nested dictionaries that others, of the same nesting, do not have."""
    for name, value in given.items():
        if name not in known:
            yield f"{where}{name}"
        elif isinstance(value, dict):
            yield from unknown(value, known[name], f"{where}{name}.")
