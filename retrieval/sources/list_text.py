"""Lists that are text: one path a line with or without a label, tables with a header, JSON objects.

A plain list is one image a line: its path, or its path and a label. Whether there are labels, and what
stands before them, is decided once for a list: by the reading that finds the most files in its first lines,
the plain one where none finds more.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from retrieval.sources.list_columns import Columns, UnusableListError, check_names, columns_named
from retrieval.sources.sample import printable

TABLES = (".csv", ".tsv")
OBJECTS = (".jsonl", ".ndjson")

_SNIFFED_BYTES = 8192
_FIRST_LINES = 100
_NO_TEXT_FILE = UnusableListError("not UTF-8 text; a text list holds one path a line")


def text_of(file: BinaryIO) -> str:
    """The text of an open file.

    Raises:
        UnusableListError: It is none.
    """
    try:
        start = file.read(_SNIFFED_BYTES)
        text = (start + (b"" if b"\0" in start else file.read())).decode("utf-8-sig")
    except OSError as error:
        raise UnusableListError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _NO_TEXT_FILE from error
    if "\0" in text:
        raise _NO_TEXT_FILE
    return text


@dataclass(frozen=True)
class _Reading:
    """How a line may be meant.

    Attributes:
        between: What stands between path and label, None for white space; empty where there is no label.
        is_last: Whether it is the last such of the line that does.
        unquotes: Whether quotes around a path or a label are none of it.
    """

    between: str | None = ""
    is_last: bool = True
    unquotes: bool = True

    def __call__(self, line: str) -> tuple[str, str | None]:
        """Path and label of a line; one in which nothing is between two is a path."""
        if not self.unquotes:
            return line, None
        parts = [line]
        if self.between != "":
            parts = (line.rsplit if self.is_last else line.split)(self.between, 1)
        path, label = (_unquoted(part.strip()) for part in (*parts, "")[:2])
        return (path, label or None) if path else (line, None)


_PLAIN = _Reading(unquotes=False)
_READINGS = (
    _PLAIN,
    _Reading(),
    *(_Reading(between) for between in ("\t", ",", ";", None)),
    # Labels of several words, or several labels.
    *(_Reading(between, is_last=False) for between in ("\t", ",", ";", None)),
)


def plain_list(text: str, root: Path) -> Columns:
    """A list of one image a line.

    Args:
        text: The list.
        root: Where relative paths begin.
    """
    lines = pc.utf8_rtrim(pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten(), "\r")
    lines = lines.filter(pc.not_equal(pc.utf8_trim_whitespace(lines), ""))
    first = lines.slice(0, _FIRST_LINES).to_pylist()
    reading = max(_READINGS, key=lambda each: sum(_is_there(root / each(line)[0]) for line in first))
    if reading == _PLAIN:
        return Columns(lines, None, None, {})
    read = map(reading, lines.to_pylist())
    paths, labels = (pa.array(column, pa.large_string()) for column in zip(*read, strict=True))
    return Columns(paths, labels, None, {})


def table(text: str, *, is_tsv: bool) -> Columns:
    """A table with a header: between columns are tabs, or what the header has most of, commas or semicolons.

    Raises:
        UnusableListError: It is none, or has no column of paths.
    """
    header = text.lstrip("\r\n").partition("\n")[0]
    parsing = pa.csv.ParseOptions(
        delimiter="\t" if is_tsv else max(",;\t", key=header.count), newlines_in_values=True
    )
    data = pa.py_buffer(text.encode())
    try:
        with pa.csv.open_csv(pa.BufferReader(data), parse_options=parsing) as first:
            names = first.schema.names
        check_names(names)
        as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()))
        read = pa.csv.read_csv(pa.BufferReader(data), parse_options=parsing, convert_options=as_text)
    except pa.ArrowException as error:
        reason = " ".join(printable(str(error)).split())[:200]
        raise UnusableListError(f"not a table with a header line ({reason})") from error
    return columns_named({name: _filled(pc.utf8_trim_whitespace(read[name])) for name in names})


def json_lines(text: str) -> Columns:
    """One JSON object a line; what is no text in it is as JSON prints it, null is nothing.

    Raises:
        UnusableListError: A line is none, or no field is one of paths.
    """
    rows: list[Mapping[str, str | None]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append({name: _as_text(value) for name, value in json.loads(line).items()})
                json.dumps(rows[-1], ensure_ascii=False).encode()  # an escape may hide half a character
            except (ValueError, AttributeError, RecursionError) as error:
                raise UnusableListError(f"line {number} is no JSON object; write one a line") from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    check_names(names)
    return columns_named(
        {name: pa.array([row.get(name) for row in rows], pa.large_string()) for name in names}
    )


def _is_there(path: Path) -> bool:
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _unquoted(text: str) -> str:
    for quote in ('"', "'"):
        if len(text) > 1 and text.startswith(quote) and text.endswith(quote):
            return text[1:-1].replace(quote * 2, quote)
    return text


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Nothing in place of what is empty."""
    return pc.if_else(pc.equal(column, ""), None, column)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
