"""Training recipes: a TOML file, read into frozen dataclasses, in which an unknown key is an error."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from matvit.errors import RecipeError
from matvit.submodel import GRANULARITIES

_T = TypeVar("_T")
RECIPES = Path(__file__).with_name("recipes")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training image, in the order in which they are applied.

    Args:
        degrees: Rotation by up to this much either way.
        translate: Shift by up to this share of the image in each direction.
        zoom: Zoom by a factor of up to 1 +- this.
        shear: Shear by up to this many degrees either way.
        crop: Smallest share of the area that a random resized crop keeps; 1 takes the centre of the image.
        stretch: Change the aspect ratio of half the images by up to this share, where nothing is cropped.
        hflip: Probability of a horizontal flip.
        color_jitter: Strength of brightness, contrast and saturation changes.
        auto_augment: timm policy such as ``rand-m9-mstd0.5``, or empty.
        erase: Probability of erasing a random rectangle.
    """

    degrees: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    crop: float = 1.0
    stretch: float = 0.0
    hflip: float = 0.0
    color_jitter: float = 0.0
    auto_augment: str = ""
    erase: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the weights move.

    Args:
        optimizer: Name in timm's registry.
        lr: Peak learning rate.
        min_lr: Learning rate at the end of the cosine.
        weight_decay: Decoupled weight decay; biases and norms are exempt.
        warmup_epochs: Linear warm-up.
        clip_grad: Largest gradient norm; 0 does not clip.
        ema_decay: Decay of the averaged weights that are evaluated and saved; 0 keeps the raw ones.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.05
    warmup_epochs: int = 1
    clip_grad: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.lr < math.inf:
            raise RecipeError(f"optim.lr must be finite and at least 0, got {self.lr}")
        if not 0 <= self.ema_decay < 1:
            raise RecipeError(f"optim.ema_decay must be at least 0 and below 1, got {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: see `matvit.objectives.JointTask`.

    Args:
        granularities: Which of them are trained; ``["XL"]`` trains a plain Vision Transformer.
        align: Weight that the embedding alignment between granularities grows to, linearly from 0.
        label_smoothing: Of the softmax cross-entropy.
    """

    granularities: tuple[str, ...] = ("S", "M", "L", "XL")
    align: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError(
                f"objective.label_smoothing must be from 0 to below 1, got {self.label_smoothing}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a training run but the images.

    Args:
        architecture: A ``matvit_*`` name.
        epochs: Passes over the images, warm-up included.
        batch_size: Images a step.
        seed: Of initialisation, order and augmentation.
        model: Arguments for timm's `VisionTransformer`, such as ``img_size`` and ``patch_size``.
        preprocess: Entries of timm's pretrained config, such as ``mean``, ``std`` and ``crop_pct``.
        augment: Random changes of the images.
        optim: Optimizer and schedule.
        objective: The loss.
    """

    architecture: str
    epochs: int
    batch_size: int
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    augment: Augment = Augment()
    optim: Optim = Optim()
    objective: Objective = Objective()

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} must be at least {least}")
        if self.model.get("in_chans", 3) not in (1, 3):
            raise RecipeError("model.in_chans must be 1 (grey) or 3 (colour)")
        if "input_size" in self.preprocess:
            raise RecipeError("preprocess.input_size is not for recipes: model.img_size says it")
        if unknown := set(self.objective.granularities) - GRANULARITIES.keys():
            raise RecipeError(
                f"objective.granularities: {min(unknown)!r} is none of {', '.join(GRANULARITIES)}"
            )
        if not self.objective.granularities:
            raise RecipeError("objective.granularities must name at least one")


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def find(recipe: str | Path) -> Path:
    """The file of a recipe, given its path or the name of one that comes with the package.

    Raises:
        RecipeError: There is neither.
    """
    for path in (Path(recipe), RECIPES / f"{recipe}.toml"):
        if path.is_file():
            return path
    raise RecipeError(f"no recipe {str(recipe)!r}: give a .toml file or one of {', '.join(names())}")


def read(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: The file is not TOML, or a key in it is unknown, missing or of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error
    return _build(Recipe, table, where="")


def _build(cls: type[_T], table: Mapping[str, Any], where: str) -> _T:
    hints = get_type_hints(cls)
    if unknown := table.keys() - hints.keys():
        raise RecipeError(f"unknown key {where}{min(unknown)}; known here: {', '.join(sorted(hints))}")
    needed = {f.name for f in dataclasses.fields(cls) if _has_no_default(f)}  # type: ignore[arg-type]
    if missing := needed - table.keys():
        raise RecipeError(f"missing key {where}{min(missing)}")
    return cls(**{key: _value(hints[key], value, where + key) for key, value in table.items()})


def _value(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _build(kind, value, where=f"{key}.")  # type: ignore[arg-type]
    if kind is float and type(value) is int:
        return float(value)
    if kind == tuple[str, ...] and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if kind == Mapping[str, Any] and isinstance(value, dict):
        return value
    if kind in (int, float, str) and type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", str(kind)) if kind in (int, float, str) else "a table"
    raise RecipeError(
        f"{key} must be {'a list of strings' if kind == tuple[str, ...] else wanted}; got {value!r}"
    )


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
