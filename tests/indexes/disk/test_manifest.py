import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes import EncoderIdentity, FileEntry, IndexDamagedError, Manifest, WrongEncoderError
from indexes.disk.manifest import Kind, read_manifest


@pytest.fixture
def manifest(identity: EncoderIdentity) -> Manifest:
    return Manifest(
        encoder=identity,
        dtype="bfloat16",
        device="cuda",
        checkpoint="runs/x/checkpoint",
        kind=Kind(
            factory="IVF4,Flat", parameters="nprobe=2", recall=0.97, query_ms=0.5, bytes_per_vector=40.0
        ),
        ntotal=3,
        removed=1,
        classes=["cat", "dög"],
        sources=["photos"],
        files={"vectors/part-00000.npy": FileEntry(bytes=10, sha256="ab" * 32, rows=3)},
        created="2026-01-01T00:00:00+00:00",
        command="matvit index build photos",
    )


def test_round_trip(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_layout_on_disk(manifest: Manifest) -> None:
    body = json.loads(manifest.to_json())
    assert set(body["model"]) == {
        "architecture",
        "weights_sha256",
        "pooling",
        "projection",
        "embed_dim",
        "dtype",
        "checkpoint",
        "device",
    }
    assert body["preprocess"] == {"size": 224, "mean": [0.5, 0.5, 0.5]}
    assert (body["format_version"], body["metric"], body["factory"], body["recall"]) == (
        2,
        "cosine",
        "IVF4,Flat",
        0.97,
    )


@pytest.mark.parametrize(
    "name",
    ["../x", "vectors/../../x", "/etc/passwd", "..", "", "a\0b"],
    ids=["up", "deep", "root", "dots", "", "nul"],
)
def test_file_outside_the_index_is_refused(manifest: Manifest, name: str) -> None:
    entry = FileEntry(bytes=1, sha256="0" * 64, rows=1)
    crafted = dataclasses.replace(manifest, files={name: entry}).to_json()
    with pytest.raises(IndexDamagedError, match="leaves the index"):
        Manifest.from_json(crafted)


def test_other_version_is_named(manifest: Manifest) -> None:
    newer = dataclasses.replace(manifest, format_version=3).to_json()
    with pytest.raises(IndexDamagedError, match="version 3 is not 1 or 2: use the matvit that made it"):
        Manifest.from_json(newer)


@pytest.mark.parametrize(
    "field", ["model", "preprocess", "ntotal", "files", "format_version", "manifest_sha256"]
)
def test_missing_field_is_refused(manifest: Manifest, field: str) -> None:
    body = json.loads(manifest.to_json())
    del body[field]
    with pytest.raises(IndexDamagedError):
        Manifest.from_json(json.dumps(body, indent=2, sort_keys=True).encode())


def test_missing_field_is_refused_even_when_sealed(manifest: Manifest) -> None:
    from indexes.disk.manifest import _sealed

    body = json.loads(manifest.to_json())
    del body["manifest_sha256"], body["sources"]
    with pytest.raises(IndexDamagedError, match="sources"):
        Manifest.from_json(_sealed(body))


def test_edited_value_is_refused(manifest: Manifest) -> None:
    with pytest.raises(IndexDamagedError, match="changed"):
        Manifest.from_json(manifest.to_json().replace(b'"ntotal": 3', b'"ntotal": 4'))


@given(st.binary() | st.recursive(st.none() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_anything_else_is_refused_as_damaged(raw: bytes) -> None:
    with pytest.raises(IndexDamagedError):
        Manifest.from_json(raw)


def test_deep_nesting_is_refused_as_damaged() -> None:
    with pytest.raises(IndexDamagedError):
        Manifest.from_json(b"[" * 200_000)


def test_missing_manifest_names_the_directory(tmp_path: Path) -> None:
    with pytest.raises(IndexDamagedError, match=r"not an index .*matvit index build"):
        read_manifest(tmp_path)


def test_same_encoder_passes_whatever_its_sequence_types(
    manifest: Manifest, identity: EncoderIdentity
) -> None:
    manifest.require_encoder(identity)
    Manifest.from_json(manifest.to_json()).require_encoder(identity)


def test_other_weights_name_both_models(manifest: Manifest, identity: EncoderIdentity) -> None:
    other = dataclasses.replace(identity, architecture="vit_base", weights_sha256="f" * 64)
    with pytest.raises(
        WrongEncoderError, match=r"needs matvit_tiny \(weights 0123456789ab\).*vit_base \(weights f{12}\)"
    ):
        manifest.require_encoder(other)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pooling": "avg"}, "pooling is 'token', not 'avg'"),
        ({"embed_dim": 16}, "embed_dim is 8, not 16"),
        ({"preprocess": {"size": 256, "mean": (0.5, 0.5, 0.5)}}, r"preprocess\.size is 224, not 256"),
        ({"preprocess": {"size": 224}}, r"preprocess\.mean is \[0.5, 0.5, 0.5\], not None"),
    ],
)
def test_other_settings_are_named(
    manifest: Manifest, identity: EncoderIdentity, change: dict[str, object], message: str
) -> None:
    with pytest.raises(WrongEncoderError, match=message):
        manifest.require_encoder(dataclasses.replace(identity, **change))


def projected(identity: EncoderIdentity) -> EncoderIdentity:
    return dataclasses.replace(identity, weights_sha256="f" * 64, projection=4, embed_dim=4)


def test_what_was_made_before_a_projection_is_to_be_built_again(
    manifest: Manifest, identity: EncoderIdentity
) -> None:
    for made in (manifest, dataclasses.replace(manifest, format_version=1)):
        with pytest.raises(
            WrongEncoderError,
            match=r"^this index holds what matvit_tiny \(weights 0123456789ab\) gives before its projection "
            r"to 4 numbers: build it again$",
        ):
            Manifest.from_json(made.to_json()).require_encoder(projected(identity))


def test_a_projection_is_part_of_the_identity(manifest: Manifest, identity: EncoderIdentity) -> None:
    tower = projected(identity)
    made = Manifest.from_json(dataclasses.replace(manifest, encoder=tower).to_json())
    made.require_encoder(tower)
    with pytest.raises(WrongEncoderError, match="use that model"):
        made.require_encoder(identity)
    with pytest.raises(WrongEncoderError, match="embed_dim is 4, not 8; projection is 4, not 8"):
        made.require_encoder(dataclasses.replace(tower, projection=8, embed_dim=8))


def test_another_architecture_with_a_projection_is_just_another(
    manifest: Manifest, identity: EncoderIdentity
) -> None:
    other = dataclasses.replace(projected(identity), architecture="vit_base_patch32_clip_224")
    with pytest.raises(WrongEncoderError, match="use that model"):
        manifest.require_encoder(other)
