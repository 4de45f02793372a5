import errno
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from clustered import clustered, stored, true_neighbours

from indexes import EncoderIdentity, FileEntry, IndexDamagedError, IndexKindError, Manifest
from indexes.disk.durable import ends_sha256, sha256_of
from indexes.disk.manifest import Kind
from indexes.disk.vectors import Vectors
from indexes.faiss_kinds import all_kinds
from indexes.faiss_kinds import build as module
from indexes.faiss_kinds.build import add, build, extend, filled, size_bytes
from indexes.faiss_kinds.kind import Choice
from indexes.faiss_kinds.options import KindOptions, check
from indexes.faiss_kinds.recall import Queries
from indexes.faiss_kinds.search import load
from indexes.progress import silent

AUTO = KindOptions()
QUIET = {"max_memory_bytes": None, "progress": silent}


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.faiss_kinds.recall._QUERIES", 300)


@pytest.fixture(scope="module")
def corpus() -> np.ndarray:
    return clustered(4000)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, corpus: np.ndarray) -> Vectors:
    return stored(tmp_path_factory.mktemp("corpus"), corpus)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder / "index.faiss"


def manifest_of(path: Path, kind: Kind, vectors: Vectors) -> Manifest:
    encoder = EncoderIdentity(
        architecture="m", weights_sha256="0" * 64, pooling="", embed_dim=vectors.dim, preprocess={}
    )
    file = FileEntry(
        bytes=path.stat().st_size, sha256=sha256_of(path), rows=len(vectors), ends_sha256=ends_sha256(path)
    )
    return Manifest(
        encoder=encoder,
        dtype="",
        device="",
        checkpoint="",
        kind=kind,
        ntotal=len(vectors),
        removed=0,
        classes=[],
        sources=[],
        files={path.name: file},
        created="",
        command="",
    )


def recall_on_disk(path: Path, kind: Kind, corpus: np.ndarray, vectors: Vectors) -> float:
    """What the file finds for the same queries, by brute force."""
    index = load(path, manifest_of(path, kind, vectors))
    rows = Queries(vectors).rows
    _, found = index.search(corpus[rows], max(11, kind.rerank))
    right = 0
    for own, candidates, true in zip(rows, found, true_neighbours(corpus, rows), strict=True):
        others = np.array([row for row in candidates if row not in (own, -1)])
        if kind.rerank:
            others = others[np.argsort(-(corpus[others] @ corpus[own]))]
        right += len(true & set(others[:10].tolist()))
    return right / (10 * len(rows))


def test_full_disk_is_noticed(path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode: FullDisk(path, mode) if "w" in mode else real(path, mode)
    )
    with pytest.raises(OSError, match="No space left"):
        build(vectors, path, AUTO)
    assert not any(path.parent.iterdir())


def test_flat_is_what_it_always_was(tmp_path: Path, path: Path, vectors: Vectors) -> None:
    kind = build(vectors, path, AUTO)
    flat = faiss.IndexFlatIP(16)
    flat.add(np.concatenate(list(vectors.blocks())))
    faiss.write_index(flat, str(tmp_path / "flat.faiss"))
    assert path.read_bytes() == (tmp_path / "flat.faiss").read_bytes()
    assert kind.query_ms > 0
    assert kind == Kind(query_ms=kind.query_ms, bytes_per_vector=path.stat().st_size / 4000)
    assert (kind.factory, kind.recall, kind.rerank) == ("Flat", 1.0, 0)


