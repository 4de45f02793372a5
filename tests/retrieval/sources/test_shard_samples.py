"""Members of shards to images and their texts, by names of every kind and in every order."""

import tarfile
from pathlib import Path

import pytest
from small_tars import END, TarMember, blocks, member, padded, write

from retrieval.sources.sample import Failure
from retrieval.sources.shard_samples import shard_images
from retrieval.sources.tars import walk


def images(place: Path) -> dict[str, str]:
    """The images of a shard: of each key its member, and texts where it has any; or the reason it fails."""
    with place.open("rb") as file:
        found = list(shard_images(place.name, walk(file)))
    told = [
        (each.key, each.reason)
        if isinstance(each, Failure)
        else (each.key, " ".join([each.member.name, *sorted(text.name for text in each.texts.values())]))
        for each in found
    ]
    assert len(dict(told)) == len(told), "no two of them have one key"
    return dict(told)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "x.tar"


def of(place: Path, *names: str) -> dict[str, str]:
    return images(write(place, *(member(name, b"x") for name in names)))


LATE = (
    "its sample came before: name every sample differently and pack the shard with tar --sort=name, "
    "so that its members lie together"
)
TWICE = LATE.replace("its sample", "a member of this name")


# --- names ---


def test_names_of_screenshots_are_names(place: Path) -> None:
    names = [f"Screenshot 2024-01-05 at 10.3{n}.00.jpg" for n in range(9)]
    assert of(place, *names) == {f"x.tar:{name[:-4]}": name for name in names}


@pytest.mark.parametrize(
    "name",
    [
        "St. Peter.jpg",
        "v1.0/St. Peter.png",
        "a.b.c.d.tif",
        "a..jpg",
        "1.2.JPEG",
        "a.jpg.png",
        "cat.cls.gif",
        "dots" + "." * 200 + "png",
        "new\nline.x\ny.bmp",
        "own.__key__.jpg",
        "x.avif",
        "x.heic",
        "x.jp2",
        "x.svg",
        "./x.webp",
        " .jpg",
    ],
)
def test_whatever_is_named_like_a_picture_is_one(name: str, place: Path) -> None:
    assert of(place, name) == {f"x.tar:{name.rpartition('.')[0]}": name}


@pytest.mark.parametrize("name", ["IMG_0001", "a/b.c/d", "photo.bin", "scan.x.dat", "image.", "x.__own__"])
def test_whatever_begins_like_a_picture_is_one(name: str, place: Path) -> None:
    write(place, member(name, b"\xff\xd8\xff\xe0" + bytes(600)), member("z.jpg", b"x"))
    folder, slash, base = name.rpartition("/")
    stem = base.rpartition(".")[0] or base
    assert images(place) == {f"x.tar:{folder}{slash}{stem}": name, "x.tar:z": "z.jpg"}


def test_all_others_are_not_ours(place: Path) -> None:
    names = ["a.jpg", "a.npy", "a.mp3", "a.seg.npy", "a.meta.json", "readme", "._a.jpg", "b/.hidden.png"]
    assert of(place, *names, "__meta__.__x__") == {"x.tar:a": "a.jpg"}


@pytest.mark.parametrize("names", [["a.cls"], ["a.npy"], ["a.txt", "a.json"], ["a.cls", "a.seg.npy"]])
def test_a_sample_without_an_image_is_a_failure(names: list[str], place: Path) -> None:
    assert of(place, *names, "b.jpg") == {"x.tar:a": "no image in sample", "x.tar:b": "b.jpg"}


def test_a_text_without_an_image_among_others_is_a_failure(place: Path) -> None:
    assert of(place, "at 10.30.jpg", "at 10.31.txt", "at 10.32.npy", "at 10.33.jpg", "at 10.33.txt") == {
        "x.tar:at 10.30": "at 10.30.jpg",
        "x.tar:at 10.31": "no image in sample",
        "x.tar:at 10.33": "at 10.33.jpg at 10.33.txt",
    }


def test_links_and_names_that_are_no_utf8_are_failures_of_their_own(place: Path) -> None:
    write(place, member("a.jpg", kind=tarfile.SYMTYPE, target="b.jpg"), member("caf\udce9.jpg", b"x"))
    assert images(place) == {"x.tar:a": "a.jpg", "x.tar:caf\\udce9": "member name is not UTF-8"}


# --- texts ---


