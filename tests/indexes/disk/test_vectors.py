from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes import IndexDamagedError
from indexes.disk.vectors import Vectors, read_vectors, write_vectors

Make = Callable[..., np.ndarray]


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_round_trip_streams_float32(tmp_path: Path, vectors: Make, count: int) -> None:
    expected = vectors(count, seed=0).astype(np.float16)
    write_vectors(tmp_path / "a.npy", expected)
    write_vectors(tmp_path / "b.npy", expected)
    stored = Vectors([tmp_path / "a.npy", tmp_path / "b.npy"], 8)
    assert len(stored) == 2 * count
    streamed = list(stored.blocks())
    assert all(block.dtype == np.float32 and not isinstance(block, np.memmap) for block in streamed)
    joined = np.concatenate([np.empty((0, 8)), *streamed])
    np.testing.assert_array_equal(joined, np.concatenate([expected, expected]))
    assert np.load(tmp_path / "a.npy", allow_pickle=False).dtype == np.float16


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9, 0.5, 0.0])
def test_vector_that_is_not_of_length_one_is_refused(tmp_path: Path, vectors: Make, value: float) -> None:
    wrong = vectors(4, seed=0)
    wrong[2] = value
    with pytest.raises(ValueError, match="vector 2 has length"):
        write_vectors(tmp_path / "a.npy", wrong)
    assert not any(tmp_path.iterdir())


def test_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(IndexDamagedError):
        read_vectors(tmp_path / "a.npy", 1)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("dtype, shape", [("float32", (2, 8)), ("float16", (2, 7)), ("float16", (16,))])
def test_other_type_or_shape_is_refused(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, dtype))
    with pytest.raises(IndexDamagedError, match=r"not float16 \(N, 8\)"):
        read_vectors(tmp_path / "a.npy", 8)


def test_every_truncation_is_refused(tmp_path: Path, vectors: Make) -> None:
    path = tmp_path / "a.npy"
    write_vectors(path, vectors(4, seed=0))
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(IndexDamagedError, match=r"a\.npy is missing or damaged"):
            read_vectors(path, 8)


def test_rows_are_taken_from_any_part_in_the_order_asked_for(tmp_path: Path, vectors: Make) -> None:
    counts, rng = [3, 0, 5, 1], np.random.default_rng(0)
    parts = [vectors(count, seed=i).astype(np.float16) for i, count in enumerate(counts)]
    for i, part in enumerate(parts):
        write_vectors(tmp_path / f"{i}.npy", part)
    stored = Vectors((tmp_path / f"{i}.npy" for i in range(len(counts))), 8)
    rows = rng.integers(0, sum(counts), size=40)
    np.testing.assert_array_equal(stored.take(rows), np.concatenate(parts).astype(np.float32)[rows])
    assert stored.take(np.array([], dtype=np.int64)).shape == (0, 8)
