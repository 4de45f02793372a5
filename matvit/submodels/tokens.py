"""How many tokens each layer of an encoder sees, which image sizes it reads, and whether tokens can merge."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matvit.errors import SubmodelError

if TYPE_CHECKING:
    from matvit.submodels.submodel import Submodel


@dataclass(frozen=True)
class Tokens:
    """How an encoder makes tokens of an image.

    Args:
        image_size: Height and width in pixels of the images that the full encoder reads.
        patch_size: Height and width of a patch.
        prefix: Tokens that stand for no patch, such as the class token. They never merge.
        one_size: Why it reads images of no other size; empty where it does.
        no_merging: Why its tokens cannot merge; empty where they can.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    prefix: int = 0
    one_size: str = ""
    no_merging: str = ""

    def check(self, submodel: "Submodel") -> int | None:
        """The image size of a submodel that can be run, None where it is the encoder's own.

        Raises:
            SubmodelError: The encoder does not read images of that size, or its tokens cannot merge.
        """
        size = submodel.image_size
        if (size, size) == self.image_size:
            size = None
        if size is not None:
            if self.one_size:
                raise SubmodelError(f"{submodel}: {self.one_size}")
            if any(size % side for side in self.patch_size):
                raise SubmodelError(
                    f"{submodel}: {size} px are no whole number of patches of {self._patch} px; "
                    f"give a multiple of it"
                )
        if any(submodel.merges) and self.no_merging:
            raise SubmodelError(f"{submodel}: {self.no_merging}")
        return size

    def height_and_width(self, submodel: "Submodel") -> tuple[int, int]:
        """Of the images that a submodel reads, in pixels."""
        size = submodel.image_size
        return self.image_size if size is None else (size, size)

    def patches(self, image_size: int | None) -> int:
        """Of a square image of so many pixels a side; of the encoder's own images for None."""
        height, width = self.image_size if image_size is None else (image_size, image_size)
        return (height // self.patch_size[0]) * (width // self.patch_size[1])

    def entering(self, submodel: "Submodel") -> tuple[int, ...]:
        """Tokens that enter each layer of a submodel that fits, and behind them those that leave the last.

        However many are to merge in a layer, half of the patches stay.
        """
        patches = [self.patches(submodel.image_size)]
        for merged in submodel.merges:
            patches.append(patches[-1] - min(merged, patches[-1] // 2))
        return tuple(self.prefix + left for left in patches)

    @property
    def _patch(self) -> str:
        height, width = self.patch_size
        return f"{height}" if height == width else f"{height} x {width}"


UNKNOWN = Tokens(
    (1, 1),
    (1, 1),
    one_size="of this encoder, no other image size is known",
    no_merging="its tokens cannot merge",
)
"""Of an encoder whose widths alone are known."""
