"""Exact search on a GPU: matrix products over the stored vectors, without FAISS."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.disk.vectors import Vectors
from indexes.faiss_kinds.search import best
from indexes.faiss_kinds.selection import Selection

_QUERIES = 8192  # a time: scores of so many against a block are half a GB


class DeviceSearch:
    """All vectors of a corpus in the memory of a device, as float16, in blocks of `indexes.disk.vectors`.

    Args:
        vectors: The corpus.
        device: As torch names it, such as ``cuda:0``.

    Raises:
        MemoryError: They do not fit.
    """

    def __init__(self, vectors: Vectors, device: str) -> None:
        import torch  # Only here: on processors, indexes do without it.

        self._torch: Any = torch
        self._device = torch.device(device)
        try:
            self._blocks_ND = [
                torch.from_numpy(block_ND).to(self._device, torch.float16) for block_ND in vectors.blocks()
            ]
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"the vectors do not fit into the memory of {device}") from error

    def search(
        self, queries_QD: NDArray[np.float32], k: int, among: Selection | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows with the largest inner products, of all or of some: as `faiss_kinds.search.exact`."""
        torch = self._torch
        with torch.inference_mode():
            parts = [
                self._search(torch.from_numpy(some_QD).to(self._device), k, among)
                for some_QD in np.array_split(queries_QD, -(-len(queries_QD) // _QUERIES) or 1)
            ]
            scores_QK, rows_QK = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
        return best(scores_QK, rows_QK, k)

    def _search(self, asked_QD: Any, k: int, among: Selection | None) -> tuple[Any, Any]:
        torch, start = self._torch, 0
        scores_QK = torch.empty((len(asked_QD), 0), device=self._device)
        rows_QK = torch.empty((len(asked_QD), 0), dtype=torch.int64, device=self._device)
        for block_ND in self._blocks_ND:
            # In float32: products of float16 would round scores by more than near neighbours differ.
            found_QN = asked_QD @ block_ND.float().T
            end = start + len(block_ND)
            if among is not None:
                chosen_N = torch.from_numpy(among.chosen_N[start:end]).to(self._device)
                found_QN.masked_fill_(~chosen_N, -torch.inf)
            found = found_QN.topk(min(k, len(block_ND)))
            scores_QK = torch.cat([scores_QK, found.values], dim=1)
            rows_QK = torch.cat([rows_QK, found.indices + start], dim=1)
            scores_QK, places_QK = scores_QK.topk(min(k, scores_QK.shape[1]))
            rows_QK = rows_QK.gather(1, places_QK)
            start = end
        return scores_QK, rows_QK
