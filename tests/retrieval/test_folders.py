"""Keys, labels, parts and fingerprints of folders."""

import os
import random
from pathlib import Path

import pytest

from retrieval import files, folders
from retrieval.folders import file_parts, find_images
from retrieval.samples import Failure, Part, Sample


def fill(root: Path, *keys: str) -> None:
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(key.encode())


def parts(root: Path) -> tuple[Part, ...]:
    return file_parts(root, find_images(root))


def read(root: Path) -> list[Sample | Failure]:
    return [sample for part in parts(root) for sample in part.read()]


def test_keys_are_sorted_relative_paths_and_labels_their_first_folder(tmp_path: Path) -> None:
    keys = [
        "a.jpg",
        "cat/1.PNG",
        "cat/deep/2.tiff",
        "cat.webp",
        "Zoë/日本.Jpeg",
        "dog/é 1.gif",
        "b.bmp",
        "c.tif",
    ]
    fill(tmp_path, *random.sample(keys, len(keys)), "cat/readme.md", "noextension")
    samples = [sample for sample in read(tmp_path) if isinstance(sample, Sample)]
    labels = {"cat/1.PNG": "cat", "cat/deep/2.tiff": "cat", "Zoë/日本.Jpeg": "Zoë", "dog/é 1.gif": "dog"}
    assert [(sample.key, sample.label) for sample in samples] == [
        (key, labels.get(key)) for key in sorted(keys)
    ]
    assert all(sample.data.decode() == sample.key for sample in samples)
    assert all(sample.path == str(tmp_path / sample.key) for sample in samples)


def test_hidden_names_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", ".b.jpg", ".git/c.jpg", "__MACOSX/d.jpg", "sub/._e.jpg")
    assert find_images(tmp_path) == ["a.jpg"]


def test_symlinks_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    fill(tmp_path / "root", "a/1.jpg")
    fill(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "alias.jpg").symlink_to("a/1.jpg")
    assert find_images(tmp_path / "root") == ["a/1.jpg", "alias.jpg", "linked/2.jpg"]


def test_a_link_to_itself_is_reported(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "maze").symlink_to("maze")
    assert read(tmp_path) == [Failure("loop.jpg", "broken symlink"), Failure("maze", "broken symlink")]


def test_parts_split_the_sorted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PART_SIZE", 3)
    fill(tmp_path, *(f"{number}.jpg" for number in range(7)))
    found = parts(tmp_path)
    assert [(part.name, part.size) for part in found] == [
        ("images 0-2", 3),
        ("images 3-5", 3),
        ("images 6-6", 1),
    ]
    assert [[sample.key for sample in part.read()] for part in found] == [
        ["0.jpg", "1.jpg", "2.jpg"],
        ["3.jpg", "4.jpg", "5.jpg"],
        ["6.jpg"],
    ]


def test_fingerprints_change_with_the_files_of_their_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_SIZE", 2)
    fill(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    (tmp_path / "3.jpg").symlink_to("nowhere")
    first, second = (part.fingerprint for part in parts(tmp_path))
    assert (first, second) == tuple(part.fingerprint for part in parts(tmp_path))

    os.utime(tmp_path / "1.jpg", ns=(0, 1))
    touched = parts(tmp_path)
    assert touched[0].fingerprint != first
    assert touched[1].fingerprint == second

    (tmp_path / "2.jpg").rename(tmp_path / "2b.jpg")
    assert parts(tmp_path)[1].fingerprint != second


def test_names_that_are_not_utf8_fail_with_a_key_that_can_be_stored(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    assert read(tmp_path) == [Failure("caf\\udce9.jpg", "file name is not UTF-8")]
    assert len(parts(tmp_path)[0].fingerprint) == 64


def test_files_over_the_limit_fail(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    assert read(tmp_path) == [Failure("large.jpg", "268435457 bytes are over the limit of 268435456")]


def test_files_that_vanish_after_listing_fail(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    found = parts(tmp_path)
    (tmp_path / "a.jpg").unlink()
    assert list(found[0].read()) == [Failure("a.jpg", "no such file")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_fails(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "a.jpg").chmod(0)
    (tmp_path / "closed").chmod(0)
    found = read(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert found == [Failure("a.jpg", "permission denied"), Failure("closed", "permission denied")]
