"""Images to an index: vectors, rows and labels belong together, wherever the images lie."""

from pathlib import Path

import numpy as np
import pytest
from small_world import files_of, shard_of, write_shard

from indexes import DuplicateKeyError, EmptyIndexError, Index, IndexExistsError, verify
from indexes.rows import read_failures
from retrieval import Encoder, build_index, folders, open_source
from retrieval.batches import batches


def vectors_of(index: Index) -> dict[str, np.ndarray]:
    return dict(zip(index.keys, np.concatenate(list(index.vectors.blocks())), strict=True))


def test_vectors_are_the_full_encoder_s_joined_by_key(index: Path, corpus: Path, encoder: Encoder) -> None:
    opened = Index.open(index)
    assert opened.keys == [file.relative_to(corpus).as_posix() for file in files_of(corpus)]
    assert opened.paths == [str(file) for file in files_of(corpus)]
    assert opened.labels == [file.parent.name for file in files_of(corpus)]
    for key, vector in vectors_of(opened).items():
        expected = encoder.embed(encoder.preprocess(corpus / key)[None])[0]
        np.testing.assert_allclose(vector, expected, atol=1e-3)
    assert verify(index) == []


def test_manifest_says_what_made_it(index: Path, corpus: Path, encoder: Encoder, checkpoint: Path) -> None:
    manifest = Index.open(index).manifest
    assert manifest.encoder == encoder.identity
    assert (manifest.dtype, manifest.device) == ("float32", "cpu")
    assert (manifest.sources, manifest.checkpoint) == ([str(corpus)], str(checkpoint))
    assert manifest.classes == ["blue", "checks", "green", "red", "stripes"]


def test_shards_and_a_folder_of_the_same_images_agree(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    files = files_of(corpus)
    for i in range(3):
        shard_of(tmp_path / f"x-{i:03}.tar", files[i::3])
    build_index(open_source(f"{tmp_path}/x-{{000..002}}.tar"), encoder, tmp_path / "shards.index")

    def normal(opened: Index) -> dict[str, tuple[str | None, np.ndarray]]:
        vectors = vectors_of(opened)
        return {
            key.rpartition(":")[2].replace("-", "/").partition(".")[0]: (label, vectors[key])
            for key, label in zip(opened.keys, opened.labels, strict=True)
        }

    folder, shards = normal(Index.open(index)), normal(Index.open(tmp_path / "shards.index"))
    assert folder.keys() == shards.keys()
    for key, (label, vector) in folder.items():
        assert shards[key][0] == label == key.partition("/")[0]
        np.testing.assert_allclose(shards[key][1], vector, atol=1e-3)


def test_batches_never_cross_parts_and_change_nothing(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_SIZE", 7)
    counted: list[int] = []
    build_index(
        open_source(corpus), encoder, tmp_path / "i", batch_size=5, workers=1, on_images=counted.append
    )
    assert counted == [5, 2] * 5 + [5]
    one, many = Index.open(index), Index.open(tmp_path / "i")
    assert len(many.manifest.vector_files()) == 6
    assert (one.keys, one.labels) == (many.keys, many.labels)
    for key, vector in vectors_of(one).items():
        np.testing.assert_allclose(vectors_of(many)[key], vector, atol=1e-3)


def test_an_interrupted_build_goes_on_after_its_last_whole_part(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_SIZE", 10)
    source, embedded = open_source(corpus), 0

    def interrupt(count: int) -> None:
        nonlocal embedded
        embedded += count
        if embedded > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(source, encoder, tmp_path / "i", batch_size=5, on_images=interrupt)
    assert not (tmp_path / "i").exists()

    again: list[int] = []
    skipped: list[int] = []
    build_index(source, encoder, tmp_path / "i", on_images=again.append, on_skip=skipped.append)
    assert (sum(skipped), sum(again)) == (20, 20)
    assert Index.open(tmp_path / "i").keys == Index.open(index).keys
    assert verify(tmp_path / "i") == []


def test_captions_and_failures_of_shards_are_kept(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    image = files_of(corpus)[1].read_bytes()
    write_shard(
        tmp_path / "a.tar",
        {"1.png": image, "1.txt": b"a cat", "2.png": b"broken", "2.txt": b"lost", "3.png": image},
    )
    build_index(open_source(tmp_path), encoder, tmp_path / "i")
    opened = Index.open(tmp_path / "i")
    assert opened.rows.select(["key", "caption", "label"]).to_pylist() == [
        {"key": "a.tar:1", "caption": "a cat", "label": None},
        {"key": "a.tar:3", "caption": None, "label": None},
    ]
    assert read_failures(tmp_path / "i" / "failures.parquet").to_pylist() == [
        {"key": "a.tar:2", "reason": "not an image"}
    ]


def test_an_existing_index_is_refused_and_left_alone(index: Path, corpus: Path, encoder: Encoder) -> None:
    before = (index / "manifest.json").read_bytes()
    with pytest.raises(IndexExistsError, match="exists"):
        build_index(open_source(corpus), encoder, index)
    assert (index / "manifest.json").read_bytes() == before


def test_a_corpus_without_one_readable_image_makes_no_index(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no image")
    with pytest.raises(EmptyIndexError, match=r"a\.jpg: not an image"):
        build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_two_images_of_one_key_make_no_index(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    image = files_of(corpus)[1].read_bytes()
    write_shard(tmp_path / "a.tar", {"b:c.png": image})
    source = open_source(tmp_path)
    twice = type(source)(source.text, source.parts * 2)
    with pytest.raises(DuplicateKeyError, match=r"a\.tar:b:c"):
        build_index(twice, encoder, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_labels_reach_batches_with_their_images(corpus: Path, encoder: Encoder) -> None:
    (part,) = open_source(corpus).parts
    for batch in batches([part], encoder, batch_size=16):
        for sample, image in zip(batch.samples, batch.images, strict=True):
            assert sample.label == Path(sample.path).parent.name
            assert image.equal(encoder.preprocess(sample.path))
