"""Exact search on a GPU: matrix products over the stored vectors, without FAISS."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.search import best
from indexes.selection import Selection
from indexes.vectors import Vectors


class DeviceSearch:
    """All vectors of a corpus in the memory of a device, as float16, in blocks.

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
        """The rows with the largest inner products, of all or of some: as `indexes.search.exact`."""
        torch = self._torch
        asked_QD = torch.from_numpy(queries_QD).to(self._device)
        scores_QK = np.empty((len(queries_QD), 0), np.float32)
        rows_QK = np.empty((len(queries_QD), 0), np.int64)
        start = 0
        with torch.inference_mode():
            for block_ND in self._blocks_ND:
                # In float32: products of float16 would round scores by more than near neighbours differ.
                found_QN = asked_QD @ block_ND.float().T
                end = start + len(block_ND)
                if among is not None:
                    chosen_N = torch.from_numpy(among.chosen_N[start:end]).to(self._device)
                    found_QN.masked_fill_(~chosen_N, -torch.inf)
                found = found_QN.topk(min(k, len(block_ND)))
                scores_QK = np.hstack([scores_QK, found.values.cpu().numpy()])
                rows_QK = np.hstack([rows_QK, found.indices.cpu().numpy() + start])
                scores_QK, rows_QK = best(scores_QK, rows_QK, k)
                start = end
        return scores_QK, rows_QK
