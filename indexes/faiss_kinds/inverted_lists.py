"""What kinds with inverted lists share: vectors lie in the list of their nearest centroid."""

from math import isqrt

from indexes.faiss_kinds.factory import POINTS_A_CENTROID
from indexes.faiss_kinds.kind import HEADERS_BYTES


def list_count(ntotal: int) -> int:
    """Return how many lists serve so many vectors; 0 where they are too few to learn centroids from."""
    return min(4 * isqrt(ntotal), ntotal // POINTS_A_CENTROID)


def ivf_bytes(ntotal: int, dim: int, lists: int, code_bytes: int) -> int:
    """Return the size of inverted lists: their centroids and lengths, a code and an id for every vector."""
    return (4 * dim + 8) * lists + (code_bytes + 8) * ntotal + HEADERS_BYTES