def test_texts_go_with_the_images_of_their_stem(place: Path) -> None:
    assert of(
        place,
        "St. Paul.cls",
        "St. Paul.jpg",
        "St. Peter.jpg",
        "St. Peter.TXT",
        "St. Peter.json",
        "a/b.cls",
        "a/b.png",
    ) == {
        "x.tar:St. Paul": "St. Paul.jpg St. Paul.cls",
        "x.tar:St. Peter": "St. Peter.jpg St. Peter.TXT St. Peter.json",
        "x.tar:a/b": "a/b.png a/b.cls",
    }


def test_images_of_one_sample_share_its_texts(place: Path) -> None:
    """As webdataset writes them, in whatever order."""
    for names in (
        ["s0.cls", "s0.left.jpg", "s0.left.txt", "s0.right.jpg", "s0.txt"],
        ["s0.right.jpg", "s0.txt", "s0.left.txt", "s0.left.jpg", "s0.cls"],
    ):
        assert of(place, *names) == {
            "x.tar:s0.left": "s0.left.jpg s0.cls s0.left.txt",
            "x.tar:s0.right": "s0.right.jpg s0.cls s0.txt",
        }


def test_the_longest_beginning_of_a_stem_counts(place: Path) -> None:
    names = ["a.b.c.d.jpg", "a.cls", "a.b.cls", "a.b.txt", "a.b.c.txt", "a.json", "a.b.x.json"]
    assert of(place, *names) == {"x.tar:a.b.c.d": "a.b.c.d.jpg a.b.c.txt a.b.cls a.json"}


def test_beginnings_end_at_dots_of_the_file_s_own_name(place: Path) -> None:
    assert of(place, "v1.cls", "v1.0/a.jpg", "v1.0/ab.jpg", "v1.0/a.txt") == {
        "x.tar:v1": "no image in sample",
        "x.tar:v1.0/a": "v1.0/a.jpg",
        "x.tar:v1.0/ab": "v1.0/ab.jpg",
        "x.tar:v1.0/a.txt": LATE,
    }


def test_two_texts_of_one_kind_are_a_problem_of_their_image(place: Path) -> None:
    write(place, member("a.jpg", b"x"), member("a.cls", b"1"), member("a.CLS", b"2"))
    with place.open("rb") as file:
        (found,) = shard_images("x.tar", walk(file))
    assert not isinstance(found, Failure)
    assert found.texts["cls"].problem == LATE.replace("its sample came before", "comes twice")


# --- keys ---


@pytest.mark.parametrize("names", [["a.jpg", "a.png"], ["a.png", "a.jpg"]])
def test_the_image_that_a_key_always_meant_keeps_it(names: list[str], place: Path) -> None:
    assert of(place, *names, "a.cls") == {"x.tar:a": "a.jpg a.cls", "x.tar:a.png": "a.png a.cls"}


def test_jpg_jpeg_png_and_webp_come_first_in_this_order(place: Path) -> None:
    names = ["a.gif", "a.webp", "a.png", "a.jpeg", "a.JPG", "a.avif"]
    for n in range(4):
        some = names[: 5 - n] + names[5:]
        first = names[4 - n]
        assert of(place, *some) == {f"x.tar:{'a' if name == first else name}": name for name in some}
    assert of(place, "a.gif", "a.avif") == {"x.tar:a": "a.gif", "x.tar:a.avif": "a.avif"}


def test_keys_differ_whatever_the_names(place: Path) -> None:
    assert of(place, "a.png.gif", "a.jpg", "a.png") == {
        "x.tar:a": "a.jpg",
        "x.tar:a.png": "a.png",
        "x.tar:a.png.gif": "a.png.gif",
    }
    names = ["a.jpg", "a.png", "a.png.jpg", "a.png.jpg.gif"]
    assert of(place, *names) == {"x.tar:a": "a.jpg"} | {f"x.tar:{name}": name for name in names[1:]}


# --- order ---


