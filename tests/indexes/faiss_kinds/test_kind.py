"""A kind that is new: one class, and one line in `KINDS`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_index import DIM, ENCODER, Row, contents, expected, fill, origin, rows_of

from indexes import Index, IndexKindError, IndexWriter, verify
from indexes.directory import change
from indexes.faiss_kinds import all_kinds
from indexes.faiss_kinds.kind import Choice
from indexes.faiss_kinds.options import KindOptions


class Sq8:
    """A byte a number, of all vectors in a row."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        size_bytes = dim * ntotal + 8 * dim + 1024
        return [Choice(factory="SQ8", rerank=50, size_bytes=size_bytes)]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_kinds, "KINDS", (Sq8(), *all_kinds.KINDS))


def committed(
    out: Path, *parts: list[Row], extends: bool = False, options: KindOptions | None = None
) -> Path:
    with IndexWriter(out, ENCODER, extends=extends) as writer:
        fill(writer, parts)
        writer.commit(origin(), options or KindOptions())
    return out


@pytest.mark.usefixtures("registered")
def test_a_new_kind_is_chosen_built_searched_and_extended(tmp_path: Path) -> None:
    first, more = rows_of("a.tar", 300), rows_of("b.tar", 100)
    out = committed(tmp_path / "x.index", first)
    assert Index.open(out).manifest.kind.factory == "SQ8"
    committed(out, more, extends=True)
    index = Index.open(out)
    kind = index.manifest.kind
    assert (kind.factory, kind.rerank) == ("SQ8", 50)
    assert kind.recall >= 0.95
    assert kind.bytes_per_vector * 400 <= Sq8().choices(400, DIM)[0].size_bytes
    queries_QD = np.array([row.vector for row in (*first[:20], *more[:20])], np.float32)
    found = index.search(queries_QD, 1)
    assert found.searched == "SQ8"
    assert [entries[0].key for entries in found.entries] == [row.key for row in (*first[:20], *more[:20])]
    chosen = index.search(queries_QD, 1, "key like 'b.tar%'")
    assert all(entries[0].key.startswith("b.tar") for entries in chosen.entries)
    index.remove(["a.tar:0"], command="")
    change.gather([out], out, command="")
    assert Index.open(out).manifest.kind.factory == "SQ8"
    assert contents(out) == expected(first[1:], more)
    assert verify(out) == []


@pytest.mark.usefixtures("registered")
def test_a_new_kind_obeys_what_is_asked_of_all(tmp_path: Path) -> None:
    options = KindOptions(rerank=7, max_memory_bytes=Sq8().choices(300, DIM)[0].size_bytes)
    kind = Index.open(committed(tmp_path / "x.index", rows_of("a.tar", 300), options=options)).manifest.kind
    assert (kind.factory, kind.rerank) == ("SQ8", 7)
    with pytest.raises(IndexKindError, match=r"the smallest, SQ8, needs 0\.1M"):
        committed(tmp_path / "y.index", rows_of("a.tar", 300), options=KindOptions(max_memory_bytes=1000))


def test_without_its_line_it_is_unknown(tmp_path: Path) -> None:
    out = committed(tmp_path / "x.index", rows_of("a.tar", 300))
    assert Index.open(out).manifest.kind.factory == "Flat"
