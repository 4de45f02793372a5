"""What any kind of store must do, against a dict. Another kind is one more entry of `KINDS`."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of, vector_of_key, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_index import DIM, ENCODER, origin

from indexes import (
    EmptyIndexError,
    Entry,
    FilterError,
    Index,
    IndexReplacedError,
    IndexWriter,
    Store,
    StoreWriter,
    UnknownKeyError,
)
from indexes.faiss_kinds.options import KindOptions
from indexes.progress import silent

Row = dict[str, str | None]


def directory(place: Path) -> StoreWriter:
    return IndexWriter(place / "x.index", ENCODER)


KINDS: dict[str, tuple[Callable[[Path], StoreWriter], Callable[[Path], Store], KindOptions]] = {
    "directory": (directory, lambda place: Index.open(place / "x.index"), KindOptions(factory="Flat")),
    "graph": (directory, lambda place: Index.open(place / "x.index"), KindOptions(factory="HNSW4")),
}
Make = Callable[[list[Row], np.ndarray], Store]


@pytest.fixture(scope="module", params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A store of these rows, in two parts, and of an image that failed."""
    write, opened, options = KINDS[request.param]

    def made(rows: list[Row], vectors_ND: np.ndarray) -> Store:
        place, half = tmp_path_factory.mktemp("store"), len(rows) // 2
        with write(place) as writer:
            assert writer.base is None
            writer.plan([("one", ""), ("two", "")])
            writer.write_part(0, vectors_ND[:half], rows[:half], [])
            writer.write_part(1, vectors_ND[half:], rows[half:], [("bad.jpg", "empty")])
            writer.commit(origin(), options, silent, key_prefix="", moved=())
        return opened(place)

    return made


def row(number: int, label: str | None = None, year: str | None = None, content: str | None = None) -> Row:
    path = f"/photos/{number // 2}.tar"
    return {"key": f"{number:02}.jpg", "path": path, "label": label, "year": year, "content": content}


def drawn(count: int, seed: int) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).standard_normal((count, DIM))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND.astype(np.float16).astype(np.float32)


class Oracle:
    """The same corpus in a dict."""

    def __init__(self, rows: list[Row], vectors_ND: np.ndarray) -> None:
        self.rows = {str(each["key"]): each for each in rows}
        self.vectors = dict(zip(self.rows, vectors_ND, strict=True))

    def scores(self, query_D: np.ndarray, says: Callable[[Row], bool]) -> dict[str, float]:
        return {key: float(self.vectors[key] @ query_D) for key, each in self.rows.items() if says(each)}

    def entry(self, key: str) -> Entry:
        return Entry(key, str(self.rows[key]["path"]), self.rows[key]["label"])

    @property
    def duplicates(self) -> int:
        contents = Counter(each["content"] for each in self.rows.values() if each["content"])
        return sum(count - 1 for count in contents.values())


CONDITIONS: dict[str, Callable[[Row], bool]] = {
    "label = 'cat'": lambda each: each["label"] == "cat",
    "label is null": lambda each: each["label"] is None,
    "not label = 'cat'": lambda each: each["label"] not in (None, "cat"),
    "year > 2019 or key like '0%'": lambda each: each["year"] == "2020" or str(each["key"])[0] == "0",
    "key = 'none'": lambda each: False,
}


