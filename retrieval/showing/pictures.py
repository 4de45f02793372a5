"""Pictures for people, written whole or not at all."""

import io
import warnings
from pathlib import Path

from matplotlib.figure import Figure

from matvit.files.atomic import whole_file


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a picture of the kind that the file's ending says, whole or not at all."""
    # Drawn in memory: where a disk is full, matplotlib leaves a file open that complains as it is dropped.
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # File names are in all the scripts of the world; what no font here has is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(drawn, format=path.suffix.removeprefix(".").lower() or "png", dpi=dpi)
    with whole_file(path) as new:
        new.write_bytes(drawn.getvalue())
