"""What one run of building an index, or of adding to one, did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from indexes import Store


@dataclass(frozen=True)
class Built:
    """Counts of this run. Of several processes that shared it, the first has counted.

    Attributes:
        new: Images that the index has now and had not.
        changed: Images that it has in place of others that their files held.
        moved: Rows that followed their files.
        kept_out: Images that were removed earlier, and stay so.
        failures: Key and reason of what could not be embedded.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    kept_out: int = 0
    failures: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, base: Store | None, new: pa.Table, *, moved: Sequence[str], kept_out: int, failures: pa.Table
    ) -> Self:
        """Count before new rows join an index.

        Args:
            base: The index; None of a new one.
            new: The rows that will be found, with their keys there.
            moved: Keys of rows of the index that new ones follow.
            kept_out: How many will not be found.
            failures: Key and reason.
        """
        told = tuple(zip(failures["key"].to_pylist(), failures["reason"].to_pylist(), strict=True))
        if base is None:
            return cls(new=len(new), failures=told)
        known = base.entries(["key", "content"])
        has_name = pc.is_in(new["key"], known["key"])
        changed = has_name
        if "content" in known.column_names and "content" in new.column_names:
            changed = pc.and_(has_name, pc.invert(pc.is_in(new["content"], known["content"])))
        renamed = set(moved).difference(new["key"].to_pylist())
        return cls(
            new=len(new) - _number(has_name) - len(renamed),
            changed=_number(changed),
            moved=len(moved),
            kept_out=kept_out,
            failures=told,
        )


def _number(chosen: pa.ChunkedArray) -> int:
    return int(pc.sum(chosen).as_py() or 0)