def check(store: Store, oracle: Oracle, queries_QD: np.ndarray, k: int) -> None:
    """Everything that can be asked of a store."""
    keys = keys_of(store)
    assert len(store) == len(keys) == len(oracle.rows)
    assert {each["key"]: each for each in store.entries([*row(0)]).to_pylist()} == oracle.rows
    assert (store.duplicates, store.facts()["images"]) == (oracle.duplicates, len(keys))
    assert store.manifest.classes == sorted({each["label"] for each in oracle.rows.values() if each["label"]})
    assert store.failures().to_pylist() == [{"key": "bad.jpg", "reason": "empty"}]
    assert {*keys, "bad.jpg"} <= set(store.used_keys().to_pylist())

    blocks_ND = vectors_of(store)
    np.testing.assert_array_equal(blocks_ND, [oracle.vectors[key] for key in keys])
    asked = [*reversed(keys), keys[0]]
    assert store.fetch(asked) == [oracle.entry(key) for key in asked]
    np.testing.assert_array_equal(store.vectors_of(asked), [oracle.vectors[key] for key in asked])
    np.testing.assert_array_equal(store.sound_vectors_of(asked), store.vectors_of(asked))

    scores_QK, positions_QK = store.exact(queries_QD, k)
    assert scores_QK.shape == positions_QK.shape == (len(queries_QD), min(k, len(keys)))
    for query_D, scores, positions in zip(queries_QD, scores_QK, positions_QK, strict=True):
        assert len(set(positions.tolist())) == len(positions)
        np.testing.assert_allclose(scores, blocks_ND[positions] @ query_D, atol=1e-5)
        best = sorted(oracle.scores(query_D, lambda _: True).values(), reverse=True)
        np.testing.assert_allclose(scores, best[:k], atol=1e-5)

    for where, says in {None: lambda _: True, **CONDITIONS}.items():
        found = store.search(queries_QD, k, where)
        count = min(k, sum(map(says, oracle.rows.values())))
        assert (found.scores.dtype, found.scores.shape) == (np.float32, (len(queries_QD), count))
        assert found.searched
        for query_D, scores, entries in zip(queries_QD, found.scores, found.entries, strict=True):
            among = oracle.scores(query_D, says)
            assert len({entry.key for entry in entries}) == len(entries) == count
            assert entries == [oracle.entry(entry.key) for entry in entries]
            np.testing.assert_allclose(scores, [among[entry.key] for entry in entries], atol=1e-5)
            assert (np.diff(scores) <= 0).all()
            if store.is_exact:
                np.testing.assert_allclose(scores, sorted(among.values(), reverse=True)[:k], atol=1e-5)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["cat", "dog", None]), st.sampled_from(["2019", "2020", None]), st.sampled_from("abc")
    ),
    min_size=1,
    max_size=20,
)
REMOVALS = st.lists(
    st.one_of(
        st.sets(st.integers(0, 20)),
        st.sampled_from(sorted(CONDITIONS)),
        st.lists(st.integers(0, 11).map(lambda n: f"/photos/{n}.tar"), max_size=3),
    ),
    max_size=3,
)


@settings(max_examples=25, deadline=None)
@given(drawn_rows=ROWS, removals=REMOVALS, seed=st.integers(0, 99), k=st.integers(1, 25))
def test_any_sequence_of_removals_equals_a_dict(
    make: Make,
    drawn_rows: list[tuple[str | None, str | None, str]],
    removals: list[set[int] | str | list[str]],
    seed: int,
    k: int,
) -> None:
    rows = [row(number, *each) for number, each in enumerate(drawn_rows)]
    vectors_ND = drawn(len(rows), seed)
    store, oracle = make(rows, vectors_ND), Oracle(rows, vectors_ND)
    queries_QD = drawn(3, seed + 100)
    check(store, oracle, queries_QD, k)
    for removal in removals:
        match removal:
            case set():
                gone = [key for i, key in enumerate(oracle.rows) if i in removal]
            case str():
                gone = [key for key, each in oracle.rows.items() if CONDITIONS[removal](each)]
            case _:
                gone = [key for key, each in oracle.rows.items() if each["path"] in removal]

        def remove(store: Store = store, removal: object = removal, gone: list[str] = gone) -> int:
            match removal:
                case set():
                    return store.remove([*gone, *gone], command="remove")
                case str():
                    return store.remove_where(removal, command="remove")
                case _:
                    return store.remove_files(removal, command="remove")  # type: ignore[arg-type]

        if len(gone) == len(oracle.rows):
            with pytest.raises(EmptyIndexError):
                remove()
            assert store.is_current()
        else:
            before = keys_of(store)
            assert remove() == len(gone)
            assert store.is_current() == (not gone)
            assert keys_of(store) == before, "a store that is open stays as it was"
            store = store.reopened()
            assert store.is_current()
            for key in gone:
                del oracle.rows[key]
        check(store, oracle, queries_QD, k)


@pytest.fixture
def store(make: Make) -> Store:
    rows = [row(number, ["cat", "dog", None][number % 3]) for number in range(12)]
    store = make(rows, drawn(12, 0))
    store.remove(["03.jpg"], command="remove")
    return store.reopened()


