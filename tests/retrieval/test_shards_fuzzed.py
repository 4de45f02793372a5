"""A hundred shards of odd names, in any order, chained and damaged: no image member goes without a word.

Each image that was put in is one row or one failure of its own, with one exception: of bytes that were
overwritten, cut off or come after the damage, nobody can know what they were. All of those together are one
failure of the shard, which says how many bytes it is.
"""

import random
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_tars import END, TarMember, blocks, member, padded

from retrieval.errors import UnreadableImageError
from retrieval.sources.open_images import open_source
from retrieval.sources.originals import originals
from retrieval.sources.sample import Failure, Sample
from retrieval.sources.shards import locate

SUFFIXES = ("jpg", "JPG", "jpeg", "png", "webp", "gif", "tiff", "bmp", "avif", "heic", "jp2")
BAD_TEXT = {"cls": b"\xff", "txt": b"\xfe\xfe", "json": b"{'"}
WHY = re.compile(
    r"\w+ member: (a link or a device, not a file|empty file \(0 bytes\))|"
    r"(cls|txt) member is not UTF-8|json member is not valid JSON|"
    r"(its sample came before|a member of this name came before|\w+ member: comes twice): .* --sort=name.*|"
    r"the shard is damaged at this sample, of which a part may be lost"
)


@dataclass(frozen=True)
class Put:
    """A member that was put in: whether as an image, and what must become of it."""

    member: TarMember
    is_image: bool
    fails: bool = False

    @property
    def name(self) -> str:
        return self.member[0].name


def stems(draw: random.Random) -> Iterator[str]:
    """Different ones, of samples; what is before their first dot is often the same."""
    for n in range(100):
        yield draw.choice(
            [
                f"{n:05}",
                f"Screenshot 2024-01-05 at 10.31.{n:02}",
                f"St. Peter {n}",
                f"v1.0/deep.er/{n}",
                f"ü {n}. é",
                f"{'long/' * 40}{n}",
                f"a.b.{n}.",
            ]
        )


def sample(draw: random.Random, stem: str) -> list[Put]:
    """Its images, texts and other members, sorted by name."""
    bad = draw.choice(list(BAD_TEXT)) if draw.random() < 0.1 else ""
    made = []
    for suffix, text in BAD_TEXT.items():
        if suffix == bad or draw.random() < 0.3:
            made.append(Put(member(f"{stem}.{suffix}", text if suffix == bad else b"7"), is_image=False))
    if draw.random() < 0.3:
        made.append(Put(member(f"{stem}.npy", b"x" * 700), is_image=False))
    names = [f"{stem}.{suffix}" for suffix in draw.sample(SUFFIXES, draw.choice([1, 1, 1, 2, 3]))]
    if draw.random() < 0.2:
        names = [f"{stem}.left.jpg", f"{stem}.right.jpg"]
    for name in names:
        data = draw.randbytes(draw.randint(600, 1500))
        match draw.random():
            case chance if chance < 0.03:
                made.append(Put(member(name, kind=tarfile.SYMTYPE, target="a.jpg"), True, fails=True))
            case chance if chance < 0.06:
                made.append(Put(member(name), True, fails=True))
            case _:
                made.append(Put(member(name, data), True, fails=bool(bad)))
    return sorted(made, key=lambda put: put.name)


def archives(draw: random.Random, put: list[Put]) -> tuple[bytes, list[int]]:
    """One tar or several behind each other, and where each begins."""
    form = draw.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    cuts = sorted(draw.sample(range(len(put)), draw.choice([0, 0, 1, 2])))
    whole, starts = b"", []
    for start, stop in zip([0, *cuts], [*cuts, len(put)], strict=True):
        if start < stop:
            starts.append(len(whole))
            one = blocks(*(each.member for each in put[start:stop]), form=form) + END
            whole += draw.choice([one, padded(one)])
    return whole, starts


