"""What made an index, and what its files must be."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from indexes.disk.schema import Calibration, Count, MeasuredCurve, Settings, Sha256, Share, checked, unknown
from indexes.errors import IndexDamagedError, WrongEncoderError

FORMAT_VERSION = 2
"""What is written. It knows the projection of an encoder, which format 1 left out of embeddings."""
READ_VERSIONS = (1, 2)
FILE_NAME = "manifest.json"
REMOVED = "removed.npy"
KEPT_OUT = "kept_out.parquet"
"""Only there where images are kept out."""
_SEAL = "manifest_sha256"
_RECORDED = ("dtype", "device", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What identifies the encoder that made the vectors: encoders whose fields are all equal are the same.

    Attributes:
        architecture: Name of the model, as timm knows it.
        weights_sha256: Hash of the encoder's tensors, in hexadecimal.
        pooling: How patch tokens become one vector.
        projection: How many numbers the projection of that vector gives, as CLIP's into the space that images
            share with texts; None where there is no projection, and in every index of format 1.
        embed_dim: Length of a vector, projected if it is.
        preprocess: How an image becomes the model's input.
    """

    architecture: str
    weights_sha256: Sha256
    pooling: str
    projection: Annotated[int, msgspec.Meta(ge=1)] | None = None
    embed_dim: Annotated[int, msgspec.Meta(ge=1)]
    preprocess: Settings

    def __post_init__(self) -> None:
        # As JSON would give it back: (0.5, 0.5) given and [0.5, 0.5] read from a manifest must be equal.
        object.__setattr__(self, "preprocess", json.loads(json.dumps(dict(self.preprocess), allow_nan=False)))

    def __str__(self) -> str:
        return f"{self.architecture} (weights {self.weights_sha256[:12]})"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an index.

    Attributes:
        bytes: How many there are.
        sha256: Of all of them.
        rows: What the file holds one of a row, or an image, or a removed row.
        ends_sha256: See `indexes.disk.durable.ends_sha256`; of the one file that only FAISS can read.
    """

    bytes: Count
    sha256: Sha256
    rows: Count
    ends_sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How vectors are searched, and what was measured of it.

    Attributes:
        factory: FAISS factory string.
        parameters: Of the search, as FAISS's `ParameterSpace` takes them, such as ``nprobe=32``.
        rerank: Candidates a query that are scored again by the stored vectors; 0 is none.
        recall_target: Share of the true 10 nearest that the parameters were tuned to find.
        recall: The share that was measured; 1.0 for exact search.
        query_ms: Median time of searching for one query, in milliseconds, where it was measured.
        bytes_per_vector: Of the FAISS file.
    """

    factory: str = "Flat"
    parameters: str = ""
    rerank: Count = 0
    recall_target: Share = 0.95
    recall: Share = 1.0
    query_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    bytes_per_vector: Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `manifest.json`, of the types that are checked when it is read.

    Attributes:
        encoder: The encoder whose vectors these are.
        dtype: What the encoder computed in; recorded, not part of its identity.
        device: Where it computed; recorded, not part of its identity.
        checkpoint: Where the encoder was loaded from; recorded, not part of its identity.
        metric: Similarity of two vectors.
        kind: How the vectors are searched.
        ntotal: Number of rows, of which some may be removed.
        removed: How many are.
        classes: The corpus' labels, sorted.
        sources: Where the images came from.
        key_prefixes: What the keys of a source begin with, by source, where they begin with anything.
        excludes: Globs of what is left out of a source, by source.
        files: Every other file of the index, by POSIX path relative to its directory.
        created: UTC time in ISO 8601.
        command: What was run to make the index.
        calibration: What the budget `auto` means here. Kept when rows come and go.
        curve: The submodels that budgets choose from here, where they were measured. Kept likewise.
        format_version: Version of the layout on disk.
    """

    encoder: EncoderIdentity
    dtype: str
    device: str
    checkpoint: str
    metric: Literal["cosine"] = "cosine"
    kind: Kind
    ntotal: Count
    removed: Count
    classes: list[str]
    sources: list[str]
    files: dict[str, FileEntry]
    created: str
    command: str
    key_prefixes: dict[str, str] = field(default_factory=dict)
    excludes: dict[str, list[str]] = field(default_factory=dict)
    calibration: Calibration | None = None
    curve: MeasuredCurve | None = None
    format_version: int = FORMAT_VERSION

    def require_encoder(self, identity: EncoderIdentity) -> None:
        """Check that an encoder may query this index.

        Raises:
            WrongEncoderError: It is not the encoder that made the index.
        """
        same_architecture = identity.architecture == self.encoder.architecture
        if same_architecture and identity.projection and not self.encoder.projection:
            raise WrongEncoderError(
                f"this index holds what {self.encoder} gives before its projection to {identity.projection} "
                "numbers: build it again"
            )
        if (identity.architecture, identity.weights_sha256) != (
            self.encoder.architecture,
            self.encoder.weights_sha256,
        ):
            raise WrongEncoderError(
                f"this index needs {self.encoder}, but {identity} was given: use that model"
            )
        if identity != self.encoder:
            differences = "; ".join(_differences(self.encoder, identity))
            raise WrongEncoderError(
                f"this index needs {self.encoder} with other settings, use those: {differences}"
            )

    def vector_files(self) -> list[str]:
        """Return the paths of the vector parts, in the order of the rows."""
        names = [name for name in self.files if name.startswith("vectors/") and name.endswith(".npy")]
        # Part numbers have five digits or more, so the shorter name is the lower number.
        return sorted(names, key=lambda name: (len(name), name))

    def to_json(self) -> bytes:
        """Return the bytes of `manifest.json`, sealed with their own SHA-256."""
        return _sealed(self._body())

    @classmethod
    def from_json(cls, raw: bytes) -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            IndexDamagedError: Not a manifest, of another version, changed since it was written, with a field
                that is missing, unknown or no such value, or with file paths that leave the index.
        """
        body = _unsealed(raw)
        try:
            manifest = checked(_nested(body), cls)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(f"a field is missing or of the wrong kind ({error})") from error
        if name := next(unknown(body, manifest._body()), None):
            raise _damaged(f"{name!r} is no field of it: use the matvit that made it")
        if manifest.removed > manifest.ntotal:
            raise _damaged(f"{manifest.removed} of {manifest.ntotal} rows are removed")
        for name in manifest.files:
            _check_inside(name)
        return manifest

    def _body(self) -> dict[str, Any]:
        """The fields as they lie in the file: what there is to know of the model together, a kind's flat."""
        body = asdict(self)
        if self.curve is None:
            del body["curve"]  # As in files that were written before there were any.
        body["model"] = body.pop("encoder")
        body["preprocess"] = body["model"].pop("preprocess")
        body["model"] |= {name: body.pop(name) for name in _RECORDED}
        return body | body.pop("kind")