@pytest.mark.parametrize("unknown", ["none", "", "03.jpg", "bad.jpg", "\udcff", "0\0"])
def test_keys_that_no_image_has_are_named(store: Store, unknown: str) -> None:
    keys = ["01.jpg", unknown, "02.jpg"]
    for ask in (store.fetch, store.vectors_of, store.sound_vectors_of):
        with pytest.raises(UnknownKeyError, match="no row with the key") as refused:
            ask(keys)
        assert repr(unknown) in str(refused.value)
    with pytest.raises(UnknownKeyError):
        store.remove(keys, command="remove")
    assert store.is_current()
    assert len(store.reopened()) == 11


def test_nothing_asked_for_is_nothing(store: Store) -> None:
    assert store.fetch([]) == []
    assert store.vectors_of([]).shape == (0, DIM)
    assert store.remove([], command="remove") == store.remove_files(["/none"], command="remove") == 0
    assert store.is_current()
    found = store.search(np.empty((0, DIM), np.float32), 3)
    assert (found.scores.shape, found.entries) == ((0, 3), [])
    assert store.exact(np.empty((0, DIM), np.float32), 3)[1].shape == (0, 3)


@pytest.mark.parametrize(
    "queries, k",
    [(np.ones((2, DIM - 1)), 1), (np.ones(DIM), 1), (np.full((1, DIM), np.nan), 1), (np.ones((1, DIM)), 0)],
)
def test_queries_that_cannot_be_answered_are_refused(store: Store, queries: np.ndarray, k: int) -> None:
    with pytest.raises(ValueError, match=r"queries|k is 0"):
        store.search(queries, k)
    with pytest.raises(ValueError, match=r"queries|k is 0"):
        store.search(queries, k, "label = 'cat'")
    with pytest.raises(ValueError, match=r"queries|k is 0"):
        store.exact(queries, k)


@pytest.mark.parametrize("where", ["", "label =", "colour = 'red'", "label = \udcff"])
def test_conditions_that_cannot_be_understood_are_refused(store: Store, where: str) -> None:
    with pytest.raises(FilterError):
        store.search(np.ones((1, DIM)), 3, where)
    with pytest.raises(FilterError):
        store.remove_where(where, command="remove")
    assert store.is_current()


def test_more_conditions_than_are_remembered(store: Store) -> None:
    for _ in range(2):
        for number in range(12):
            [entries] = store.search(np.ones((1, DIM)), 3, f"key = '{number:02}.jpg'").entries
            assert [entry.key for entry in entries] == [f"{number:02}.jpg"] * (number != 3)


def test_columns_come_as_they_are_asked_for(store: Store) -> None:
    assert store.entries(["year", "key", "colour"]).column_names == ["year", "key"]
    assert {"key", "path", "label", "year", "content"} <= set(store.entries().column_names)
    assert len(store.entries(["key"])) == len(store) == 11


def test_what_it_says_of_itself(store: Store) -> None:
    assert store.manifest.encoder == ENCODER
    assert store.manifest.command == "remove"
    facts = store.facts()
    names = ("images", "not readable", "exact duplicates", "classes")
    assert [facts[name] for name in names] == [11, 1, 0, 2]
    before = store.search(np.ones((1, DIM)), 3).entries
    assert store.use("cpu") == facts["search"]
    assert store.search(np.ones((1, DIM)), 3).entries == before


def test_what_was_opened_answers_as_before_or_says_that_it_was_replaced(store: Store) -> None:
    queries_QD = drawn(2, 1)
    asks = (
        lambda asked: asked.search(queries_QD, 20).entries,
        lambda asked: asked.search(queries_QD, 20, "label is not null").entries,
        lambda asked: asked.exact(queries_QD, 20)[1].tolist(),
        lambda asked: vector_of_key(asked).keys(),
    )
    before = [ask(store) for ask in asks]
    other = store.reopened()  # which has read nothing yet
    assert store.remove(["01.jpg"], command="remove") == 1
    for opened in (store, other):
        assert "01.jpg" in keys_of(opened)
        for ask, answer in zip(asks, before, strict=True):
            with suppress(IndexReplacedError):
                assert ask(opened) == answer
    assert "01.jpg" not in keys_of(store.reopened())
    assert f"{store.location}" == f"{store.reopened().location}"
