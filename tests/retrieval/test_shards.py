"""WebDataset shards, written by tarfile, whole and hostile."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval import files
from retrieval.errors import ImageSourceError
from retrieval.images import open_source
from retrieval.samples import Failure, Sample


def member(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    return info, data


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def read(text: str | Path) -> list[Sample | Failure]:
    return [sample for part in open_source(text).parts for sample in part.read()]


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_samples_carry_labels_captions_and_json(tmp_path: Path) -> None:
    shard = write(
        tmp_path / "x-0.tar",
        member("b/2.JPG", b"two"),
        member("b/2.cls", b" 7\n"),
        member("b/2.txt", "ein Übermut".encode()),
        member("b/2.json", b'{"id": 2}'),
        member("a.npy", b"no image"),
        member("日本.webp", b"three"),
        member("b/readme", b"no suffix"),
        member("__meta__/x.jpg", b"webdataset's own"),
    )
    path = str(shard)
    assert read(shard) == [
        Sample("x-0.tar:b/2", path, "7", {"caption": "ein Übermut", "json": '{"id": 2}'}, b"two"),
        Failure("x-0.tar:a", "no image in sample"),
        Sample("x-0.tar:日本", path, None, {}, b"three"),
        Sample("x-0.tar:__meta__/x", path, None, {}, b"webdataset's own"),
    ]


def test_braces_and_wildcards_name_the_same_shards(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"x-{number:03}.tar", member(f"{number}.png", b"p"))
    keys = [f"x-{number:03}.tar:{number}" for number in range(3)]
    for text in (
        f"{tmp_path}/x-{{000..002}}.tar",
        f"{tmp_path}/x-*.tar",
        f"{tmp_path}/x-00[012].tar",
        str(tmp_path),
    ):
        source = open_source(text)
        assert [sample.key for part in source.parts for sample in part.read()] == keys
        assert [part.name for part in source.parts] == ["x-000.tar", "x-001.tar", "x-002.tar"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("x-{000..001}.tar", "x-001.tar: no such file"),
        ("y-*.tar", r"y-\*.tar: no shard matches"),
        ("x-{000.tar", "cannot be expanded"),
        ("${NOWHERE}.tar", "cannot be expanded"),
        ("{sub/,}x-000.tar", "2 shards have this file name"),
        ("folder.tar::x-000.tar", "folder.tar: is a directory"),
        ("fifo.tar", r"not a regular file \(FIFO\)"),
    ],
)
def test_shards_that_cannot_be_used_are_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "fifo.tar")
    write(tmp_path / "x-000.tar", member("0.png", b"p"))
    write(tmp_path / "sub" / "x-000.tar", member("0.png", b"p"))
    with pytest.raises(ImageSourceError, match=message):
        open_source(text)


@pytest.mark.parametrize(
    "text",
    [
        "pipe:touch marker.tar",
        " pipe:touch marker.tar",
        "PIPE:touch marker ; cat x.tar",
        "x.tar::pipe:touch marker.tar",
        "{pipe:touch marker,x}.tar",
        "${PIPE}.tar",
        "http://localhost/x.tar",
        "s3://bucket/x.tar",
        "file:x.tar",
    ],
)
def test_anything_with_a_scheme_is_refused_and_runs_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WDS_PIPE", "pipe:touch marker")
    write(tmp_path / "x.tar", member("0.png", b"p"))
    with pytest.raises(ImageSourceError, match=": is not read; understood are"):
        read(text)
    assert tree(tmp_path) == [tmp_path / "x.tar"]


def test_hostile_members_write_and_follow_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    absolute = str(tmp_path / "absolute")
    shard = write(
        tmp_path / "in" / "x.tar",
        member("../up.jpg", b"up"),
        member(f"{absolute}.jpg", b"absolute"),
        member("soft.jpg", kind=tarfile.SYMTYPE, target="../secret.jpg"),
        member("hard.jpg", kind=tarfile.LNKTYPE, target="../up.jpg"),
        member("device.jpg", kind=tarfile.CHRTYPE),
        member("fifo.jpg", kind=tarfile.FIFOTYPE),
        member("folder.jpg", kind=tarfile.DIRTYPE),
        member("caf\udce9.jpg", b"not UTF-8"),
        member("text.jpg", b"t"),
        member("text.cls", b"\xff"),
        member("own.__key__", b"x"),
        member("._own.jpg", b"what macOS adds"),
    )
    before = tree(tmp_path)
    reason = "jpg member is a link or a device, not a file"
    assert read(shard) == [
        Sample("x.tar:../up", str(shard), None, {}, b"up"),
        Sample(f"x.tar:{absolute}", str(shard), None, {}, b"absolute"),
        *(Failure(f"x.tar:{stem}", reason) for stem in ("soft", "hard", "device", "fifo")),
        Failure("x.tar:caf\\udce9", "member name is not UTF-8"),
        Failure("x.tar:text", "cls member is not UTF-8"),
    ]
    assert tree(tmp_path) == before


def test_members_of_no_size_or_too_much_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    shard = write(
        tmp_path / "x.tar",
        member("a.jpg", bytes(11)),
        member("b.jpg"),
        member("c.jpg", bytes(10)),
        member("c.cls"),
        member("d.jpg", bytes(10)),
        member("d.json", bytes(11)),
    )
    assert read(shard) == [
        Failure("x.tar:a", "jpg member: 11 bytes are over the limit of 10"),
        Failure("x.tar:b", "jpg member: empty file (0 bytes)"),
        Sample("x.tar:c", str(shard), None, {}, bytes(10)),
        Failure("x.tar:d", "json member: 11 bytes are over the limit of 10"),
    ]


def cut_inside(data: bytes) -> bytes:
    return data[: 5 * 1024 + 600]  # into the image of the third pair


def cut_between(data: bytes) -> bytes:
    return data[: 5 * 1024]


def damage_header(data: bytes) -> bytes:
    return data[: 5 * 1024] + b"\xaa" * 512 + data[5 * 1024 + 512 :]


def negative_size(data: bytes) -> bytes:
    info = tarfile.TarInfo("2.cls")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 8 + (-2048 % 2**32).to_bytes(4, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[: 5 * 1024] + bytes(header) + data[5 * 1024 + 512 :]


@pytest.mark.parametrize("damage", [cut_inside, cut_between, damage_header, negative_size])
def test_a_damaged_shard_yields_what_is_whole_and_one_failure(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    pairs = [member(f"{number}.{kind}", b"x" * 300) for number in range(4) for kind in ("jpg", "cls")]
    shard = write(tmp_path / "x.tar", *pairs)
    shard.write_bytes(damage(shard.read_bytes()))
    *samples, failure = read(shard)
    assert [sample.key for sample in samples] == ["x.tar:0", "x.tar:1"]
    assert isinstance(failure, Failure)
    assert failure.key == "x.tar"
    assert failure.reason.startswith("truncated or corrupt tar near byte ")


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"\x1f\x8b" + bytes(600)])
def test_what_is_no_tar_is_one_failure(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    (failure,) = read(tmp_path / "x.tar")
    assert failure.key == "x.tar"


def test_a_shard_that_vanished_is_one_failure(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "x.tar", member("a.jpg", b"a")))
    (tmp_path / "x.tar").unlink()
    assert list(source.parts[0].read()) == [Failure("x.tar", "no such file")]


@pytest.mark.parametrize(
    "names", [["a.jpg", "a.JPG"], ["a.jpg", "b.jpg", "a.jpg"], ["a.jpg", "b.jpg", "a.cls"]]
)
def test_keys_that_come_twice_are_named(names: list[str], tmp_path: Path) -> None:
    shard = write(tmp_path / "x.tar", *(member(name, b"x") for name in names))
    with pytest.raises(ImageSourceError, match=r'"a(\.JPG)?" comes twice'):
        read(shard)


def test_the_fingerprint_changes_with_the_shard(tmp_path: Path) -> None:
    shard = write(tmp_path / "x.tar", member("a.jpg", b"a"))
    before = open_source(shard).parts[0].fingerprint
    assert open_source(shard).parts[0].fingerprint == before
    os.utime(shard, ns=(0, 1))
    assert open_source(shard).parts[0].fingerprint != before
