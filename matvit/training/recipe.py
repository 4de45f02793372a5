"""Training recipes: a TOML file, read into frozen dataclasses, in which an unknown key is an error."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from matvit.errors import RecipeError
from matvit.submodels.submodel import GRANULARITIES

RECIPES = Path(__file__).with_name("recipes")


def _within(key: str, value: float, low: float, high: float) -> None:
    """Refuse what is out of all range, for an overflow far from here would say nothing of the recipe."""
    if not low <= value <= high:  # a NaN is not
        raise RecipeError(f"{key} must be from {low} to {high}, got {value!s:.30}")


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
        mixup: Alpha of mixup, of a whole batch with itself reversed; 0 does not mix.
        cutmix: Alpha of cutmix; with both, either comes half the time.
        mix_probability: Share of the batches that are mixed at all.
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
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hflip", "erase", "mix_probability", "translate"):
            _within(f"augment.{name}", getattr(self, name), 0, 1)
        for name, most in {
            "degrees": 360,
            "shear": 89,
            "color_jitter": 100,
            "mixup": 1000,
            "cutmix": 1000,
        }.items():
            _within(f"augment.{name}", getattr(self, name), 0, most)
        for name in ("zoom", "stretch"):
            _within(f"augment.{name}", getattr(self, name), 0, 0.99)
        _within("augment.crop", self.crop, 0.001, 1)

    @property
    def mixes(self) -> bool:
        """Whether images and targets are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the weights move.

    Args:
        optimizer: Name in timm's registry.
        lr: Peak learning rate.
        min_lr: Learning rate at the end of the schedule.
        weight_decay: Decoupled weight decay; biases and norms are exempt.
        betas: Of Adam and its kin, two or three; empty leaves the optimizer's own.
        layer_decay: Factor by which each layer learns slower than the one above it; 1 is none.
        schedule: timm's name, such as cosine, poly or constant; it counts from the start of the warm-up.
        warmup_epochs: Linear warm-up.
        warmup_steps: The same in steps, in place of `warmup_epochs`; 0 leaves those.
        clip_grad: Largest gradient norm; 0 does not clip.
        ema_decay: Decay of the averaged weights that are evaluated and saved; 0 keeps the raw ones.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.05
    betas: tuple[float, ...] = ()
    layer_decay: float = 1.0
    schedule: str = "cosine"
    warmup_epochs: int = 1
    warmup_steps: int = 0
    clip_grad: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "min_lr", "weight_decay"):
            _within(f"optim.{name}", getattr(self, name), 0, 1e30)  # whose overflow training finds itself
        for name in ("warmup_epochs", "warmup_steps", "clip_grad"):
            _within(f"optim.{name}", getattr(self, name), 0, 10**9)
        for beta in self.betas:
            _within("optim.betas", beta, 0, 1)
        if not 0 <= self.ema_decay < 1:
            raise RecipeError(f"optim.ema_decay must be at least 0 and below 1, got {self.ema_decay}")
        if not 0 < self.layer_decay <= 1:
            raise RecipeError(f"optim.layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if len(self.betas) not in (0, 2, 3):
            raise RecipeError(f"optim.betas must be two or three numbers, got {list(self.betas)}")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: see `matvit.training.objectives.NestedTask`.

    Args:
        kind: ``joint`` trains all `granularities` on every batch, ``sampled`` one of them a step,
            ``mixnmatch`` a random submodel of the Mix'n'Match curve a step.
        granularities: Which of them are trained; ``["XL"]`` trains a plain Vision Transformer.
        probabilities: Of ``sampled``, one a granularity; empty is uniform.
        with_full: ``sampled`` and ``mixnmatch`` train the full encoder in every step as well.
        sizes: Pixels of a side, of which each submodel but the full encoder draws one a step; empty is the
            encoder's own alone.
        merge: Tokens that merge in each layer, of which it draws one a step; empty is 0.
        reduction: ``sum`` or ``mean`` over the submodels of a step.
        loss: ``softmax`` or ``sigmoid`` cross-entropy.
        label_smoothing: Of either loss.
        distill: What smaller submodels also learn from the full encoder: its ``embedding``, its ``logits``,
            or ``""``, nothing.
        distill_weight: What the weight of that grows to, linearly from 0.
        distill_temperature: Of logits under the softmax.
    """

    kind: str = "joint"
    granularities: tuple[str, ...] = ("S", "M", "L", "XL")
    probabilities: tuple[float, ...] = ()
    with_full: bool = False
    sizes: tuple[int, ...] = ()
    merge: tuple[int, ...] = ()
    reduction: str = "sum"
    loss: str = "softmax"
    label_smoothing: float = 0.0
    distill: str = ""
    distill_weight: float = 1.0
    distill_temperature: float = 1.0

    def __post_init__(self) -> None:
        choices = {
            "kind": ("joint", "sampled", "mixnmatch"),
            "reduction": ("sum", "mean"),
            "loss": ("softmax", "sigmoid"),
            "distill": ("", "embedding", "logits"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"objective.{name} must be one of {', '.join(map(repr, known))}; "
                    f"got {getattr(self, name)!r}"
                )
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError(
                f"objective.label_smoothing must be from 0 to below 1, got {self.label_smoothing}"
            )
        for name, least in (("sizes", 1), ("merge", 0)):
            for number in getattr(self, name):
                _within(f"objective.{name}", number, least, 10**4)
        if not self.granularities:
            raise RecipeError("objective.granularities must name at least one")
        if unknown := set(self.granularities) - GRANULARITIES.keys():
            raise RecipeError(
                f"objective.granularities: {min(unknown)!r} is none of {', '.join(GRANULARITIES)}"
            )
        if self.probabilities and (
            len(self.probabilities) != len(self.granularities)
            or min(self.probabilities) < 0
            or not math.isclose(sum(self.probabilities), 1, abs_tol=1e-6)
        ):
            raise RecipeError(
                "objective.probabilities must sum to 1, one for each of objective.granularities"
            )
        if not 0 < self.distill_temperature < 10**6 or not 0 <= self.distill_weight < 10**6:
            raise RecipeError(
                "objective.distill_temperature must be above 0, distill_weight at least 0, both below 1000000"
            )

    @property
    def nested(self) -> bool:
        """Whether narrower submodels are trained, too."""
        return self.granularities != tuple(GRANULARITIES)[-1:]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a run is measured on held-out images, by every granularity.

    Args:
        every: Epochs from one evaluation to the next; the last epoch is always evaluated.
        corpus: Training images, evenly spaced, that 1-NN searches, embedded by the full encoder.
    """

    every: int = 1
    corpus: int = 10_000

    def __post_init__(self) -> None:
        for name in ("every", "corpus"):
            _within(f"evaluation.{name}", getattr(self, name), 1, 10**9)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a training run but the images.

    Args:
        architecture: A ``matvit_*`` name.
        epochs: Passes over the images, warm-up included.
        batch_size: Images an optimizer step, over all processes.
        seed: Of initialisation, order, augmentation and whatever else is random.
        model: Arguments for timm's `VisionTransformer`, such as ``img_size`` and ``patch_size``.
        preprocess: Entries of timm's pretrained config, such as ``mean``, ``std`` and ``crop_pct``.
        augment: Random changes of the images.
        optim: Optimizer and schedule.
        objective: The loss.
        evaluation: Measures on held-out images.
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
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        for name, least, most in (("epochs", 1, 10**6), ("batch_size", 1, 2**20), ("seed", 0, 2**63 - 1)):
            _within(name, getattr(self, name), least, most)
        if self.model.get("in_chans", 3) not in (1, 3):
            raise RecipeError("model.in_chans must be 1 (grey) or 3 (colour)")
        if "input_size" in self.preprocess:
            raise RecipeError("preprocess.input_size is not for recipes: model.img_size says it")
        if self.augment.mixes and self.batch_size % 2:
            raise RecipeError("augment.mixup and augment.cutmix need an even batch_size")

    @property
    def mode(self) -> str:
        """Pillow's name of the colours that the model sees: ``L`` or ``RGB``."""
        return "L" if self.model.get("in_chans", 3) == 1 else "RGB"


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
        _refuse_unknown(table, Recipe)
        return msgspec.convert(table, Recipe)
    except RecipeError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, RecipeError):  # What a dataclass refused itself.
            raise error.__cause__ from None
        raise RecipeError(f"cannot read {path}: {str(error) or type(error).__name__}") from error
    except RecursionError as error:
        raise RecipeError(f"cannot read {path}: it is nested without end") from error


def _refuse_unknown(table: Mapping[str, Any], kind: Any, where: str = "") -> None:
    known = get_type_hints(kind)
    if unknown := table.keys() - known.keys():
        raise RecipeError(f"unknown key {where}{min(unknown)}; known here: {', '.join(sorted(known))}")
    for key, value in table.items():
        if is_dataclass(known[key]) and isinstance(value, dict):
            _refuse_unknown(value, known[key], f"{where}{key}.")
