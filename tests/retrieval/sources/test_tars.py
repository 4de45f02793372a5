"""Walks over tars, whole, chained and damaged: what cannot be read is said, with how many bytes it is."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from small_tars import END, blocks, member, padded

from retrieval.errors import UnreadableImageError
from retrieval.sources.tars import Gap, Member, Span, walk

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FOUR = [member(f"{n}.jpg", bytes([n + 1]) * 700) for n in range(4)]  # of 1,536 bytes each, headers included
SIZE = 1536


def walked(path: Path, data: bytes) -> tuple[list[str], list[Gap]]:
    """Names of the members, and the gaps."""
    path.write_bytes(data)
    with path.open("rb") as file:
        found = list(walk(file))
    return [m.name for m in found if isinstance(m, Member)], [g for g in found if isinstance(g, Gap)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "x.tar"


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_read_where_they_lie(place: Path, form: int) -> None:
    names = ["a/b.jpg", "ü.png", "caf\udce9.jpg", "n" * 90 + ".jpg"]
    if form != tarfile.USTAR_FORMAT:
        names += ["long/" * 60 + "x.jpg", "ü" * 200]
    data = blocks(*(member(name, name.encode("utf-8", "replace")) for name in names), form=form)
    place.write_bytes(padded(data + END))
    with place.open("rb") as file:
        found = [m for m in walk(file) if isinstance(m, Member)]
        assert [m.name for m in found] == names
        for m in found:
            content = m.name.encode("utf-8", "replace")
            assert (m.read(), m.head()) == (content, content)
            assert place.read_bytes()[m.span.offset :][: m.span.size] == content


@pytest.mark.parametrize(
    "name, stem, suffix",
    [
        ("a.jpg", "a", "jpg"),
        ("a.b/c", "a.b/c", ""),
        ("a.b/c.d.PNG", "a.b/c.d", "png"),
        ("a.", "a", ""),
        ("x/St. Peter.jpg", "x/St. Peter", "jpg"),
    ],
)
def test_a_name_is_split_at_its_last_dot(name: str, stem: str, suffix: str, place: Path) -> None:
    with place.open("wb+") as file:
        found = Member(name, Span(0, 0), "", file)
    assert (found.stem, found.suffix) == (stem, suffix)


def sparse(size: int, *, real: int, more: bool = False) -> bytes:
    """The header of a GNU sparse member: `size` bytes are in the tar, `real` in the file."""
    header = bytearray(sized(size, kind=tarfile.GNUTYPE_SPARSE))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[482], header[483:495] = more, b"%011o\0" % real
    return sealed(header)


def sealed(header: bytearray) -> bytes:
    """With the checksum that it should have."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def sized(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims a size, which may be negative."""
    info = tarfile.TarInfo("x.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % 2**96).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    return sealed(header)


def test_what_is_no_file_is_a_member_that_cannot_be_read(place: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"?")
    data = blocks(*(member("a.jpg", kind=kind) for kind in kinds), member("d", kind=tarfile.DIRTYPE))
    data += sparse(512, real=4096) + bytes([1]) * 512
    place.write_bytes(padded(data + blocks(member("empty.jpg"), FOUR[0]) + END))
    with place.open("rb") as file:
        *bad, good = [m for m in walk(file) if isinstance(m, Member)]
        assert good.read() == FOUR[0][1]
        reasons = []
        for m in bad:
            assert m.head() == b""
            with pytest.raises(UnreadableImageError) as caught:
                m.read()
            reasons.append(str(caught.value))
    assert reasons == [
        *["jpg member: a link or a device, not a file"] * 5,
        "jpg member: stored with holes: pack the shard without --sparse",
        "jpg member: empty file (0 bytes)",
    ]


# --- several archives, and zeros ---

TWO, MORE = FOUR[:2], FOUR[2:]
CHAINS = {
    "tarfile's": padded(blocks(*TWO) + END) + padded(blocks(*MORE) + END),
    "bsdtar's": blocks(*TWO) + END + blocks(*MORE) + END,
    "mixed": blocks(*TWO) + END + padded(blocks(*MORE) + END),
    "an empty one first": bytes(10240) + padded(blocks(*FOUR) + END),
    "a lone block at the end": blocks(*FOUR) + bytes(512),
    "a tape's record at the end": padded(blocks(*FOUR) + END, 2**20),
    "cut in its padding": blocks(*FOUR) + bytes(700),
}


@pytest.mark.parametrize("data", CHAINS.values(), ids=CHAINS)
def test_ends_of_archives_are_no_end(data: bytes, place: Path) -> None:
    assert walked(place, data) == (["0.jpg", "1.jpg", "2.jpg", "3.jpg"], [])


def test_an_empty_archive_behind_another_cannot_be_told_from_a_hole(place: Path) -> None:
    """To say too much is the lesser evil: all members are read."""
    first, second = (padded(blocks(*some) + END) for some in (TWO, MORE))
    for data in (first + bytes(10240) + second, first + second + bytes(10240)):
        names, (gap,) = walked(place, data)
        assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
        assert "bytes are zeros, where members may have been" in gap.reason


def test_what_one_archive_says_of_all_its_members_is_not_said_of_the_next(place: Path) -> None:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", pax_headers={"path": "global.jpg"}) as tar:
            tar.addfile(FOUR[0][0], io.BytesIO(FOUR[0][1]))
        first = file.getvalue()
    assert walked(place, first + padded(blocks(FOUR[1]) + END)) == (["global.jpg", "1.jpg"], [])


@pytest.mark.parametrize("first, last", [(1, 2), (1, 3), (0, 2), (2, 3), (0, 1)])
def test_a_hole_is_said_and_the_rest_read(first: int, last: int, place: Path) -> None:
    data = bytearray(padded(blocks(*FOUR) + END))
    data[first * SIZE : last * SIZE] = bytes((last - first) * SIZE)
    names, (gap,) = walked(place, bytes(data))
    assert names == [f"{n}.jpg" for n in range(4) if not first <= n < last]
    assert gap == Gap(
        f"truncated or corrupt tar at byte {first * SIZE}: {(last - first) * SIZE} bytes are zeros, "
        "where members may have been",
        hides=True,
    )


def test_an_archive_that_begins_at_no_block_is_read(place: Path) -> None:
    names, (gap,) = walked(place, blocks(*TWO) + END + bytes(77) + blocks(*MORE) + END)
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert gap.reason == (
        "truncated or corrupt tar at byte 3072: 1101 bytes are zeros, where members may have been"
    )


@pytest.mark.parametrize("into", [1, 100, 512, 700])
def test_a_hole_that_ends_inside_a_member_says_how_many_bytes_were_not_read(into: int, place: Path) -> None:
    data = bytearray(padded(blocks(*FOUR) + END))
    data[SIZE : 2 * SIZE + into] = bytes(SIZE + into)
    names, (gap,) = walked(place, bytes(data))
    assert names == ["0.jpg"]
    behind = 2 * SIZE + into
    assert gap == Gap(
        f"truncated or corrupt tar at byte {behind}: {10240 - behind} bytes behind {behind - SIZE} zeros "
        "are no tar and were not read",
        hides=True,
    )


@pytest.mark.parametrize("zeros", [11 * 1024, 100_000, 2**27])
def test_more_zeros_at_the_end_than_any_padding_are_a_hole(zeros: int, place: Path) -> None:
    """Such as a download that broke off leaves, in a file that was given its size before."""
    place.write_bytes(blocks(*FOUR))
    with place.open("rb+") as file:
        file.truncate(4 * SIZE + zeros)
        *names, gap = walk(file)
    assert len(names) == 4
    assert gap == Gap(
        f"truncated or corrupt tar at byte {4 * SIZE}: {zeros} bytes are zeros, where members may have been",
        hides=True,
    )


# --- damage ---


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        b"\xaa" * 5000,
        gzip.compress(blocks(*TWO), mtime=0),
        blocks(*TWO)[100:],
        b"PK\3\4" + bytes(2000),
    ],
    ids=["text", "noise", "gzip", "half a tar", "zip"],
)
@pytest.mark.parametrize("end", [padded, lambda archive: archive], ids=["tarfile's", "bsdtar's"])
def test_junk_behind_the_end_is_said_and_nothing_before_it_lost(
    junk: bytes, end: Callable[[bytes], bytes], place: Path
) -> None:
    whole = end(blocks(*FOUR) + END)
    names, (gap,) = walked(place, whole + junk)
    assert len(names) == 4
    assert gap.reason.startswith(f"truncated or corrupt tar at byte {len(whole)}: {len(junk)} bytes behind ")
    assert gap.reason.endswith(" zeros are no tar and were not read")
    assert not gap.hides


