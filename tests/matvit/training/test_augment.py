"""What becomes of a training image is said by the seed, the epoch and its key, and by nothing else."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from matvit.training.augment import Augmented, mixing, seed_everything, training_transform
from matvit.training.image_order import Place
from matvit.training.recipe import Augment

DATA = {"input_size": (3, 8, 8), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
EVERYTHING = Augment(
    degrees=10,
    translate=0.1,
    zoom=0.1,
    shear=5,
    crop=0.3,
    hflip=0.5,
    color_jitter=0.4,
    auto_augment="rand-m9-n2-mstd0.5",
    erase=0.3,
)


def noise(mode: str = "RGB", side: int = 12) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class Pictures:
    """One and the same picture under many keys, so that only the key can make a difference."""

    class_to_idx = {"a": 0, "b": 1}  # noqa: RUF012
    fingerprint = "pictures"

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.runs = keys, (len(keys),)

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, i: int) -> tuple[str, Any, int]:
        return self.keys[i], noise(), i % 2


KEYS = [f"a/{i}.png" for i in range(12)]
PLACES = [(epoch, i) for epoch in range(2) for i in range(len(KEYS))]


def augmented(keys: list[str] = KEYS, seed: int = 0, augment: Augment = EVERYTHING) -> Augmented:
    return Augmented(Pictures(keys), training_transform(augment, DATA), seed)


def seen(places: list[Place], *, workers: int = 0, **how: Any) -> dict[Place, Tensor]:
    """What each place looks like when they are read in this order, two at a time."""
    pairs = [places[at : at + 2] for at in range(0, len(places), 2)]
    loader = DataLoader(augmented(**how), batch_sampler=pairs, num_workers=workers)
    batches = [(images, targets) for images, targets in loader]
    assert torch.cat([targets for _, targets in batches]).tolist() == [i % 2 for _, i in places]
    return dict(zip(places, torch.cat([images for images, _ in batches]), strict=True))


def same(one: dict[Place, Tensor], other: dict[Place, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[place], other[place]) for place in one)


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create 2 worker processes:UserWarning",  # on a machine of one core
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)
def test_neither_order_nor_workers_nor_what_was_drawn_before_matters() -> None:
    expected = seen(PLACES)
    assert same(seen(PLACES[::-1]), expected)
    shuffled = PLACES.copy()
    random.Random(1).shuffle(shuffled)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert same(seen(shuffled, workers=2), expected)


def test_every_epoch_key_and_seed_looks_different() -> None:
    images = [
        *seen(PLACES).values(),
        *seen(PLACES, seed=1).values(),
        *seen(PLACES, keys=[f"b{key}" for key in KEYS]).values(),
    ]
    assert len({image.numpy().tobytes() for image in images}) > 0.95 * len(images)


def test_it_is_the_key_and_not_the_number_that_counts() -> None:
    turned = seen(PLACES, keys=KEYS[::-1])
    for (epoch, i), image in seen(PLACES).items():
        assert torch.equal(image, turned[epoch, len(KEYS) - 1 - i])


def test_keys_that_are_not_utf8_are_taken() -> None:
    keys = ["a/\udce9.png", "a/\udce8.png"]
    one, other = seen([(0, 0), (0, 1)], keys=keys).values()
    assert not torch.equal(one, other)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_all_three_generators_are_seeded_by_everything_that_is_named() -> None:
    names = [(0,), (1,), (0, 1), (1, 0), (0, 0, "a"), (0, 0, "b"), (0, "step", 0), (2**63,), ("\udce9",)]
    drawn = []
    for name in names:
        seed_everything(*name)
        drawn.append(draws())
        seed_everything(*name)
        assert draws() == drawn[-1]
    assert all(len(set(column)) == len(names) for column in zip(*drawn, strict=True))


def test_a_seed_stays_what_it_is() -> None:
    """Not only within a process, as Python's own hash of a string would: a run goes on in another one."""
    seed_everything(3, 1, "a/0.png")
    assert draws() == pytest.approx((0.6625287, 0.103803666, 0.573738456), abs=1e-7)


