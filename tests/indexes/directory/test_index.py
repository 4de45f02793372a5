import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of, labels_of, paths_of, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import EncoderIdentity, Index, IndexDamagedError, IndexWriter, WrongEncoderError, verify
from indexes.directory.numbered_rows import NumberedRows
from indexes.directory.row_search import RowSearch
from indexes.disk.origin import Origin

Vectors = Callable[..., np.ndarray]
FILES = (
    "manifest.json",
    "index.faiss",
    "rows.parquet",
    "failures.parquet",
    "removed.npy",
    *(f"vectors/part-0000{i}.{suffix}" for i in range(3) for suffix in ("npy", "parquet")),
)


def test_round_trip(small: Path, identity: EncoderIdentity, vectors: Vectors) -> None:
    index = Index.open(small)
    assert len(index) == index.manifest.ntotal == 15
    assert keys_of(index) == [f"{i}/{n}.jpg" for i in range(3) for n in range(5)]
    assert labels_of(index) == [f"class {n % 3}" for _ in range(3) for n in range(5)]
    assert paths_of(index)[0] == "/photos/0/0.jpg"
    written = np.concatenate([vectors(5, seed=i) for i in range(3)])
    np.testing.assert_array_equal(vectors_of(index), written.astype(np.float16))
    assert index.manifest.encoder == identity
    assert index.manifest.files["failures.parquet"].rows == 3
    index.manifest.require_encoder(identity)


def brute_force(corpus_ND: np.ndarray, queries_QD: np.ndarray, k: int) -> np.ndarray:
    return -np.sort(-(queries_QD @ corpus_ND.T), axis=1)[:, :k]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    parts=st.lists(st.integers(0, 40), min_size=1, max_size=3).filter(any),
    queries=st.integers(0, 5),
    k=st.integers(1, 150),
    copies=st.booleans(),
)
def test_search_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, parts: list[int], queries: int, k: int, copies: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors_ND = rng.standard_normal((sum(parts), 8))
    vectors_ND[: len(vectors_ND) // 2 * copies] = 1  # many equal vectors: ties
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    out = tmp_path_factory.mktemp("search") / "index"
    encoder = EncoderIdentity(
        architecture="a", weights_sha256="b" * 64, pooling="c", embed_dim=8, preprocess={}
    )
    with IndexWriter(out, encoder) as writer:
        writer.plan([(str(i), "") for i in range(len(parts))])
        for i, stop in enumerate(np.cumsum(parts)):
            rows = [{"key": str(n), "path": ""} for n in range(stop - parts[i], stop)]
            writer.write_part(i, vectors_ND[stop - parts[i] : stop], rows, [])
        writer.commit(Origin(encoder=encoder, dtype="", device="", checkpoint="", sources=[], command=""))
    corpus_ND = vectors_ND.astype(np.float16).astype(np.float32)
    queries_QD = rng.standard_normal((queries, 8)).astype(np.float32)

    scores_QK, ids_QK, searched = RowSearch(NumberedRows.open(out)).search(queries_QD, k)

    assert searched == "Flat"

    assert (scores_QK.dtype, ids_QK.dtype) == (np.float32, np.int64)
    assert scores_QK.shape == ids_QK.shape == (queries, min(k, len(corpus_ND)))
    np.testing.assert_allclose(scores_QK, brute_force(corpus_ND, queries_QD, k), atol=1e-5)
    # Ties may come in any order, so ids are checked by what they point at, and for being distinct.
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", queries_QD, corpus_ND[ids_QK]), scores_QK, atol=1e-5)
    assert all(len(set(ids)) == len(ids) for ids in ids_QK.tolist())


@pytest.mark.parametrize(
    "queries, k, message",
    [
        (np.ones((2, 7)), 1, r"\(2, 7\), not \(Q, 8\)"),
        (np.ones(8), 1, r"not \(Q, 8\)"),
        (np.full((1, 8), np.nan), 1, "NaN"),
        (np.full((1, 8), -np.inf), 1, "infinity"),
        (np.ones((1, 8)), 0, "k is 0"),
    ],
)
def test_bad_queries_are_refused(small: Path, queries: np.ndarray, k: int, message: str) -> None:
    for search in (Index.open(small).search, Index.open(small).exact):
        with pytest.raises(ValueError, match=message):
            search(queries, k)


def test_other_encoder_is_told_which_model_is_needed(small: Path) -> None:
    other = EncoderIdentity(
        architecture="vit", weights_sha256="e" * 64, pooling="token", embed_dim=8, preprocess={}
    )
    with pytest.raises(WrongEncoderError, match=r"needs matvit_tiny \(weights 0123456789ab\)"):
        Index.open(small).manifest.require_encoder(other)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_are_found(small: Path, name: str) -> None:
    file = small / name
    whole = file.read_bytes()
    choose = random.Random(name)
    for offset in [0, len(whole) - 1, *choose.choices(range(len(whole)), k=10)]:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << choose.randrange(8)
        file.write_bytes(damaged)
        problems = verify(small)
        assert len(problems) == 1, (offset, problems)
        assert name in problems[0]
    file.write_bytes(whole)
    assert verify(small) == []


@pytest.mark.parametrize("name", FILES)
def test_cut_or_missing_file_is_refused(small: Path, name: str) -> None:
    file = small / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IndexDamagedError, match=file.name):
        Index.open(small)
    assert name in verify(small)[0]
    file.unlink()
    with pytest.raises(IndexDamagedError, match=file.name):
        Index.open(small)
    assert name in verify(small)[0]


@pytest.mark.parametrize("name", ["index.faiss", "rows.parquet"])
def test_damage_of_the_same_size_never_breaks_opening_otherwise(small: Path, name: str) -> None:
    file = small / name
    whole = file.read_bytes()
    for offset in range(0, min(len(whole), 4000), 1 if name == "index.faiss" else 9):
        damaged = bytearray(whole)
        damaged[offset] ^= 0xFF
        file.write_bytes(damaged)
        with suppress(IndexDamagedError):
            assert len(Index.open(small)) == 15


def test_verify_reports_strangers_and_everything_at_once(small: Path) -> None:
    (small / "vectors" / "notes.txt").write_text("mine")
    (small / "rows.parquet").unlink()
    (small / "vectors" / "part-00001.npy").write_bytes(b"")
    problems = verify(small)
    assert [problem.split(":")[0] for problem in problems] == [
        "rows.parquet",
        "vectors/part-00001.npy",
        "vectors/notes.txt",
    ]


def test_verify_reports_progress(small: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    assert verify(small, lambda *step: seen.append(step)) == []
    total = sum((small / name).stat().st_size for name in FILES[1:])
    assert seen[-1] == ("bytes verified", total, total)
    assert len(seen) == len(FILES) - 1
    assert seen == sorted(seen)


def test_missing_index_and_foreign_directory_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.index"
    with pytest.raises(IndexDamagedError, match=r"no index at .*matvit index build"):
        Index.open(missing)
    assert len(verify(missing)) == 1
    with pytest.raises(IndexDamagedError, match="not an index"):
        Index.open(tmp_path)


def test_unfinished_build_says_to_continue_it(tmp_path: Path, identity: EncoderIdentity) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan([("a", "1")])
    with pytest.raises(IndexDamagedError, match="run the same `matvit index build` again"):
        Index.open(out)


def test_index_can_be_moved(small: Path, tmp_path: Path) -> None:
    moved = tmp_path / "else where=1" / "x"
    shutil.copytree(small, moved)
    assert verify(moved) == []
    assert Index.open(moved).entries().column_names == ["key", "path", "label"]
