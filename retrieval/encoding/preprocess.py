"""From an image, wherever it is, to the tensor that a model was trained on."""

import json
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from matvit.errors import NonsenseError
from matvit.vision.ffn import TimmEncoder
from matvit.vision.plain_timm import asked
from retrieval.errors import UnreadableImageError
from retrieval.sources.decode import AS_SEEN, Reading, decode, in_mode
from retrieval.sources.file_bytes import read_regular

MAX_ASPECT_RATIO = 200
MAX_SIDE = 8192
ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""An image file, its encoded bytes, or an image that is decoded already.

Of arrays (H, W, 3) or (H, W), bytes; of tensors (3, H, W) or (1, H, W), bytes or numbers from 0 to 1.
"""


class Preprocess:
    """What a model's config says of preprocessing, as a function of an image. Can be pickled.

    Attributes:
        data: The config, as timm resolves it, and what `retrieval.sources.decode.Reading` records.

    Args:
        model: An encoder of timm's.

    Raises:
        NonsenseError: The model's preprocessing makes no sense.
    """

    def __init__(self, model: TimmEncoder) -> None:
        self._mode = "L" if model.in_chans == 1 else "RGB"
        try:
            with asked():
                self.data: dict[str, Any] = resolve_model_data_config(model)
            if model.patch_embed.strict_img_size:
                # A model that was made for another size than its weights were trained at sees that one.
                self.data["input_size"] = (model.in_chans, *model.patch_embed.img_size)
            _check(self.data)
            self._transform = _transform(self.data, self._mode)
        except NonsenseError as error:
            raise NonsenseError(f"its preprocessing makes no sense: {error}") from error
        self._config = self.data
        self._transforms: dict[int, Callable[[Image.Image], Tensor]] = {}
        self._take(AS_SEEN)

    def _take(self, reading: Reading) -> None:
        self._reading, self.data = reading, self._config | reading.record()

    def reading_as(self, reading: Reading) -> "Preprocess":
        """The same, but for what becomes of an image's orientation and transparency."""
        other = copy(self)
        other._take(reading)
        return other

    def at(self, image_size: int | None) -> "Preprocess":
        """The same for images of so many pixels a side; None is the model's own size.

        Raises:
            NonsenseError: No image can be made so large.
        """
        if image_size is None:
            return self
        other = copy(self)
        config = self._config | {"input_size": (self.data["input_size"][0], image_size, image_size)}
        _check(config)
        if image_size not in self._transforms:
            self._transforms[image_size] = _transform(config, self._mode)
        other._transform = self._transforms[image_size]
        return other

    def __call__(self, image: ImageLike) -> Tensor:
        """One image to the normalised tensor (C, H, W) that the model was trained on.

        Raises:
            UnreadableImageError: There is no image there that can be read.
        """
        return self.tensor(self.read(image))

    def tensor(self, image: Image.Image) -> Tensor:
        """What `read` gave to the normalised tensor (C, H, W)."""
        return self._transform(image)

    def read(self, image: ImageLike) -> Image.Image:
        """One image decoded, in the model's colours; the same whatever the size.

        Raises:
            UnreadableImageError: There is no image there that can be read.
            TypeError: It is no `ImageLike`.
        """
        if isinstance(image, np.ndarray | Tensor):
            image = _from_numbers(image)
        if isinstance(image, Image.Image):
            image = in_mode(image, self._mode, self._reading)
        elif isinstance(image, str | Path | bytes):
            data = image if isinstance(image, bytes) else read_regular(Path(image))
            image = decode(data, mode=self._mode, reading=self._reading)
        else:
            kinds = "a path, encoded bytes, an image of Pillow, an array or a tensor"
            raise TypeError(f"an image is {kinds}, not a {type(image).__name__}")
        short, long = sorted(image.size)
        if long > MAX_ASPECT_RATIO * short:
            # The shorter side is resized to the model's input: the longer one could fill any memory.
            raise UnreadableImageError(f"{image.width} x {image.height} pixels are too elongated")
        return image


def _from_numbers(pixels: NDArray[np.uint8] | Tensor) -> Image.Image:
    """The image that an array or a tensor holds: see `ImageLike`.

    Raises:
        UnreadableImageError: It has another shape, or other numbers.
    """
    given = f"{tuple(pixels.shape)} of {pixels.dtype}"
    if isinstance(pixels, Tensor):
        pixels = pixels.detach().cpu()
        is_image = pixels.ndim == 3 and pixels.shape[0] in (1, 3)
        if pixels.is_floating_point():
            is_image = is_image and bool(((pixels >= 0) & (pixels <= 1)).all())
            pixels = (255 * pixels.float()).round().to(torch.uint8)
        else:
            is_image = is_image and pixels.dtype == torch.uint8
        wanted = "a tensor (3, H, W) or (1, H, W) of bytes or of 0 to 1"
    else:
        is_image = (pixels.ndim == 2 or pixels.shape[2:] == (3,)) and pixels.dtype == np.uint8
        wanted = "an array (H, W, 3) or (H, W) of bytes"
    if not is_image or 0 in pixels.shape:
        raise UnreadableImageError(f"{given} is no image: give {wanted}")
    return to_pil_image(pixels)


def _transform(data: Mapping[str, Any], mode: str) -> Callable[[Image.Image], Tensor]:
    """timm's own, tried out.

    Raises:
        NonsenseError: It makes no input of the model's size of an image.
    """
    with asked():
        transform = create_transform(**data, is_training=False)
    image = Image.new(mode, (8, 8))
    with asked():
        pixels = transform(image)
    if pixels.shape != tuple(data["input_size"]) or not pixels.isfinite().all():
        raise NonsenseError(f"it makes {tuple(pixels.shape)} of an image, or what is not finite")
    return transform


def _check(data: Mapping[str, Any]) -> None:
    """Refuse what would fill the memory before anything is found to be wrong, and what no index can record.

    Raises:
        NonsenseError: It is too large, too small, no number, or no text.
    """
    size, crop = data["input_size"], data["crop_pct"]
    sides = size if isinstance(size, list | tuple) else [size]
    are_numbers = all(isinstance(number, int | float) for number in [crop, *sides])
    if not are_numbers or len(sides) != 3 or max(sides) > MAX_SIDE or not 0.05 <= crop <= 20:
        raise NonsenseError(f"input_size {size}, crop_pct {crop}")
    if not isinstance(mode := data.get("crop_mode", ""), str):  # Of what it does not know, timm says nothing.
        raise NonsenseError(f"crop_mode {mode}")
    try:
        json.dumps(dict(data), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise NonsenseError(str(error)) from error