def test_junk_between_members_is_said(place: Path) -> None:
    whole = padded(blocks(*FOUR) + END)
    for junk in (b"\xaa" * 512, b"junk", b"\xaa" * 9000):
        data = whole[: 2 * SIZE] + junk + whole[2 * SIZE :]
        assert walked(place, data) == (
            ["0.jpg", "1.jpg"],
            [
                Gap(
                    f"truncated or corrupt tar at byte {2 * SIZE} (no tar header): "
                    f"{len(data) - 2 * SIZE} bytes were not read",
                    hides=True,
                )
            ],
        )


@pytest.mark.parametrize("form", FORMATS)
def test_a_tar_that_breaks_off_anywhere_says_so(form: int, place: Path) -> None:
    members = [FOUR[0], member("a/" * 49 + "1.jpg", b"x" * 300), FOUR[2]]
    if form != tarfile.USTAR_FORMAT:
        members[1] = member("long/" * 60 + "1.jpg", b"x" * 300)
    starts = [len(blocks(*members[:n], form=form)) for n in range(4)]
    whole = padded(blocks(*members, form=form) + END)
    for cut in range(0, starts[-1] + 512, 64):
        names, gaps = walked(place, whole[:cut])
        ended = sum(cut >= end for end in starts[1:])
        assert names[:ended] == [info.name for info, _ in members[:ended]]
        assert len(names) <= ended + 1, "the last may be cut short"
        (gap,) = gaps
        assert f"at byte {starts[ended]} (" in gap.reason
        assert gap.hides


