"""The words of a condition: see `indexes.filters.syntax`."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from indexes.errors import FilterError

KEYWORDS = {"or", "and", "not", "in", "like", "is", "null"}
_MAX_LENGTH = 10_000

NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""How a number is spelled, in a condition and in a cell: read by Python's regular expressions and by RE2."""

_TOKEN = re.compile(
    rf"""(?P<number>{NUMBER})(?![\w.])
    | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)(?!\w)
    | '(?P<text>(?:[^']|'')*+)'
    | "(?P<name>(?:[^"]|"")*+)"
    | (?P<symbol>==|!=|<>|<=|>=|[=<>(),])
    | (?P<space>\s+)
    | (?P<open>['"])
    | (?P<unknown>[\w.+-]+|.)""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word, and where and how it is written."""

    kind: str  # number, text, name, end, or the keyword or symbol itself
    value: str | float
    start: int
    spelled: str


def tokens_of(where: str) -> Iterator[Token]:
    """Split a condition into tokens, the last of which is the end.

    Raises:
        FilterError: It is empty or too long, or holds what is no token.
    """
    if not where.strip():
        raise FilterError("the filter is empty: write a condition such as label = 'cat'")
    if len(where) > _MAX_LENGTH:
        raise FilterError(f"the filter has {len(where)} characters: write it in {_MAX_LENGTH} or fewer")
    if undecoded := re.search(r"[\ud800-\udfff]", where):
        raise error_at(undecoded.start(), f"cannot read {undecoded[0]}: write the filter in UTF-8")
    for found in _TOKEN.finditer(where):
        start, spelled = found.start(), found[0]
        match found.lastgroup:
            case "number":
                yield Token("number", float(spelled) + 0.0, start, spelled)
            case "text":
                yield Token("text", found["text"].replace("''", "'"), start, spelled)
            case "name":
                yield Token("name", found["name"].replace('""', '"'), start, spelled)
            case "word" if spelled.lower() not in KEYWORDS:
                yield Token("name", spelled, start, spelled)
            case "word" | "symbol":
                yield Token(spelled.lower(), spelled, start, spelled)
            case "open":
                raise error_at(
                    start, f"{spelled} is never closed: close it, or double a quote that means itself"
                )
            case "unknown":
                hint = "put texts in single quotes, unusual column names in double quotes"
                raise error_at(start, f"cannot read {spelled}: {hint}")
    yield Token("end", "", len(where), "the end")


def error_at(start: int, message: str) -> FilterError:
    """What is wrong with a condition, in one printable line that says where."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    return FilterError(f"filter, character {start + 1}: {line}")