@pytest.mark.parametrize(
    "factory, rerank",
    [
        ("IVF32,Flat", 0),
        ("IVF32,PQ8x4", 100),
        ("IVF32,SQ8", 100),
        ("IVF16,PQ8x4fs", 100),
        ("SQ4", 100),
        ("IVF32,PQ8x4,RFlat", 0),
        ("RR16,IVF32,SQ4", 30),
        ("IVF32,PQ4x4", 0),
    ],
)
def test_recall_on_record_is_what_the_file_finds(
    path: Path, corpus: np.ndarray, vectors: Vectors, factory: str, rerank: int
) -> None:
    asked = rerank if rerank == 30 or factory == "IVF32,PQ4x4" else None
    kind = build(vectors, path, KindOptions(factory=factory, rerank=asked))
    assert (kind.factory, kind.rerank) == (factory, rerank)
    assert kind.recall == pytest.approx(recall_on_disk(path, kind, corpus, vectors), abs=2e-3)
    assert (kind.recall >= 0.95) == (factory != "IVF32,PQ4x4")
    assert kind.bytes_per_vector == path.stat().st_size / 4000
    assert kind.query_ms > 0


def test_a_graph_finds_at_least_what_is_on_record(path: Path, corpus: np.ndarray, vectors: Vectors) -> None:
    kind = build(vectors, path, KindOptions(factory="HNSW16", recall_target=0.97))
    assert 0.97 <= kind.recall <= recall_on_disk(path, kind, corpus, vectors) + 1e-6


def test_a_higher_target_costs_more(path: Path, vectors: Vectors) -> None:
    low, high = (
        build(vectors, path, KindOptions(factory="IVF64,Flat", recall_target=target))
        for target in (0.8, 0.99)
    )
    assert 0.8 <= low.recall < 0.99 <= high.recall
    assert int(low.parameters[7:]) < int(high.parameters[7:])


def test_reranking_raises_recall(path: Path, vectors: Vectors) -> None:
    rough, again = (
        build(vectors, path, KindOptions(factory="PQ8x4", rerank=rerank)).recall for rerank in (0, 100)
    )
    assert again > rough + 0.1


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "HNSW8", "IVF16,PQ4x4fs,RFlat"])
def test_the_same_vectors_make_the_same_index(path: Path, vectors: Vectors, factory: str) -> None:
    made = []
    for _ in range(2):
        kind = build(vectors, path, KindOptions(factory=factory))
        made.append((kind.parameters, kind.recall, kind.bytes_per_vector, path.read_bytes()))
    assert made[0] == made[1]


@pytest.mark.parametrize("count", [1, 2, 5, 20, 45])
def test_tiny_corpora_with_every_kind_that_auto_tries(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    vectors = stored(tmp_path / "few", clustered(count), parts=1)
    tried = all_kinds.choices(count, 16)
    assert [choice.factory for choice in tried] == ["Flat", "HNSW32"] + (
        ["IVF1,Flat", "IVF1,SQ8"] if count == 45 else []
    )
    for choice in tried:
        with monkeypatch.context() as patch:
            patch.setattr("indexes.faiss_kinds.build.choices", lambda *_, choice=choice, **__: [choice])
            kind = build(vectors, path, AUTO)
        assert (kind.factory, kind.recall, kind.rerank) == (choice.factory, 1.0, choice.rerank)
        rows = load(path, manifest_of(path, kind, vectors)).search(vectors.take(np.arange(1)), 50)[1]
        assert set(rows[0]) == {*range(count), -1}


def test_auto_takes_what_fits_the_memory(tmp_path: Path, path: Path) -> None:
    vectors = stored(tmp_path / "more", clustered(10_000))
    tried = {choice.factory: choice for choice in all_kinds.choices(10_000, 16)}
    for factory in ("Flat", "IVF256,SQ8", "IVF256,PQ4"):
        memory = tried[factory].size_bytes
        kind = build(vectors, path, KindOptions(max_memory_bytes=memory))
        assert kind.factory == factory
        assert path.stat().st_size <= memory
        assert kind.recall >= 0.95
    with pytest.raises(IndexKindError, match=r"fits into 0\.1M: the smallest, IVF256,PQ1, needs 0\.2M"):
        build(vectors, path, KindOptions(max_memory_bytes=2**16))


def test_a_factory_that_was_asked_for_must_fit_the_memory(path: Path, vectors: Vectors) -> None:
    with pytest.raises(IndexKindError, match=r"HNSW32.* takes"):
        build(vectors, path, KindOptions(factory="HNSW32", max_memory_bytes=2**19))
    assert list(path.parent.iterdir()) == []
    assert build(vectors, path, KindOptions(factory="HNSW32", max_memory_bytes=2**21)).recall >= 0.95


def of(*factories: str) -> Callable[..., list[Choice]]:
    return lambda *_, **__: [Choice(factory=factory, rerank=0, size_bytes=0) for factory in factories]


@pytest.mark.parametrize("order", [("PQ2x4", "PQ8x4", "PQ4x4"), ("PQ8x4", "PQ2x4"), ("IVF16,PQ2x4", "PQ8x4")])
def test_auto_ends_with_the_best_where_none_reaches_the_target(
    path: Path, corpus: np.ndarray, vectors: Vectors, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...]
) -> None:
    monkeypatch.setattr("indexes.faiss_kinds.build.choices", of(*order))
    kind = build(vectors, path, AUTO)
    assert kind.factory == "PQ8x4"
    assert faiss.read_index(str(path)).pq.M == 8
    assert kind.bytes_per_vector == path.stat().st_size / 4000
    assert kind.recall == pytest.approx(recall_on_disk(path, kind, corpus, vectors), abs=2e-3)


