"""Keys, labels, parts and fingerprints of folders."""

import errno
import os
import random
from pathlib import Path

import pytest
from failing_disk import fail_below

from retrieval.sources import file_bytes as files
from retrieval.sources import folder_walk
from retrieval.sources.excludes import Excludes
from retrieval.sources.folder_walk import Found, file_parts, find_images
from retrieval.sources.sample import Failure, Part, Sample


def fill(root: Path, *keys: str) -> None:
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(key.encode())


def parts(root: Path) -> tuple[Part, ...]:
    found = find_images(root)
    return file_parts(root, sorted([*found.keys, *found.closed]), found.closed)


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
    assert find_images(tmp_path).keys == ["a.jpg"]


def test_symlinks_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    fill(tmp_path / "root", "a/1.jpg")
    fill(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "alias.jpg").symlink_to("a/1.jpg")
    assert find_images(tmp_path / "root").keys == ["a/1.jpg", "alias.jpg", "linked/2.jpg"]


def test_a_folder_is_walked_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    """Links to a folder inside, outside, above and below others, and to links; made in any order."""
    fill(tmp_path / "root", "b/1.jpg", "b/deep/2.jpg")
    fill(tmp_path / "elsewhere", "3.jpg", "sub/4.jpg")
    links = {
        "root/a": "b",  # sorts before the folder itself
        "root/c": "b/deep",
        "root/b/up": "..",
        "root/y": "../elsewhere/sub",
        "root/x": "../elsewhere",
        "root/z": "../elsewhere",
        "root/b/deep/w": "../../../elsewhere",
        "elsewhere/back": "../root",
        "elsewhere/again": "sub",
        "elsewhere/more": "../more",
        "root/zz": "x",
    }
    fill(tmp_path / "more", "5.jpg")
    for name in random.sample(sorted(links), len(links)):
        (tmp_path / name).symlink_to(links[name])
    assert find_images(tmp_path / "root").keys == [
        "b/1.jpg",
        "b/deep/2.jpg",
        "b/deep/w/3.jpg",
        "b/deep/w/more/5.jpg",
        "b/deep/w/sub/4.jpg",
    ]
    (tmp_path / "root/b/deep/w").unlink()
    assert find_images(tmp_path / "root").keys == [
        "b/1.jpg",
        "b/deep/2.jpg",
        "x/3.jpg",
        "x/more/5.jpg",
        "x/sub/4.jpg",
    ]


def test_a_folder_named_like_an_image_is_entered(tmp_path: Path) -> None:
    fill(tmp_path, "holiday.jpg/1.jpg", "a/b.PNG/c.tiff/2.webp", "empty.heic/notes.txt")
    (tmp_path / "link.jpg").symlink_to("holiday.jpg")
    (tmp_path / "outside.gif").symlink_to(tmp_path.parent / "nowhere")
    assert find_images(tmp_path).keys == ["a/b.PNG/c.tiff/2.webp", "holiday.jpg/1.jpg", "outside.gif"]


def test_a_storage_s_own_folders_are_passed_over_but_walked_when_named(tmp_path: Path) -> None:
    own = ("@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found")
    fill(tmp_path, "a.jpg", *(f"{name}/b.jpg" for name in own), *(f"sub/{name}/c/d.jpg" for name in own))
    assert find_images(tmp_path) == Found(["a.jpg"])
    assert find_images(tmp_path / "@eaDir").keys == ["b.jpg"]


def test_files_of_such_names_are_the_user_s(tmp_path: Path) -> None:
    for name in ("lost+found", "#snapshot", "@tmp"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" + bytes(600))
    assert find_images(tmp_path).keys == ["#snapshot", "@tmp", "lost+found"]


def test_real_folders_are_all_walked_where_a_share_numbers_them_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a/1.jpg", "a/b/2.jpg", "c/3.jpg")
    stat = Path.stat

    def alike(path: Path, **options: bool) -> os.stat_result:
        fields = list(stat(path, **options))
        fields[1:3] = 7, 7
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "stat", alike)
    assert find_images(tmp_path).keys == ["a/1.jpg", "a/b/2.jpg", "c/3.jpg"]


def test_what_begins_like_a_picture_is_one_whatever_its_name(tmp_path: Path) -> None:
    pictures = ("IMG_0001", "photo.jpg.bak", "photo.jpg~", "a.b/0a3f", "upload.tmp", "x.dat", "é", "clip.THM")
    for name in pictures:
        fill(tmp_path, name)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" + bytes(600))
    fill(tmp_path, "notes", "x.bin", "README", "a.py")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"\xff")
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "fifo")
    assert find_images(tmp_path) == Found(sorted(pictures))


def test_what_lies_beside_pictures_is_not_even_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a.jpg", "a.json", "a.jpg.XMP", "b.mp4", "c.tar", "Thumbs.db", "d.parquet", ".hidden")
    opened = []
    monkeypatch.setattr(folder_walk, "open_regular", opened.append)
    assert find_images(tmp_path).keys == ["a.jpg"]
    assert opened == []


def test_without_the_name_of_a_picture_what_cannot_be_opened_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "IMG_1", "a.jpg")
    fail_below(tmp_path / "IMG_1", errno.EACCES, monkeypatch)
    assert find_images(tmp_path) == Found(["a.jpg"])


@pytest.mark.parametrize(
    "number, reason",
    [
        (errno.EACCES, "permission denied"),
        (errno.EIO, "cannot be opened: Input/output error"),
        (errno.ESTALE, "cannot be opened: Stale file handle"),
        (errno.ETIMEDOUT, "cannot be opened: Connection timed out"),
        (errno.ENAMETOOLONG, "cannot be opened: File name too long"),
    ],
)
def test_a_folder_that_cannot_be_listed_fails_by_name_and_stops_nothing(
    tmp_path: Path, number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a.jpg", "closed/b.jpg", "closed/sub/c.jpg", "d/e.jpg")
    fail_below(tmp_path / "closed", number, monkeypatch)
    assert find_images(tmp_path) == Found(["a.jpg", "d/e.jpg"], {"closed": reason})
    items = read(tmp_path)
    assert items[1] == Failure("closed", reason)
    assert [item.key for item in items] == ["a.jpg", "closed", "d/e.jpg"]
    with pytest.raises(OSError, match=os.strerror(number)):
        find_images(tmp_path / "closed")


def test_what_is_excluded_is_counted_and_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.jpg", "a.gif", "thumbs/b.jpg", "2019/thumbs/c.jpg", "2019/d.gif", "2019/e.jpg")
    fail_below(tmp_path / "thumbs", errno.EIO, monkeypatch)
    found = find_images(tmp_path, Excludes(["thumbs/", "*.gif"]))
    assert found == Found(["2019/e.jpg", "a.jpg"], {}, 4)


def test_a_link_to_itself_is_reported(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "maze").symlink_to("maze")
    assert read(tmp_path) == [Failure("loop.jpg", "broken symlink"), Failure("maze", "broken symlink")]


def test_parts_split_the_sorted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 3)
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
    monkeypatch.setattr(folder_walk, "PART_SIZE", 2)
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
