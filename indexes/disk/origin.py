"""What made the vectors of an index, as a caller knows it before there is a manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from indexes.disk.manifest import EncoderIdentity
from indexes.disk.schema import Calibration, MeasuredCurve


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made the vectors of an index, for its manifest.

    Attributes:
        encoder: The encoder whose vectors these are.
        dtype: What it computed in.
        device: Where it computed.
        checkpoint: Where it was loaded from.
        sources: Where the images came from.
        command: What was run.
        key_prefixes: See `Manifest`.
        excludes: See `Manifest`.
        calibration: See `Manifest`.
        curve: See `Manifest`.
    """

    encoder: EncoderIdentity
    dtype: str
    device: str
    checkpoint: str
    sources: list[str]
    command: str
    key_prefixes: Mapping[str, str] = field(default_factory=dict)
    excludes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calibration: Calibration | None = None
    curve: MeasuredCurve | None = None
