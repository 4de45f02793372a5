"""Metrics of a training run for TensorBoard."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from retrieval.errors import MissingExtraError


def scalars(folder: Path) -> Callable[[Mapping[str, Any]], None]:
    """What writes a line of metrics into a folder, which the first one makes.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "TensorBoard is not installed: in the clone of matvit, pip install -e '.[tensorboard]'"
        ) from error

    @cache
    def writer() -> Any:  # Not before the run has made its directory.
        return SummaryWriter(str(folder))

    def write(line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name not in ("epoch", "step"):
                writer().add_scalar(name, value, line["step"])
        writer().flush()

    return write
