import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexes import (
    EncoderIdentity,
    FaissConflictError,
    FileEntry,
    IndexDamagedError,
    Manifest,
    MissingFaissError,
)
from indexes.disk.durable import ends_sha256
from indexes.disk.manifest import Kind
from indexes.faiss_kinds.search import load, require_faiss

Vectors = Callable[..., np.ndarray]


def write_flat(vectors_ND: np.ndarray, path: Path) -> None:
    index = faiss.IndexFlatIP(vectors_ND.shape[1])
    index.add(vectors_ND.astype(np.float32))
    faiss.write_index(index, str(path))


@pytest.fixture
def flat(tmp_path: Path, vectors: Vectors) -> Path:
    path = tmp_path / "index.faiss"
    write_flat(np.concatenate([vectors(6, seed=0), vectors(4, seed=1)]), path)
    return path


@pytest.fixture
def unknown_faiss() -> Iterator[None]:
    """What was found of FAISS is forgotten, before and afterwards."""
    require_faiss.cache_clear()
    yield
    require_faiss.cache_clear()


@pytest.mark.usefixtures("unknown_faiss")
def test_missing_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingFaissError, match=r"pip install -e '\.\[cpu\]' .*'\.\[gpu\]'"):
        require_faiss()


def manifest_of(path: Path, identity: EncoderIdentity, *, ntotal: int = 10) -> Manifest:
    entry = FileEntry(bytes=0, sha256="", rows=ntotal, ends_sha256=ends_sha256(path))
    return Manifest(
        encoder=identity,
        dtype="",
        device="",
        checkpoint="",
        kind=Kind(bytes_per_vector=32),
        ntotal=ntotal,
        removed=0,
        classes=[],
        sources=[],
        files={path.name: entry},
        created="",
        command="",
    )


def test_read_only_file_loads_and_finds_every_vector(
    flat: Path, vectors: Vectors, identity: EncoderIdentity
) -> None:
    flat.chmod(0o400)
    queries = np.concatenate([vectors(6, seed=0), vectors(4, seed=1)]).astype(np.float32)
    _, ids = load(flat, manifest_of(flat, identity)).search(queries, 1)
    assert ids[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("dim, ntotal", [(7, 10), (8, 9)])
def test_disagreement_with_the_manifest_is_refused(
    flat: Path, identity: EncoderIdentity, dim: int, ntotal: int
) -> None:
    manifest = manifest_of(flat, replace(identity, embed_dim=dim), ntotal=ntotal)
    with pytest.raises(IndexDamagedError, match="10 x 8 vectors where the manifest says"):
        load(flat, manifest)


def test_every_truncation_is_refused(flat: Path, identity: EncoderIdentity) -> None:
    whole, manifest = flat.read_bytes(), manifest_of(flat, identity)
    for length in range(0, len(whole), 5):
        flat.write_bytes(whole[:length])
        with pytest.raises(IndexDamagedError):
            load(flat, manifest)


def test_another_file_of_the_same_shape_is_refused(
    flat: Path, vectors: Vectors, identity: EncoderIdentity
) -> None:
    manifest = manifest_of(flat, identity)
    write_flat(vectors(10, seed=7), flat)
    with pytest.raises(IndexDamagedError, match="missing or damaged"):
        load(flat, manifest)


@pytest.mark.usefixtures("unknown_faiss")
def test_two_builds_of_faiss_over_each_other_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("faiss_cpu", "faiss_gpu"):
        place = tmp_path / f"{name}-1.15.1.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.15.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FaissConflictError, match="pip uninstall one"):
        require_faiss()