@pytest.mark.parametrize(
    "names, late",
    [
        (["a.jpg", "b.jpg", "a.png"], ["a.png"]),
        (["a.jpg", "b.jpg", "a.cls"], ["a.cls"]),
        (["a.jpg", "b.jpg", "a.cls", "c.jpg", "a.txt"], ["a.cls", "a.txt"]),
        (["s0.left.jpg", "b.jpg", "s0.cls"], ["s0.cls"]),
        (["a.jpg", "a.cls", "b.jpg", "a.jpg", "a.cls"], ["a.jpg", "a.cls"]),
        (["a/a.jpg", "b.jpg", "a/a.jpg"], ["a/a.jpg"]),
        (["St.jpg", "St.txt", "b.jpg", "St. Paul.jpg"], ["St. Paul.jpg"]),
        (["a.jpg", "a.png", "b.jpg", "a.png.jpg"], ["a.png.jpg"]),
    ],
)
def test_members_that_come_too_late_are_failures_and_the_rest_is_read(
    names: list[str], late: list[str], place: Path
) -> None:
    found = of(place, *names, "z.jpg", "z.cls")
    assert {key: found.pop(key) for key in [f"x.tar:{name}" for name in late]} == {
        f"x.tar:{name}": LATE for name in late
    }
    assert "x.tar:z" in found
    assert not any("came before" in each or "no image" in each for each in found.values())


def test_an_image_whose_texts_came_before_is_a_failure(place: Path) -> None:
    names = ["a.cls", "b.jpg", "a.jpg", "s0.txt", "c.jpg", "s0.left.jpg"]
    assert of(place, *names) == {
        "x.tar:a": "no image in sample",
        "x.tar:b": "b.jpg",
        "x.tar:a.jpg": LATE,
        "x.tar:s0": "no image in sample",
        "x.tar:c": "c.jpg",
        "x.tar:s0.left.jpg": LATE,
    }


def test_photographs_may_come_in_any_order(place: Path) -> None:
    names = ["IMG.2.jpg", "St. Peter.jpg", "IMG.1.jpg", "St.jpg", "IMG.jpg", "St. Paul.jpg", "IMG.3.npy"]
    found = of(place, *names, "St. James.jpg", "St. James.txt", "IMG.xmp", "St. John.jpg")
    assert found.pop("x.tar:St. James") == "St. James.jpg St. James.txt"
    assert found == {f"x.tar:{name[:-4]}": name for name in [*names[:-1], "St. John.jpg"]}


def test_a_member_that_comes_twice_is_read_once(place: Path) -> None:
    assert of(place, "a.jpg", "a.jpg", "a.cls", "b.jpg") == {
        "x.tar:a": "a.jpg a.cls",
        "x.tar:a.jpg": TWICE,
        "x.tar:b": "b.jpg",
    }


def test_samples_go_on_in_the_next_archive(place: Path) -> None:
    place.write_bytes(
        blocks(member("a.jpg", b"x"))
        + END
        + padded(blocks(member("a.cls", b"1"), member("b.jpg", b"x")) + END)
    )
    assert images(place) == {"x.tar:a": "a.jpg a.cls", "x.tar:b": "b.jpg"}


# --- damage ---

DAMAGED = "the shard is damaged at this sample, of which a part may be lost"


def pairs(count: int) -> list[TarMember]:
    return [member(f"{n}.{kind}", b"x" * 300) for n in range(count) for kind in ("cls", "jpg")]


def test_samples_beside_a_hole_are_failures(place: Path) -> None:
    data = bytearray(padded(blocks(*pairs(6)) + END))
    data[5 * 1024 : 8 * 1024] = bytes(3 * 1024)  # from the image of the third to that of the fourth
    place.write_bytes(data)
    found = images(place)
    assert "3072 bytes are zeros" in found.pop("x.tar")
    assert found == {
        "x.tar:0": "0.jpg 0.cls",
        "x.tar:1": "1.jpg 1.cls",
        "x.tar:4": DAMAGED,
        "x.tar:5": "5.jpg 5.cls",
    }


def test_the_sample_that_a_tar_breaks_off_in_is_a_failure(place: Path) -> None:
    place.write_bytes(blocks(*pairs(3))[: 5 * 1024 + 600])
    found = images(place)
    assert "the file ends inside 2.jpg" in found.pop("x.tar")
    assert found == {"x.tar:0": "0.jpg 0.cls", "x.tar:1": "1.jpg 1.cls", "x.tar:2": DAMAGED}


def test_junk_behind_the_end_costs_no_sample(place: Path) -> None:
    place.write_bytes(padded(blocks(*pairs(2)) + END) + b"junk")
    found = images(place)
    assert "4 bytes behind" in found.pop("x.tar")
    assert found == {"x.tar:0": "0.jpg 0.cls", "x.tar:1": "1.jpg 1.cls"}
