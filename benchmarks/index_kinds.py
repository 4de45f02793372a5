"""Index kinds on a million vectors: build time, size, recall@10 and queries/s, beside FAISS driven by hand.

    python benchmarks/index_kinds.py

Vectors of 384 dimensions in clusters, stored as an index of this project stores them (float16). Each kind
is built and tuned by `indexes.faiss_kinds.build`, then searched by `indexes.directory.row_search`; by hand
is `faiss.Index.search` of the very same file with the same parameters, followed, where candidates are ranked
again, by the few lines of numpy that one would write for it. Both search the same batches in turn, several
times; printed are medians. The bar is 0.95 x the queries/s by hand.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from indexes import EncoderIdentity, IndexWriter
from indexes.directory.numbered_rows import NumberedRows
from indexes.directory.row_search import RowSearch
from indexes.disk.origin import Origin
from indexes.faiss_kinds.options import KindOptions
from indexes.faiss_kinds.search import exact

Vectors = NDArray[np.float32]
KINDS = ("Flat", "HNSW32", "IVF4096,PQ48")


def clustered(count: int, dim: int, *, seed: int = 0, clusters: int = 1000) -> Vectors:
    """Unit vectors around random centres in a subspace, as embeddings of images of many classes lie."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((clusters, 64)).astype(np.float32)
    spread = rng.standard_normal((64, dim)).astype(np.float32)
    rng = np.random.default_rng(seed + 1)
    places = centres[rng.integers(0, clusters, count)]
    places = places + 0.7 * rng.standard_normal(places.shape).astype(np.float32)
    vectors = places @ spread + 1.5 * rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(corpus: Vectors, factory: str, out: Path) -> float:
    """Seconds of indexing vectors that are embedded already."""
    identity = EncoderIdentity(
        architecture="none", weights_sha256="0" * 64, pooling="", embed_dim=corpus.shape[1], preprocess={}
    )
    origin = Origin(encoder=identity, dtype="", device="", checkpoint="", sources=[], command="")
    a_part = 10_000
    with IndexWriter(out, identity) as writer:
        starts = range(0, len(corpus), a_part)
        writer.plan([(str(start), "") for start in starts])
        for i, start in enumerate(starts):
            some = corpus[start : start + a_part]
            rows: list[dict[str, str | None]] = [
                {"key": str(start + n), "path": f"{start + n}.jpg"} for n in range(len(some))
            ]
            writer.write_part(i, some, rows, [])
        begin = time.perf_counter()
        writer.commit(origin, KindOptions(factory=factory))
        return time.perf_counter() - begin


def by_hand(index: NumberedRows) -> Callable[[Vectors, int], NDArray[np.int64]]:
    """What one would write without this project."""
    kind = index.manifest.kind
    plain = faiss.read_index(str(index.path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    faiss.ParameterSpace().set_index_parameters(plain, kind.parameters)
    files = [np.load(file, mmap_mode="r") for file in index.vector_files]
    rows = len(files[0])

    def search(queries: Vectors, k: int) -> NDArray[np.int64]:
        if not kind.rerank:
            return np.asarray(plain.search(queries, k)[1])
        _, candidates = plain.search(queries, kind.rerank)
        best = np.empty((len(queries), k), np.int64)
        for i, ids in enumerate(candidates):
            vectors = np.stack([files[row // rows][row % rows] for row in ids]).astype(np.float32)
            best[i] = ids[np.argsort(-(vectors @ queries[i]))[:k]]
        return best

    return search


def queries_per_second(search: Callable[[Vectors, int], object], queries: Vectors, batch: int) -> float:
    start = time.perf_counter()
    for first in range(0, len(queries), batch):
        search(queries[first : first + batch], 10)
    return len(queries) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    options = parser.parse_args()
    corpus = clustered(options.rows, options.dim)
    queries = clustered(options.queries, options.dim, seed=1)
    cores = len(os.sched_getaffinity(0))
    print(f"{options.rows:,} x {options.dim}, {platform.processor() or platform.machine()}, {cores} cores")
    print("queries/s: ours, by hand and their ratio, for one query at a time and for batches of 64\n")
    head = ("kind", "parameters", "build s", "bytes/vector", "recall@10", "one", "by hand", "ratio", "64")
    print(" | ".join([*head, "by hand", "ratio"]))
    for factory in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "x.index"
            seconds = build(corpus, factory, out)
            index = NumberedRows.open(out)
            rows = RowSearch(index)
            kind = index.manifest.kind
            _, truth = exact(queries, index.vectors, 10)
            found = rows.search(queries, 10).rows
            recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)])
            cells = [
                kind.factory,
                f"{kind.parameters or '-'}{f', rerank {kind.rerank}' * bool(kind.rerank)}",
                f"{seconds:.0f}",
                f"{kind.bytes_per_vector:.0f}",
                f"{recall:.4f}",
            ]
            hand = by_hand(index)
            for batch in (1, 64):
                some = queries[:64] if factory == "Flat" and batch == 1 else queries
                ours, plain = [], []
                runs = [(ours, rows.search), (plain, hand)]
                for _ in range(options.repeats):
                    for speeds, search in runs:
                        speeds.append(queries_per_second(search, some, batch))
                    runs.reverse()  # neither always finds the caches as the other left them
                ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
                cells += [
                    f"{statistics.median(ours):.0f}",
                    f"{statistics.median(plain):.0f}",
                    f"{ratio:.3f}",
                ]
            print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
