"""Search among some of the rows, by mask and by expression, for exact and for approximate kinds."""

import gc
import operator
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_index import DIM, ENCODER, build, bytes_of, origin, rows_of

from indexes import FilterError, Index, IndexReplacedError, IndexWriter
from indexes.directory import change, row_search
from indexes.directory import numbered_rows as module
from indexes.directory.numbered_rows import NumberedRows
from indexes.directory.row_search import FoundRows, RowSearch
from indexes.disk import vectors
from indexes.faiss_kinds.options import KindOptions
from indexes.faiss_kinds.selection import Selection

Row = dict[str, str | None]

ROWS = 700
KINDS = {
    "Flat": KindOptions(factory="Flat"),
    "HNSW8": KindOptions(factory="HNSW8"),
    "IVF8,Flat": KindOptions(factory="IVF8,Flat"),
    "IVF8,PQ4x4": KindOptions(factory="IVF8,PQ4x4", rerank=50),
    "PQ4x4fs": KindOptions(factory="PQ4x4fs", rerank=50),  # searches among all rows or none
    "SQ8": KindOptions(factory="SQ8", rerank=0),  # scores are only nearly right
}


def row(number: int, rng: np.random.Generator) -> Row:
    return {
        "key": f"{number // 100}/{number:03d}.jpg",
        "path": f"/photos/{number}",
        "label": ["cat", "dog", "o'clock", None][rng.integers(4)],
        "year": ["2018", "2019", "2020.5", "nan", "?", None][rng.integers(6)],
    }


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NumberedRows:
    """Some rows with copies among them, and some of them removed."""
    rng = np.random.default_rng(0)
    vectors_ND = rng.standard_normal((ROWS, DIM))
    vectors_ND[::20] = vectors_ND[0]
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    rows = [row(number, rng) for number in range(ROWS)]
    out = tmp_path_factory.mktemp("filtered") / "x.index"
    with IndexWriter(out, ENCODER) as writer:
        writer.plan([("a", ""), ("b", "")])
        writer.write_part(0, vectors_ND[:300], rows[:300], [])
        writer.write_part(1, vectors_ND[300:], rows[300:], [])
        writer.commit(origin(), KINDS[request.param])
    gone_N = rng.random(ROWS) < 0.1
    change.remove(out, lambda _: gone_N, command="")
    return NumberedRows.open(out)


