"""WebDataset shards, written by tarfile, whole and hostile."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tars import member, write

from indexes.disk.rows import read_rows, rows_table, write_table
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.sources import file_bytes as files
from retrieval.sources import shards
from retrieval.sources.open_images import open_source
from retrieval.sources.sample import Failure, Sample
from retrieval.sources.shards import locate


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
        Sample("x-0.tar:b/2", path, "7", {"caption": "ein Übermut", "id": "2"}, b"two"),
        Failure("x-0.tar:a", "no image in sample"),
        Sample("x-0.tar:日本", path, None, {}, b"three"),
        Sample("x-0.tar:__meta__/x", path, None, {}, b"webdataset's own"),
    ]


def with_json(place: Path, *texts: str | bytes) -> list[Sample | Failure]:
    """What is read of a shard of samples with these json members."""
    members = []
    for i, text in enumerate(texts):
        data = text if isinstance(text, bytes) else text.encode()
        members += [member(f"{i}.jpg", b"x"), member(f"{i}.json", data)]
    return read(write(place / "x.tar", *members))


def test_every_field_of_a_json_object_is_a_column(tmp_path: Path) -> None:
    text = """{"who": "Zoë \\u00e9", "year": 2019, "share": 0.50, "small": 1e-7, "yes": true,
               "no": false, "none": null, "empty": "", "deep": {"b": [1, null, "é"]}, "list": [],
               "many": 123456789012345678901}"""
    (sample,) = with_json(tmp_path, text)
    assert isinstance(sample, Sample)
    assert sample.extra == {
        "who": "Zoë é",
        "year": "2019",
        "share": "0.5",
        "small": "1e-07",
        "many": "123456789012345678901",
        "yes": "true",
        "no": "false",
        "empty": "",
        "deep": '{"b": [1, null, "é"]}',
        "list": "[]",
    }


def test_fields_never_take_the_place_of_other_columns(tmp_path: Path) -> None:
    names = ["key", "path", "label", "content", "state", "caption", "json", "", "json.key", "json.json.key"]
    names += ["Key", "jsonkey"]
    fields = {name: f"field {name}" for name in names}
    members = [
        member("0.jpg", b"x"),
        member("0.json", json.dumps(fields).encode()),
        member("0.txt", b"own caption"),
        member("0.cls", b"own label"),
    ]
    (sample,) = read(write(tmp_path / "x.tar", *members))
    assert isinstance(sample, Sample)
    assert (sample.key, sample.label, sample.extra["caption"]) == ("x.tar:0", "own label", "own caption")
    assert sample.extra == {"caption": "own caption"} | {
        name if name in ("Key", "jsonkey") else f"json.{name}": text for name, text in fields.items()
    }


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', " 7\n", "null", "true", "[]"])
def test_json_that_is_no_object_is_one_column_as_it_stands(tmp_path: Path, text: str) -> None:
    (sample,) = with_json(tmp_path, text)
    assert isinstance(sample, Sample)
    assert sample.extra == {"json": text}


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "json member is not valid JSON"),
        ('{"a": 1', "json member is not valid JSON"),
        ("{'a': 1}", "json member is not valid JSON"),
        ('{"a": ' + "1" * 5000 + "}", "json member is not valid JSON"),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "json member is not valid JSON"),
        ('{"a":' * 200_000, "json member is not valid JSON"),
        (b'{"a": "\xff"}', "json member is not UTF-8"),
        ('{"a\\ud800": 1}', r"json field 'a\\ud800' is not UTF-8"),
        ('{"a": "\\udfff"}', "json field 'a' is not UTF-8"),
        ('{"a": [{"\\udfff": 0}]}', "json field 'a' is not UTF-8"),
        (json.dumps(dict.fromkeys(map(str, range(65)))), "json member has 65 fields, over the limit of 64"),
    ],
    ids=range(11),
)
def test_hostile_json_costs_its_own_sample(tmp_path: Path, text: str | bytes, reason: str) -> None:
    before, failure, after = with_json(tmp_path, '{"a": 1}', text, '{"a": 2}')
    assert failure == Failure("x.tar:1", reason)
    assert isinstance(before, Sample)
    assert isinstance(after, Sample)
    assert (before.extra, after.extra) == ({"a": "1"}, {"a": "2"})


def test_as_many_fields_as_are_allowed(tmp_path: Path) -> None:
    (sample,) = with_json(tmp_path, json.dumps({str(i): i for i in range(64)}))
    assert isinstance(sample, Sample)
    assert sample.extra == {str(i): str(i) for i in range(64)}


def test_names_that_differ_from_sample_to_sample_cannot_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_MAX_COLUMNS", 3)
    found = with_json(
        tmp_path, '{"a": 0, "b": 0}', '{"b": 0, "c": 0}', '{"a": 0, "d": 0}', '{"a": 1, "c": 1}'
    )
    reason = "json fields of this shard are over 3 columns"
    assert [item.reason if isinstance(item, Failure) else item.extra for item in found] == [
        {"a": "0", "b": "0"},
        {"b": "0", "c": "0"},
        reason,
        {"a": "1", "c": "1"},
    ]


TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(JSON | st.dictionaries(TEXT, JSON, max_size=4), max_size=5), st.booleans())
def test_whatever_json_holds_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], escape: bool
) -> None:
    place = tmp_path_factory.mktemp("json")
    texts = [json.dumps(v, ensure_ascii=escape).encode("utf-8", "surrogatepass") for v in values]
    found = with_json(place, *texts)
    assert [item.key for item in found] == [f"x.tar:{i}" for i in range(len(values))]
    samples = [item for item in found if isinstance(item, Sample)]
    rows = [{**s.extra, "key": s.key, "path": s.path, "label": s.label} for s in samples]
    write_table(place / "rows.parquet", rows_table(rows))
    table = read_rows(place / "rows.parquet")
    assert set(table.schema.types) == {pa.string()}
    for row, sample in zip(table.to_pylist(), samples, strict=True):
        assert {name for name, text in row.items() if text is not None} == {"key", "path", *sample.extra}
        value = json.loads(texts[int(sample.key.partition(":")[2])])
        if isinstance(value, dict):
            kept = [content for content in value.values() if content is not None]
            assert len(sample.extra) == len(kept)
            for content, text in zip(kept, sample.extra.values(), strict=True):
                assert text == content or text == json.dumps(content, ensure_ascii=False)


def test_training_reads_no_text_but_the_label(tmp_path: Path) -> None:
    shard = write(
        tmp_path / "x.tar",
        member("0.jpg", b"x"),
        member("0.cls", b"a"),
        member("0.txt", b"\xff"),
        member("0.json", b"{"),
    )
    ((key, label, span),) = locate(shard)
    assert (key, label, shard.read_bytes()[span.offset :][: span.size]) == ("x.tar:0", "a", b"x")
    with pytest.raises(UnreadableImageError, match=r"x\.tar:0: cls member is not UTF-8"):
        list(locate(write(shard, member("0.jpg", b"x"), member("0.cls", b"\xff"))))


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
        ("{sub,./sub}/x-000.tar", "sub/x-000.tar comes twice: name every shard once"),
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
    reason = "jpg member: a link or a device, not a file"
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
    "names, keys",
    [
        (["a.jpg", "b.jpg", "a.png", "c.jpg"], ["a", "b", "c"]),
        (["a.jpg", "b.jpg", "a.cls", "c.jpg"], ["a", "b", "c"]),
        (["a.jpg", "a.jpg", "b.jpg"], ["a", "b"]),
        (["b.cls", "a.jpg", "b.jpg", "c.jpg"], ["a", "c"]),
    ],
)
def test_a_shard_in_the_wrong_order_stops_nothing_but_training(
    names: list[str], keys: list[str], tmp_path: Path
) -> None:
    shard = write(tmp_path / "x.tar", *(member(name, b"x") for name in names))
    write(tmp_path / "y.tar", member("0.jpg", b"x"))
    found = read(tmp_path)
    assert [item.key for item in found if isinstance(item, Sample)] == [
        *(f"x.tar:{key}" for key in keys),
        "y.tar:0",
    ]
    assert sum("tar --sort=name" in item.reason for item in found if isinstance(item, Failure)) == 1
    with pytest.raises(UnreadableImageError, match=r"x\.tar:b: no image in|x\.tar:a\.\w+: .* --sort=name"):
        list(locate(shard))


def test_the_fingerprint_changes_with_the_shard(tmp_path: Path) -> None:
    shard = write(tmp_path / "x.tar", member("a.jpg", b"a"))
    before = open_source(shard).parts[0].fingerprint
    assert open_source(shard).parts[0].fingerprint == before
    os.utime(shard, ns=(0, 1))
    assert open_source(shard).parts[0].fingerprint != before