def damaged(
    draw: random.Random, data: bytes, put: list[Put], at: list[tarfile.TarInfo], starts: list[int], kind: str
) -> tuple[bytes, list[Put]]:
    """A shard with damage, and what is left to be found in it."""
    i = draw.randrange(len(put))
    begin = at[i].offset
    match kind:
        case "header":
            return data[:begin] + draw.randbytes(512) + data[begin + 512 :], put[:i]
        case "cut":
            # Of a tar that ends where an archive in it does, nothing tells that more came behind it.
            end = next(
                cut
                for cut in iter(lambda: draw.randint(begin, len(data.rstrip(b"\0"))), None)
                if data[max(0, cut - 512) : cut].strip(b"\0") or not cut
            )
            # A member that is cut short is told by its header.
            return data[:end], [each for each, info in zip(put, at, strict=True) if info.offset_data <= end]
        case "zeros to the end":
            return data[:begin] + bytes(2**21), put[:i]
        case "hole":
            # Zeros of the length of an archive's end, up to where a record ends, are one.
            ends = [
                j
                for j in range(i + 1, len(put))
                if at[j].offset - begin > 1024 and all((at[j].offset - s) % 10240 for s in starts)
            ]
            if ends:
                j = draw.choice(ends)
                end = at[j].offset
                return data[:begin] + bytes(end - begin) + data[end:], put[:i] + put[j:]
    return data + b"junk", put


@pytest.mark.parametrize("seed", range(100))
def test_every_image_is_a_row_or_one_failure(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    put = [each for stem in list(stems(draw))[: draw.randint(3, 25)] for each in sample(draw, stem)]
    order = draw.choice(["sorted", "sorted", "shuffled", "twice"])
    if order == "shuffled":
        draw.shuffle(put)
    if order == "twice":
        for each in draw.sample(put, 3):
            put.insert(draw.choice([put.index(each), len(put)]), each)
    path = tmp_path / "x.tar"
    data, starts = archives(draw, put)
    path.write_bytes(data)
    with tarfile.open(path, ignore_zeros=True) as tar:
        at = tar.getmembers()
    damage = draw.choice(["", "", "header", "cut", "zeros to the end", "hole", "junk"])
    left = put
    if damage:
        data, left = damaged(draw, data, put, at, starts, damage)
        path.write_bytes(data)

    (part,) = open_source(path).parts
    found = list(part.read())
    assert list(part.read()) == found
    rows = [item for item in found if isinstance(item, Sample)]
    failures = [item for item in found if isinstance(item, Failure)]
    of_shard = [failure for failure in failures if failure.key == "x.tar"]
    of_texts = [
        failure
        for failure in failures
        if failure.reason == "no image in sample"
        or failure.key.endswith(tuple(f".{kind}" for kind in BAD_TEXT))
    ]
    of_images = [failure for failure in failures if failure not in of_shard + of_texts]

    images = [each for each in left if each.is_image]
    assert len(rows) + len(of_images) == len(images)
    names = {f"x.tar:{name}" for each in images for name in (each.name, each.name.rpartition(".")[0])}
    assert {item.key for item in rows + of_images} <= names
    assert len({row.key for row in rows}) == len(rows)
    assert not Counter(row.data for row in rows) - Counter(each.member[1] for each in images)
    assert all(WHY.fullmatch(failure.reason) for failure in of_images)
    assert all(re.search(r"\d+ bytes|what came after it is missing", failure.reason) for failure in of_shard)
    if damage:
        assert of_shard
    else:
        assert not of_shard
    if order == "sorted" and damage in ("", "junk"):
        assert {row.data for row in rows} == {each.member[1] for each in images if not each.fails}
        assert not of_texts

    for key, bytes_again in originals(str(path), [row.key for row in rows]):
        assert bytes_again == next(row.data for row in rows if row.key == key)
    unsaid = [failure for failure in failures if re.match("(txt|json) member", failure.reason)]
    if len(unsaid) < len(failures):
        with pytest.raises(UnreadableImageError) as caught:
            list(locate(path))
        assert any(str(caught.value) == f"{failure.key}: {failure.reason}" for failure in failures)
        return
    located = {key: (label, data[span.offset :][: span.size]) for key, label, span in locate(path)}
    assert len(located) == len(rows) + len(unsaid)
    assert {row.key: (row.label, row.data) for row in rows}.items() <= located.items()