@contextmanager
def few_rows(limit: int) -> Iterator[None]:
    """Up to so many rows are compared one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_search, "_FEW_ROWS", limit)
        yield


def search(
    index: NumberedRows, queries_QD: np.ndarray, k: int, where_N: np.ndarray | None = None
) -> FoundRows:
    among = None if where_N is None else Selection(where_N & index.live)
    return RowSearch(index).search(queries_QD, k, among)


def check(
    index: NumberedRows, where_N: np.ndarray | None, queries_QD: np.ndarray, k: int, *, is_exact: bool
) -> str:
    """Compare a search with brute force, and say how it went."""
    found = search(index, queries_QD, k, where_N)
    among = np.flatnonzero(index.live if where_N is None else index.live & where_N)
    k = min(k, len(among))
    assert found.scores.shape == found.rows.shape == (len(queries_QD), k)
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)
    assert np.isin(found.rows, among).all()
    assert all(len(set(rows)) == k for rows in found.rows.tolist())
    scores_QN = queries_QD @ index.vectors.take(np.arange(ROWS)).T
    assert (np.diff(found.scores, axis=1) <= 1e-6).all()
    rough = index.manifest.kind.factory == "SQ8" and "one by one" not in found.searched
    tolerance = 0.1 * np.abs(queries_QD).sum(axis=1).max(initial=1) if rough else 1e-5
    own_QK = np.take_along_axis(scores_QN, found.rows, axis=1)
    np.testing.assert_allclose(found.scores, own_QK, atol=tolerance)
    if is_exact and not rough:
        best_QK = -np.sort(-scores_QN[:, among], axis=1)[:, :k]
        np.testing.assert_allclose(found.scores, best_QK, atol=1e-5)
    return found.searched


QUERIES = st.tuples(st.integers(0, 99), st.integers(0, 4))


def drawn(queries: tuple[int, int]) -> np.ndarray:
    seed, count = queries
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0, 1), queries=QUERIES, k=st.integers(1, ROWS + 50))
@example(seed=0, share=0.0, queries=(0, 2), k=3)
@example(seed=0, share=1.0, queries=(0, 2), k=ROWS)
@example(seed=0, share=1.0, queries=(0, 0), k=10)
def test_search_among_a_mask_equals_brute_force(
    index: NumberedRows, seed: int, share: float, queries: tuple[int, int], k: int
) -> None:
    where_N = np.random.default_rng(seed).random(ROWS) < share
    queries_QD, count = drawn(queries), int((where_N & index.live).sum())
    assert check(index, where_N, queries_QD, k, is_exact=True) == f"{count} rows one by one"
    # The same without comparing one by one where the kind can do without.
    factory = index.manifest.kind.factory
    with few_rows(0):
        searched = check(index, where_N, queries_QD, k, is_exact=factory == "Flat")
        if not count:
            assert searched == f"{count} rows one by one"
        else:
            assert searched.startswith(f"{factory} among {count} rows")
        check(index, None, queries_QD, k, is_exact=factory == "Flat")


# ---------------------------------------------------------------- expressions

Condition = tuple[str, Callable[[Row], bool | None]]
"""As a user writes it, and what it says of a row: true, false, or nothing."""

COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, ">=": operator.ge}


def compared(column: str, symbol: str, value: str | float) -> Condition:
    def says(row: Row) -> bool | None:
        text = row[column]
        if text is None or (isinstance(value, float) and text in ("nan", "?")):
            return None
        return COMPARE[symbol](float(text) if isinstance(value, float) else text, value)

    quoted = f"{value:g}" if isinstance(value, float) else "'" + value.replace("'", "''") + "'"
    return f"{column} {symbol} {quoted}", says


def inverted(condition: Condition) -> Condition:
    def says(row: Row) -> bool | None:
        said = condition[1](row)
        return None if said is None else not said

    return f"not ({condition[0]})", says


def joined(word: str, left: Condition, right: Condition) -> Condition:
    def says(row: Row) -> bool | None:
        both = {left[1](row), right[1](row)}
        decisive = word == "or"
        if decisive in both:
            return decisive
        return None if None in both else not decisive

    return f"({left[0]}) {word} ({right[0]})", says


def says_null(column: str) -> Condition:
    return f"{column} is null", lambda row: row[column] is None


def says_like(prefix: str) -> Condition:
    return f"key like '{prefix}%'", lambda row: str(row["key"]).startswith(prefix)


CONDITIONS = st.recursive(
    st.one_of(
        st.builds(
            compared,
            st.just("label"),
            st.sampled_from(sorted(COMPARE)),
            st.sampled_from(["cat", "dog", "o'clock"]),
        ),
        st.builds(
            compared, st.just("year"), st.sampled_from(sorted(COMPARE)), st.sampled_from([2018.0, 2020.5])
        ),
        st.builds(says_null, st.sampled_from(["label", "year"])),
        st.builds(says_like, st.sampled_from(["0/", "3/3", "6/69", "x"])),
    ),
    lambda inner: st.one_of(
        st.builds(inverted, inner), st.builds(joined, st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(condition=CONDITIONS, queries=QUERIES, k=st.integers(1, 60))
def test_search_among_what_an_expression_finds_equals_brute_force(
    index: NumberedRows, condition: Condition, queries: tuple[int, int], k: int
) -> None:
    where, says = condition
    rows: list[dict[str, Any]] = index.rows.to_pylist()
    wanted_N = np.array([says(each) is True for each in rows]) & index.live
    where_N = index.matching(where)
    np.testing.assert_array_equal(where_N, wanted_N)
    check(index, where_N, drawn(queries), k, is_exact=True)
    with few_rows(0):
        check(index, where_N, drawn(queries), k, is_exact=index.manifest.kind.factory == "Flat")


# ---------------------------------------------------------------- which path, and what it needs


def test_most_of_the_true_neighbours_are_found_among_many(index: NumberedRows) -> None:
    where_N = np.random.default_rng(1).random(ROWS) < 0.7
    queries_QD = np.random.default_rng(2).standard_normal((50, DIM)).astype(np.float32)
    with few_rows(0):
        found = search(index, queries_QD, 10, where_N)
    truth = search(index, queries_QD, 10, where_N)
    # A copy of a neighbour is as good.
    right = truth.scores[:, -1:] - 1e-2
    own_QK = np.einsum("qd,qkd->qk", queries_QD, index.vectors.take(found.rows.ravel()).reshape(50, 10, DIM))
    assert (own_QK >= right).mean() > 0.85


@pytest.mark.parametrize("index", ["PQ4x4fs"], indirect=True)
def test_a_kind_that_cannot_choose_rows_finds_more_and_drops_them_if_they_are_not_too_many(
    index: NumberedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries_QD, left_out = np.eye(DIM, dtype=np.float32), ROWS - len(index)
    assert left_out > 10
    with few_rows(0):
        monkeypatch.setattr(row_search, "_MOST_SPARE", left_out)
        assert check(index, None, queries_QD, 20, is_exact=False) == f"PQ4x4fs among {len(index)} rows"
        monkeypatch.setattr(row_search, "_MOST_SPARE", left_out - 1)
        assert check(index, None, queries_QD, 20, is_exact=True) == f"{len(index)} rows one by one"


@pytest.mark.parametrize("index", ["HNSW8", "IVF8,Flat"], indirect=True)
def test_what_an_index_lacks_is_looked_for_one_by_one(index: NumberedRows) -> None:
    where_N = np.zeros(ROWS, dtype=bool)
    where_N[np.flatnonzero(index.live)[[3, 50, 200, 500]]] = True
    queries_QD = np.eye(DIM, dtype=np.float32)
    with few_rows(0):
        searched = check(index, where_N, queries_QD, 4, is_exact=False)
    assert searched.startswith(f"{index.manifest.kind.factory} among 4 rows; for ")
    assert searched.endswith(f" of {DIM} queries one by one")


def test_a_whole_index_is_searched_as_its_kind_says(tmp_path: Path) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 100), factory="HNSW8")
    query = np.ones((1, DIM))
    assert search(NumberedRows.open(out), query, 3).searched == "HNSW8"
    change.remove(out, lambda index: index.with_keys(["a:3"]), command="")
    assert search(NumberedRows.open(out), query, 3).searched == "99 rows one by one"
    with few_rows(98):
        assert search(NumberedRows.open(out), query, 3).searched == "HNSW8 among 99 rows"


def test_a_condition_that_cannot_be_understood_is_refused_each_time(index: NumberedRows) -> None:
    store = Index(index)
    for _ in range(2):
        with pytest.raises(FilterError, match="there is no column colour"):
            store.search(np.ones((1, DIM)), 1, "colour = 'red'")
    assert len(store.search(np.ones((1, DIM)), 1, "label = 'cat'").entries[0]) == 1


# ---------------------------------------------------------------- while it is replaced


def replace(out: Path) -> None:
    change.gather([out], out, command="")


def test_replaced_index_answers_from_what_it_has_read(tmp_path: Path) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 20), rows_of("b", 20))
    index, query = NumberedRows.open(out), np.ones((2, DIM))
    where_N = np.arange(40) % 3 == 0
    whole, some = search(index, query, 5), search(index, query, 5, where_N)
    change.remove(out, lambda opened: opened.with_keys(["a:0", "b:3"]), command="")
    replace(out)
    np.testing.assert_array_equal(search(index, query, 5).rows, whole.rows)
    np.testing.assert_array_equal(search(index, query, 5, where_N).rows, some.rows)


REMOVALS = {
    "nothing": [],
    "a row of each part": ["a:0", "b:0"],
    "a whole part": [f"b:{n}" for n in range(20)],
}


@pytest.mark.parametrize("generations", [1, 2, 3, 4])
@pytest.mark.parametrize("keys", REMOVALS.values(), ids=REMOVALS)
def test_replaced_index_says_so_where_vectors_are_needed(
    tmp_path: Path, keys: list[str], generations: int
) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 20), rows_of("b", 20))
    index, query = NumberedRows.open(out), np.ones((1, DIM))
    if keys:
        change.remove(out, lambda opened: opened.with_keys(keys), command="")
    for _ in range(generations):  # the file system may give the next the inode of the one before the last
        replace(out)
    assert len(search(index, query, 5).rows[0]) == 5  # the FAISS file is open, and enough
    for _ in range(2):
        with pytest.raises(IndexReplacedError, match=r"was replaced since it was opened: open it again"):
            search(index, query, 5, np.arange(40) < 10)
    assert len(search(NumberedRows.open(out), query, 5, np.arange(40 - len(keys)) < 10).rows[0]) == 5


def test_replaced_index_that_ranks_again_needs_its_vectors(tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    build(tmp_path / "flat.index", rows_of("a", 20))
    change.gather([tmp_path / "flat.index"], out, command="", options=KindOptions(factory="SQ8", rerank=10))
    index = NumberedRows.open(out)
    replace(out)
    with pytest.raises(IndexReplacedError):
        search(index, np.ones((1, DIM)), 5)


def test_index_that_was_written_over_is_one_that_was_replaced(tmp_path: Path) -> None:
    """As by rsync --inplace; file systems may give the files of a new index the inodes of an old one, too."""
    out = build(tmp_path / "x.index", rows_of("a", 20))
    other = build(tmp_path / "other.index", rows_of("b", 20))
    index = NumberedRows.open(out)
    for name, content in bytes_of(other).items():
        (out / name).write_bytes(content)
    with pytest.raises(IndexReplacedError):
        search(index, np.ones((1, DIM)), 5, np.arange(20) < 10)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["read_manifest", "read_rows", "_read_removed", "restore"])
def test_index_that_is_replaced_while_it_is_opened_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 20), rows_of("b", 20))
    change.remove(out, lambda index: index.with_keys([f"b:{n}" for n in range(19)]), command="")
    real = getattr(module, step)

    def interrupted(*arguments: object) -> object:
        monkeypatch.undo()
        if when == "before":
            replace(out)
        result = real(*arguments)
        if when == "after":
            replace(out)
        return result

    monkeypatch.setattr(module, step, interrupted)
    index = NumberedRows.open(out)
    assert index.live_rows()["key"].to_pylist() == [*(f"a:{n}" for n in range(20)), "b:19"]
    assert search(index, np.ones((1, DIM)), 50).rows.shape == (1, 21)
    assert len(index.vectors) == 21


def test_removed_index_is_one_that_was_replaced(tmp_path: Path) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 20))
    index = NumberedRows.open(out)
    out.rename(tmp_path / "moved.index")
    with pytest.raises(IndexReplacedError):
        search(index, np.ones((1, DIM)), 5, np.arange(20) < 10)


def test_an_index_that_is_let_go_of_is_gone_at_once(tmp_path: Path) -> None:
    """What replaced it may need the memory; FAISS may have read it all."""
    index = Index.open(build(tmp_path / "x.index", rows_of("a", 20)))
    index.search(np.ones((1, DIM)), 5, "key like 'a:1%'")
    gone = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert gone() is None
    finally:
        gc.enable()


def test_more_parts_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_OPEN_PARTS", 3)
    parts = [rows_of(f"file {i}", i % 4) for i in range(12)]
    out = build(tmp_path / "x.index", *parts)
    index = NumberedRows.open(out)
    wanted_ND = np.stack([each.vector for part in parts for each in part]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(wanted_ND))
    np.testing.assert_array_equal(index.vectors.take(order), wanted_ND[order])
    np.testing.assert_array_equal(np.concatenate(list(index.vectors.blocks())), wanted_ND)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert 1 <= maps.read_text().count(str(out / "vectors")) <= 3
    replace(out)
    with pytest.raises(IndexReplacedError):  # those that are no longer open
        index.vectors.take(order)
