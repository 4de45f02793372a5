"""Random changes of training images, each a function of the seed, the epoch and the image's key.

Which process or worker draws, and what was drawn before, makes no difference.
"""

import hashlib
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from matvit.errors import NonsenseError, TrainingError
from matvit.training.image_order import Place
from matvit.training.recipe import Augment
from matvit.vision.plain_timm import asked

Transform = Callable[[Any], Tensor]
_WORKER_DIED = "DataLoader worker"


class LabelledImages(Protocol):
    """Images and class numbers, in a fixed order.

    Attributes:
        class_to_idx: Class name -> number.
        runs: As in `matvit.training.image_order.Order`.
        fingerprint: Changes when the images do.
    """

    class_to_idx: Mapping[str, int]
    runs: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def load(self, i: int) -> tuple[str, Any, int]:
        """The key, the open image and the class number."""
        ...


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images as an epoch of training sees them.

    Args:
        images: What to read.
        transform: Open image -> tensor (C, H, W).
        seed: Of the run.
    """

    def __init__(self, images: LabelledImages, transform: Transform, seed: int) -> None:
        self._images, self._transform, self._seed = images, transform, seed

    def __getitem__(self, place: Place) -> tuple[Tensor, int]:
        epoch, i = place
        key, image, target = self._images.load(i)
        # Not put back afterwards: every step draws from a seed of its own, too.
        seed_everything(self._seed, epoch, key)
        return self._transform(image), target


def with_one_line_errors(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Batches of a loader, with the errors of its worker processes as one line each.

    Raises:
        TrainingError: An image cannot be read, or a process that reads them died.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if str(getattr(handler, "__module__", "")).startswith("torch."):  # of a loader before this one
        handler = signal.SIG_DFL
    batches = iter(loader)
    # torch's own handler raises in whatever code is running when a worker dies. That one died shows all the
    # same when the next batch is asked for.
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    try:
        yield from batches
    except TrainingError as error:
        # A worker's comes with its traceback as text.
        last = str(error).strip().splitlines()[-1]
        raise TrainingError(last.rpartition(f"{TrainingError.__name__}: ")[2]) from error
    except (RuntimeError, EOFError, ConnectionError) as error:
        if loader.num_workers and (type(error) is not RuntimeError or str(error).startswith(_WORKER_DIED)):
            raise TrainingError(
                "a process that reads images was killed, or crashed: use fewer --workers if memory is short, "
                "and go on with --resume"
            ) from error
        raise


def seed_everything(*what: object) -> None:
    """Seed the global generators of Python, NumPy and torch, which transforms draw from."""
    digest = hashlib.blake2b(repr(what).encode(errors="surrogateescape"), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    random.seed(number)
    np.random.seed(number % 2**32)
    # Without an accelerator, torch would write down the stack of every call for the day that it finds one.
    seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    seed(number % 2**63)


def training_transform(augment: Augment, data: Mapping[str, Any]) -> Transform:
    """timm's training transform for a recipe, after rotation, shift, zoom and shear.

    Args:
        augment: The recipe's.
        data: As from `timm.data.resolve_model_data_config`.

    Raises:
        NonsenseError: timm cannot, or what it makes of an image is of no use.
    """
    # None is timm's 3/4 to 4/3 for crops.
    ratio = None if augment.crop < 1 else (1 - augment.stretch, 1 / (1 - augment.stretch))
    with asked():
        transform = create_transform(
            input_size=data["input_size"],
            is_training=True,
            train_crop_mode="rrc" if augment.crop < 1 else "rkrc",
            scale=(augment.crop, 1.0),
            ratio=ratio,
            hflip=augment.hflip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.auto_augment or None,
            re_prob=augment.erase,
            interpolation=data["interpolation"],
            mean=data["mean"],
            std=data["std"],
        )
    if augment.degrees or augment.translate or augment.zoom or augment.shear:
        with asked():
            affine = transforms.RandomAffine(
                degrees=augment.degrees,
                translate=(augment.translate, augment.translate),
                scale=(1 - augment.zoom, 1 + augment.zoom),
                shear=augment.shear,
                interpolation=transforms.InterpolationMode.BILINEAR,
            )
        transform.transforms.insert(0, affine)
    image = Image.new("L" if data["input_size"][0] == 1 else "RGB", (32, 32))
    with asked():
        tried = transform(image)
    if tried.shape != tuple(data["input_size"]) or not tried.isfinite().all():
        raise NonsenseError("preprocess and augment make no images that the model can see")
    return transform


def mixing(augment: Augment, *, num_classes: int, label_smoothing: float) -> Mixup | None:
    """timm's mixup and cutmix of a batch, if the recipe has them; it draws from NumPy's global generator."""
    if not augment.mixes:
        return None
    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_probability,
        label_smoothing=label_smoothing,
        num_classes=num_classes,
    )