# --- the transforms ---


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "change",
    [
        {"degrees": 10.0},
        {"translate": 0.2},
        {"zoom": 0.3},
        {"shear": 20.0},
        {"crop": 0.3},
        {"stretch": 0.3},
        {"hflip": 0.5},
        {"color_jitter": 0.4},
        {"auto_augment": "rand-m9-mstd0.5"},
        {"auto_augment": "rand-m9-n2-mstd0.5"},
        {"auto_augment": "augmix-m3-w2"},
        {"auto_augment": "original"},
        {"erase": 0.5},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_each_change_is_made_in_grey_and_colour(mode: str, change: dict[str, Any]) -> None:
    chans = len(mode) if mode == "RGB" else 1
    data = DATA | {"input_size": (chans, 8, 8), "mean": (0.5,) * chans, "std": (0.5,) * chans}
    transform = training_transform(Augment(**change), data)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    results = [transform(noise(mode, side=8)) for _ in range(30)]
    assert all(result.shape == (chans, 8, 8) and result.isfinite().all() for result in results)
    assert len({result.numpy().tobytes() for result in results}) > 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_without_changes_an_image_is_normalised_alone(mode: str) -> None:
    chans = len(mode) if mode == "RGB" else 1
    data = DATA | {"input_size": (chans, 8, 8), "mean": (0.4,) * chans, "std": (0.25,) * chans}
    image = noise(mode, side=8)
    pixels = torch.from_numpy(np.array(image)).reshape(8, 8, chans).permute(2, 0, 1)
    for _ in range(5):
        torch.testing.assert_close(training_transform(Augment(), data)(image), (pixels / 255 - 0.4) / 0.25)


def test_a_crop_keeps_at_least_the_area_asked_for() -> None:
    """Of a picture whose brightness is the column, a crop of 9/10 of the area still shows most columns."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))).convert("RGB")
    torch.manual_seed(0)
    random.seed(0)
    for crop, narrowest in ((0.9, 0.7), (0.02, 0.0)):
        transform = training_transform(Augment(crop=crop), DATA)
        spans = [float(image.max() - image.min()) / 2 for image in (transform(ramp) for _ in range(50))]
        assert min(spans) >= narrowest
    assert min(spans) < 0.4, "small ones come as well"


# --- mixing a batch ---


def mixed(augment: Augment, *seed: object, **how: Any) -> tuple[Tensor, Tensor]:
    batch = torch.arange(8.0)[:, None, None, None].expand(8, 3, 8, 8).clone()
    mix = mixing(augment, **{"num_classes": 4, "label_smoothing": 0.0, **how})
    assert mix is not None
    seed_everything(*seed)
    return mix(batch, torch.arange(8) % 4)


@pytest.mark.parametrize(
    "augment", [Augment(mixup=0.8), Augment(cutmix=1.0), Augment(mixup=0.2, cutmix=1.0)], ids=str
)
def test_mixing_depends_on_the_seed_of_the_step(augment: Augment) -> None:
    batches = [mixed(augment, 0, "step", step) for step in range(8)]
    for step, (images, targets) in enumerate(batches):
        again = mixed(augment, 0, "step", step)
        assert torch.equal(images, again[0])
        assert torch.equal(targets, again[1])
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        # The share of the second class is that of the second image, which is the batch turned around.
        share = (images.mean((1, 2, 3)) - torch.arange(8)) / (7 - 2 * torch.arange(8))
        torch.testing.assert_close(targets[0, 3], share[0], atol=1e-5, rtol=0)
    assert len({targets.numpy().tobytes() for _, targets in batches}) > 4


def test_smoothing_reaches_soft_targets() -> None:
    _, targets = mixed(Augment(mixup=0.8), 0, label_smoothing=0.2)
    torch.testing.assert_close(targets.min(), torch.tensor(0.05))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_a_share_of_the_batches_is_left_alone() -> None:
    batches = [mixed(Augment(mixup=0.8, mix_probability=0.5), step)[1] for step in range(60)]
    alone = sum(bool(((targets == 0) | (targets == 1)).all()) for targets in batches)
    assert 15 <= alone <= 45


def test_nothing_is_mixed_unasked() -> None:
    assert mixing(Augment(), num_classes=4, label_smoothing=0.1) is None