def _nested(body: dict[str, Any]) -> dict[str, Any]:
    """What `Manifest._body` gave, nested as the dataclasses are."""
    model, names = dict(body["model"]), {field.name for field in fields(Kind)}
    recorded = {name: model.pop(name) for name in _RECORDED}
    encoder = model | {"preprocess": body["preprocess"]}
    kind = {name: body[name] for name in names}
    rest = {name: value for name, value in body.items() if name not in names}
    return rest | recorded | {"encoder": encoder, "kind": kind}


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of an index directory.

    Raises:
        IndexDamagedError: There is none, or it is damaged; the message says where.
    """
    try:
        return Manifest.from_json((directory / FILE_NAME).read_bytes())
    except OSError as error:
        raise IndexDamagedError(
            f"{directory} is not an index ({FILE_NAME}: {error.strerror}): make one with `matvit index build`"
        ) from error
    except IndexDamagedError as error:
        raise IndexDamagedError(f"{directory}: {error}") from error


def _sealed(body: dict[str, Any]) -> bytes:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    seal = hashlib.sha256(canonical).hexdigest()
    return json.dumps(body | {_SEAL: seal}, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def _unsealed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
        version = body["format_version"]
        if version not in READ_VERSIONS:
            known = " or ".join(map(str, READ_VERSIONS))
            raise _damaged(f"format version {version!r} is not {known}: use the matvit that made it")
        del body[_SEAL]
        # Sealing once more compares every byte, white space too.
        intact = _sealed(body) == raw
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged("not a manifest") from error
    if not intact:
        raise _damaged("changed since it was written (its own SHA-256 differs)")
    return dict(body)


def _check_inside(name: str) -> None:
    parts = name.split("/")
    if not name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in parts:
        raise _damaged(f"the file path {name!r} leaves the index")


def _damaged(what: str) -> IndexDamagedError:
    return IndexDamagedError(f"{FILE_NAME} is damaged or unusable: {what}")


def _differences(needed: EncoderIdentity, given: EncoderIdentity) -> list[str]:
    def flat(identity: EncoderIdentity) -> dict[str, Any]:
        values = {field.name: getattr(identity, field.name) for field in fields(identity)}
        preprocess = values.pop("preprocess")
        return values | {f"preprocess.{name}": value for name, value in preprocess.items()}

    left, right = flat(needed), flat(given)
    return [
        f"{name} is {left.get(name)!r}, not {right.get(name)!r}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