def test_auto_goes_on_until_the_target_is_reached_and_no_further(
    path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexes.faiss_kinds.build.choices", of("PQ2x4", "IVF16,Flat", "nonsense"))
    assert build(vectors, path, AUTO).factory == "IVF16,Flat"


def test_auto_passes_over_what_is_slow(path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.faiss_kinds.build.median_ms", lambda *_: 1e6)
    assert build(vectors, path, KindOptions(max_query_ms=1e5)).factory == "HNSW32"
    assert build(vectors, path, KindOptions(max_query_ms=1e7)).factory == "Flat"


def test_too_little_time_for_anything_says_what_was_measured(path: Path, vectors: Vectors) -> None:
    for factory, measured in (("auto", r"Flat takes .* ms, HNSW32 takes .* ms, IVF"), ("Flat", "Flat takes")):
        with pytest.raises(
            IndexKindError, match=rf"within 1e-06 ms a query \({measured}.*\): allow more"
        ) as error:
            build(vectors, path, KindOptions(factory=factory, max_query_ms=1e-6))
        assert "\n" not in str(error.value)
        assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("stage", ["vectors that train", "vectors added to", "settings tried of"])
@pytest.mark.parametrize("before", [b"", b"an older index"])
def test_an_interrupted_build_leaves_what_was_there(
    path: Path, vectors: Vectors, stage: str, before: bytes
) -> None:
    def interrupt(told: str, done: int, total: int) -> None:
        if told == f"{stage} IVF16,Flat":
            raise KeyboardInterrupt

    if before:
        path.write_bytes(before)
    with pytest.raises(KeyboardInterrupt):
        build(vectors, path, KindOptions(factory="IVF16,Flat"), interrupt)
    assert list(path.parent.iterdir()) == [path] * bool(before)
    assert not before or path.read_bytes() == before


def test_progress_tells_every_step_to_its_end(path: Path, vectors: Vectors) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    build(
        vectors,
        path,
        KindOptions(factory="IVF16,Flat"),
        lambda told, done, total: steps.setdefault(told, []).append((done, total)),
    )
    counted = ("vectors that train", "vectors added to", "settings tried of")
    assert list(steps) == [f"{what} IVF16,Flat" for what in counted]
    training, adding, tuning = steps.values()
    assert training[0][0] == 0
    assert training[-1][0] == training[-1][1]
    assert adding[-1] == (4000, 4000)
    assert [done for done, _ in tuning] == list(range(1, len(tuning) + 1))


def test_check_knows_before_there_are_vectors() -> None:
    for factory in ("auto", "Flat", "IVF4096,PQ64", "HNSW32"):
        check(KindOptions(factory=factory), 768)
    for factory in ("nonsense", "IVF4096,PQ65", "HNSW1", "NSG32"):
        with pytest.raises(IndexKindError, match=factory):
            check(KindOptions(factory=factory), 768)


def test_flat_extended_is_flat_built_at_once(
    tmp_path: Path, path: Path, corpus: np.ndarray, vectors: Vectors
) -> None:
    few = stored(tmp_path / "few", corpus[:2500])
    manifest = manifest_of(path, build(few, path, AUTO), few)
    kind = extend(path, manifest, vectors, tmp_path / "new.faiss")
    again = build(vectors, tmp_path / "whole.faiss", AUTO)
    assert (tmp_path / "new.faiss").read_bytes() == (tmp_path / "whole.faiss").read_bytes()
    assert (kind.factory, kind.recall, kind.bytes_per_vector) == ("Flat", 1.0, again.bytes_per_vector)


@pytest.mark.parametrize("factory", ["HNSW16", "IVF32,SQ8", "IVF16,PQ8x4fs", "RR16,IVF16,Flat"])
def test_extended_indexes_find_old_and_new(
    tmp_path: Path, path: Path, corpus: np.ndarray, vectors: Vectors, factory: str
) -> None:
    few = stored(tmp_path / "few", corpus[:2500])
    manifest = manifest_of(path, build(few, path, KindOptions(factory=factory)), few)
    before = path.read_bytes()
    kind = extend(path, manifest, vectors, tmp_path / "new.faiss")
    assert path.read_bytes() == before
    assert (kind.factory, kind.rerank) == (manifest.kind.factory, manifest.kind.rerank)
    assert kind.recall >= 0.95
    found = recall_on_disk(tmp_path / "new.faiss", kind, corpus, vectors)
    assert (
        found >= kind.recall - 2e-3 if factory == "HNSW16" else found == pytest.approx(kind.recall, abs=2e-3)
    )
    assert kind.bytes_per_vector == (tmp_path / "new.faiss").stat().st_size / 4000


def test_extending_keeps_parameters_that_do_and_tunes_others_again(
    tmp_path: Path, path: Path, corpus: np.ndarray, vectors: Vectors
) -> None:
    few = stored(tmp_path / "few", corpus[:2500])
    kind = build(few, path, KindOptions(factory="IVF32,Flat", recall_target=0.999))
    asked = replace(kind, recall_target=0.95)
    kept = extend(path, manifest_of(path, asked, few), vectors, tmp_path / "new.faiss")
    assert kept.parameters == kind.parameters
    assert kept.recall > 0.98

    kind = build(few, path, KindOptions(factory="IVF32,Flat", recall_target=0.1))
    assert kind.parameters == "nprobe=1"
    kept = extend(path, manifest_of(path, kind, few), vectors, tmp_path / "new.faiss")
    assert (kept.parameters, kept.recall_target) == ("nprobe=1", 0.1)
    asked = replace(kind, recall_target=0.95)
    tuned = extend(path, manifest_of(path, asked, few), vectors, tmp_path / "new.faiss")
    assert tuned.recall >= tuned.recall_target == 0.95
    assert int(tuned.parameters[7:]) > 1


def test_a_base_that_is_not_the_manifests_is_refused(
    tmp_path: Path, path: Path, corpus: np.ndarray, vectors: Vectors
) -> None:
    few = stored(tmp_path / "few", corpus[:2500])
    manifest = manifest_of(path, build(few, path, AUTO), few)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(IndexDamagedError):
        extend(path, manifest, vectors, tmp_path / "new.faiss")
    assert not (tmp_path / "new.faiss").exists()


# --- trained and filled, block by block ---


@pytest.fixture
def queries(tmp_path: Path) -> Queries:
    return Queries(stored(tmp_path / "vectors", clustered(5000)))


@pytest.mark.parametrize(
    "factory", ["Flat", "HNSW8", "IVF32,Flat", "IVF32,PQ8x4fs", "PCA14,IVF16,SQ8", "HNSW8,RFlat"]
)
def test_ids_are_row_numbers(queries: Queries, factory: str) -> None:
    index = filled(factory, queries, **QUIET)
    assert (index.ntotal, index.d) == (5000, 16)
    faiss.ParameterSpace().set_index_parameters(index, "nprobe=16" if "IVF" in factory else "")
    _, rows = index.search(queries.vectors_QD[:50], 20)
    assert np.mean([own in found for own, found in zip(queries.rows, rows, strict=False)]) > 0.9


def test_blocks_make_no_difference(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = faiss.serialize_index(filled("IVF32,SQ8", queries, **QUIET))
    monkeypatch.setattr(module, "_BLOCK_ROWS", 777)
    assert (faiss.serialize_index(filled("IVF32,SQ8", queries, **QUIET)) == whole).all()


def test_training_sees_no_queries_where_there_are_others(
    queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRAINING_ROWS", 500)
    sample = module._training_sample(queries, 0)
    assert len(set(sample.tolist())) == len(sample) == 500
    assert 2000 < np.median(sample) < 3000
    assert not set(sample) & set(queries.rows)
    assert sample.tolist() == module._training_sample(queries, 0).tolist()
    assert len(module._training_sample(queries, 4000)) == 4000
    assert not set(module._training_sample(queries, 4000)) & set(queries.rows)
    assert module._training_sample(queries, 5000).tolist() == list(range(5000))


def test_memory_is_foreseen_from_the_first_vectors(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 500)
    index = filled("HNSW8", queries, **QUIET)
    taken = size_bytes(index)
    steps: list[tuple[str, int, int]] = []

    def step(*told: object) -> None:
        steps.append(told)

    filled("HNSW8", queries, max_memory_bytes=int(1.02 * taken), progress=step)
    assert steps[-1] == ("vectors added to HNSW8", 5000, 5000)
    steps.clear()
    with pytest.raises(
        IndexKindError, match=r"'HNSW8' takes 0\.\dM .* the 0\.\dM allowed: allow more"
    ) as refused:
        filled("HNSW8", queries, max_memory_bytes=int(0.98 * taken), progress=step)
    assert steps[-1] == ("vectors added to HNSW8", 500, 5000)
    assert "\n" not in str(refused.value)
    foreseen = float(re.search(r"takes ([\d.]+)M", str(refused.value))[1])
    assert foreseen * 2**20 == pytest.approx(taken, rel=0.1)


def test_faiss_errors_while_training_or_adding_are_one_line(
    queries: Queries, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IndexKindError, match=r"'PCA17,Flat' .* \(PCA matrix cannot output 17") as refused:
        filled("PCA17,Flat", queries, **QUIET)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_damaged_vectors_are_not_blamed_on_the_kind(
    queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(rows: np.ndarray) -> np.ndarray:
        raise IndexDamagedError("part 7")

    monkeypatch.setattr(queries.corpus, "take", damaged)
    for factory in ("Flat", "IVF32,Flat"):
        with pytest.raises(IndexDamagedError, match="part 7"):
            filled(factory, queries, **QUIET)


@pytest.mark.parametrize(
    "factory, where",
    [
        ("PQ4x4", ""),
        ("IVF16,PQ4x4", ""),
        ("RR16,PQ4x4", "index"),
        ("IVF16,PQ4x4,RFlat", "base_index"),
        ("Flat,Refine(PQ4x4)", "refine_index"),
    ],
)
def test_polysemous_codes_are_learnt_nowhere(queries: Queries, factory: str, where: str) -> None:
    index = filled(factory, queries, **QUIET)
    part = faiss.downcast_index(getattr(index, where)) if where else index
    assert part.do_polysemous_training is False


def test_rows_are_added_behind_those_before_them(queries: Queries) -> None:
    index = faiss.IndexFlatIP(16)
    add(index, "Flat", queries.corpus, range(4000), silent)
    add(index, "Flat", queries.corpus, range(4000, 5000), silent)
    add(index, "Flat", queries.corpus, range(5000, 5000), silent)
    whole = queries.corpus.take(np.arange(5000))
    assert (index.reconstruct_n(0, 5000) == whole).all()
