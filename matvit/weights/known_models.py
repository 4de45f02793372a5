"""Encoders to begin with, by the names that `-m` takes. Loads neither torch nor timm."""

import re
from dataclasses import dataclass

from matvit.errors import UnknownModelError


@dataclass(frozen=True)
class KnownModel:
    """What to know of an encoder before it is downloaded.

    Attributes:
        name: As `matvit.weights.model_names.load` takes it.
        mparams: Parameters of the full encoder, in 1e6; timm's are downloaded as 4 bytes each.
        gmacs: Of one image, embedded by the full encoder at its own size.
        megabytes: To download, in 1e6 bytes.
        licence: Of the weights, as timm or their publisher says it.
        good_for: What, in a few words.
    """

    name: str
    mparams: float
    gmacs: float
    megabytes: int
    licence: str
    good_for: str

    @property
    def repository(self) -> str | None:
        """Where on the hub its weights are; None for those that are published elsewhere."""
        return None if self.name.startswith("matvit-") else f"timm/{sized(self.name)[0]}"

    def __str__(self) -> str:
        return f"{self.name}: {self.mparams:g} M parameters, {self.gmacs:g} GMACs an image, {self.licence}"


_DINOV2 = "vit_{}_patch14_reg4_dinov2.lvd142m@224px"
DEFAULT = _DINOV2.format("small")
"""Of DINOv2 with registers, at 224 px: timm's own 518 px take seven times as long."""

KNOWN_MODELS = (
    KnownModel(DEFAULT, 21.6, 5.79, 87, "apache-2.0", "how things look: photographs, products, places"),
    KnownModel(_DINOV2.format("base"), 85.7, 21.9, 343, "apache-2.0", "the same, finer"),
    KnownModel(_DINOV2.format("large"), 303.2, 79.46, 1213, "apache-2.0", "the same, finest, on a GPU"),
    KnownModel(
        "vit_small_patch16_dinov3.lvd1689m",
        21.6,
        6.25,
        86,
        "dinov3-license",
        "how things look; Meta's own terms",
    ),
    KnownModel(
        "vit_base_patch16_dinov3.lvd1689m",
        85.6,
        23.57,
        343,
        "dinov3-license",
        "the same, finer; Meta's own terms",
    ),
    KnownModel(
        "vit_base_patch32_clip_224.laion2b",
        87.8,
        4.12,
        351,
        "apache-2.0",
        "what is shown, whatever it looks like",
    ),
    KnownModel("vit_base_patch16_siglip_224.v2_webli", 92.9, 17.71, 372, "apache-2.0", "the same, finer"),
    KnownModel("vit_pe_core_base_patch16_224.fb", 93.7, 17.8, 375, "apache-2.0", "the same, finer"),
    KnownModel(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        5.7,
        1.17,
        23,
        "apache-2.0",
        "small machines, first tries",
    ),
    KnownModel(
        "matvit-b16-in1k", 85.8, 16.35, 1000, "apache-2.0", "narrow layers: trained nested on ImageNet"
    ),
    KnownModel("matvit-l16-in21k-in1k", 303.3, 59.42, 3700, "apache-2.0", "the same, larger"),
)


def sized(name: str) -> tuple[str, int | None]:
    """A name without the image size at its end, and that size in pixels, if there is one."""
    found = re.fullmatch(r"(.+)@([1-9][0-9]{0,4})px", name)
    return (found[1], int(found[2])) if found else (name, None)


def no_such_model(name: str) -> UnknownModelError:
    """What to raise where a name leads nowhere."""
    ours = ", ".join(model.name for model in KNOWN_MODELS if model.repository is None)
    return UnknownModelError(f"no directory {name!r}, nor a model of timm, nor one of {ours}")


def known_model(name: str) -> KnownModel | None:
    """The one of this name, if there is one."""
    return next((model for model in KNOWN_MODELS if model.name == name), None)
