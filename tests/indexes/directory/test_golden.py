"""Indexes of every format that was ever written open for ever, and go on in the format of today.

`golden_format_1` was made by the program that wrote format 1. `golden_format_2` was made by `made` below:

    cd tests/indexes/directory && PYTHONPATH=../../..:../../helpers python -c "
    from pathlib import Path; from test_golden import made; made(Path('golden_format_2'))"
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of, labels_of, paths_of, vectors_of
from resealed import GOLDEN, GOLDEN_2
from small_index import DIM, ENCODER, Row, build, contents, expected, fill, origin, rows_of

from indexes import Index, IndexWriter, WrongEncoderError, verify
from indexes.directory import change
from indexes.disk.rows import read_failures
from indexes.faiss_kinds.options import KindOptions

TOWER = dataclasses.replace(ENCODER, architecture="vit_clip", projection=DIM)
FIRST, SECOND = rows_of("a.tar", 7, label="cat"), rows_of("b.tar", 5, label="dog")
CALIBRATION = {
    "refits": None,
    "submodel": "384*12",
    "share_of_xl": 0.5,
    "max_drop": 0.005,
    "confidence": 0.95,
    "queries": 600,
    "losses": 0,
    "gains": 0,
    "check_queries": 0,
    "check_drop": None,
    "check_low": None,
    "check_high": None,
}


def made(out: Path) -> None:
    """Everything that an index of format 2 can have: a projection, a prefix, excludes, removed rows."""
    with IndexWriter(out, TOWER) as writer:
        fill(writer, [FIRST, SECOND], [("b.tar:9", "truncated image")])
        made_of = dataclasses.replace(origin(TOWER), excludes={"photos": ["*.tmp"]})
        writer.commit(made_of, KindOptions(factory="SQ8", rerank=10), key_prefix="2026/")
    change.note_calibration(out, CALIBRATION)
    change.remove(out, lambda index: index.with_keys(["2026/a.tar:1"]), command="matvit index remove")


def copied(golden: Path, out: Path) -> Path:
    return Path(shutil.copytree(golden, out))


def body_of(path: Path) -> dict[str, object]:
    body: dict[str, object] = json.loads((path / "manifest.json").read_bytes())
    return body


def test_format_2_opens_as_the_program_that_made_it_left_it(tmp_path: Path) -> None:
    out = copied(GOLDEN_2, tmp_path / "x.index")
    assert verify(out) == []
    index, everyone = Index.open(out), (*FIRST, *SECOND)
    there = [row for number, row in enumerate(everyone) if number != 1]  # which was removed
    assert keys_of(index) == [f"2026/{row.key}" for row in there]
    assert paths_of(index) == [row.path for row in there]
    assert labels_of(index) == ["cat"] * 6 + ["dog"] * 5
    vectors_ND = np.array([row.vector for row in everyone], np.float32)
    np.testing.assert_array_equal(vectors_of(index), np.delete(vectors_ND, 1, axis=0))
    nearest = [entries[0].key for entries in index.search(vectors_ND, 1).entries]
    assert nearest.pop(1) in keys_of(index)
    assert nearest == keys_of(index)
    manifest = index.manifest
    assert manifest.format_version == 2
    assert manifest.encoder == TOWER
    assert (manifest.kind.factory, manifest.kind.rerank) == ("SQ8", 10)
    assert manifest.key_prefixes == {"photos": "2026/"}
    assert manifest.excludes == {"photos": ["*.tmp"]}
    assert manifest.calibration == {**CALIBRATION, "rows": 12}
    assert manifest.to_json() == (GOLDEN_2 / "manifest.json").read_bytes()
    assert read_failures(out / "failures.parquet").to_pylist() == [
        {"key": "2026/b.tar:9", "reason": "truncated image"}
    ]


def test_what_is_written_today_is_format_2(tmp_path: Path) -> None:
    made(tmp_path / "x.index")
    today, golden = (body_of(path) for path in (tmp_path / "x.index", GOLDEN_2))
    for body in (today, golden):
        for name in ("created", "query_ms", "manifest_sha256", "files"):  # which times and libraries decide
            del body[name]
    assert today == golden
    assert contents(tmp_path / "x.index") == contents(GOLDEN_2)


def test_format_1_opens_without_a_projection(tmp_path: Path) -> None:
    index = Index.open(copied(GOLDEN, tmp_path / "x.index"))
    assert index.manifest.format_version == 1
    assert index.manifest.encoder == ENCODER
    assert index.manifest.encoder.projection is None


def test_format_1_is_added_to(tmp_path: Path) -> None:
    out = copied(GOLDEN, tmp_path / "x.index")
    before = contents(out)
    build(out, rows_of("c.tar", 3), extends=True)
    assert contents(out) == before | expected(rows_of("c.tar", 3))
    assert body_of(out)["format_version"] == 2
    assert verify(out) == []


def test_format_1_is_compacted(tmp_path: Path) -> None:
    out = copied(GOLDEN, tmp_path / "x.index")
    before = contents(out)
    change.gather([out], out, command="")
    assert contents(out) == before
    assert body_of(out)["format_version"] == 2
    assert Index.open(out).manifest.removed == 0


def test_formats_are_merged(tmp_path: Path) -> None:
    old, new = copied(GOLDEN, tmp_path / "old.index"), build(tmp_path / "new.index", rows_of("c.tar", 3))
    for paths in ([old, new], [new, old]):
        out = tmp_path / f"{paths[0].stem}.merged"
        change.gather(paths, out, command="")
        assert contents(out) == contents(old) | contents(new)
        assert body_of(out)["format_version"] == 2
        assert verify(out) == []


@pytest.mark.parametrize("compacted", [False, True])
def test_what_a_clip_tower_made_before_its_projection_is_to_be_built_again(
    tmp_path: Path, compacted: bool
) -> None:
    out = copied(GOLDEN, tmp_path / "x.index")
    if compacted:
        change.gather([out], out, command="")
    before = contents(out)
    tower = dataclasses.replace(ENCODER, weights_sha256="f" * 64, projection=4, embed_dim=4)
    with pytest.raises(WrongEncoderError, match="before its projection to 4 numbers: build it again"):
        build(out, [Row("c", "/c")], extends=True, encoder=tower)
    assert contents(out) == before


def test_parts_that_were_planned_under_format_1_are_not_repeated(tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    with IndexWriter(out, ENCODER) as writer:
        fill(writer, [FIRST])
    plan_file = tmp_path / "x.index.partial" / "plan.json"
    plan = json.loads(plan_file.read_bytes())
    del plan["encoder"]["projection"]
    plan_file.write_text(json.dumps(plan | {"format_version": 1}))
    for identity, is_kept in ((ENCODER, True), (TOWER, False)):
        with IndexWriter(out, identity) as writer:
            writer.plan([(name, fingerprint) for name, fingerprint in plan["parts"]])
            assert writer.is_done(0) == is_kept