@pytest.mark.parametrize(
    "data", [b"", b"no tar at all", b"\x1f\x8b" + bytes(600), bytes(100), b"\xaa" * 5000]
)
def test_what_is_no_tar_is_one_gap(data: bytes, place: Path) -> None:
    names, (gap,) = walked(place, data)
    assert names == []
    assert gap.reason.startswith("truncated or corrupt tar at byte 0")


def pax(size: int, *fields: str) -> bytes:
    """A member of a size, with fields of an extended header before it."""
    info = tarfile.TarInfo("x.jpg")
    info.size = size
    info.pax_headers = dict(f.split("=") for f in fields)
    return info.tobuf(tarfile.PAX_FORMAT)


NESTED = sized(512, kind=tarfile.XHDTYPE) + bytes(512)
HOSTILE = {
    "negative": sized(-2048),
    "negative in a sparse one": sparse(-2048, real=512),
    "negative in pax": pax(0, "size=-2048"),
    "negative when whole": pax(0, "GNU.sparse.map=0,0", "GNU.sparse.size=-1"),
    "sparse without end": sparse(0, real=512, more=True),
    "larger than the file": sized(2**70),
    "larger than a number of the system": sized(2**63),
    "a long name of a gigabyte": sized(2**30, kind=tarfile.GNUTYPE_LONGNAME),
    "a negative long name": sized(-512, kind=tarfile.GNUTYPE_LONGNAME),
    "attributes of a gigabyte": sized(2**30, kind=tarfile.XHDTYPE),
    "headers in headers": NESTED * 3000,
    "no number": pax(0, "GNU.sparse.major=1", "GNU.sparse.minor=0") + b"x" * 512,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_end_the_walk_and_are_said(hostile: bytes, place: Path) -> None:
    names, (gap,) = walked(place, blocks(*TWO) + hostile + blocks(*MORE) + END)
    assert names[:2] == ["0.jpg", "1.jpg"]
    assert names[2:] in ([], ["x.jpg"])
    assert gap.reason.startswith(f"truncated or corrupt tar at byte {2 * SIZE} (")
    assert gap.reason.endswith(" bytes were not read")
    assert gap.reason.isprintable()
