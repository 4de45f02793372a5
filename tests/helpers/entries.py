"""What a store holds, as lists: what tests compare."""

import numpy as np

from indexes import Store


def column_of(store: Store, name: str) -> list[str | None]:
    column: list[str | None] = store.entries([name])[name].to_pylist()
    return column


def keys_of(store: Store) -> list[str]:
    keys: list[str] = store.entries(["key"])["key"].to_pylist()
    return keys


def paths_of(store: Store) -> list[str]:
    paths: list[str] = store.entries(["path"])["path"].to_pylist()
    return paths


def labels_of(store: Store) -> list[str | None]:
    return column_of(store, "label")


def vectors_of(store: Store) -> np.ndarray:
    return np.concatenate(list(store.blocks()))


def vector_of_key(store: Store) -> dict[str, np.ndarray]:
    return dict(zip(keys_of(store), vectors_of(store), strict=True))
