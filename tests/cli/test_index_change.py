"""`matvit index remove`, `compact`, `merge` and `export`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from entries import keys_of, paths_of, vector_of_key
from small_world import files_of

from indexes import Index, verify
from retrieval import Encoder, build_index, open_source


@pytest.fixture
def out(index: Path, tmp_path: Path) -> Path:
    """Forty images of five classes, to be changed."""
    return shutil.copytree(index, tmp_path / "i")


def one_line(done: Any, message: str, code: int = 2) -> None:
    assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1), done.err
    assert message in done.err


def live(index: Path) -> dict[str, np.ndarray]:
    """Key -> vector of all that can be found."""
    return vector_of_key(Index.open(index))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


# --- remove ---


def test_removed_rows_are_found_no_more(matvit: Callable, out: Path, corpus: Path) -> None:
    ask = ("query", corpus / "red" / "01.png", "-i", out, "-k", 40, "--json")
    keys = ["red/01.png", "blue/00.jpg"]
    done = matvit("index", "remove", "-i", out, *keys)
    assert (done.code, done.out, done.err) == (0, "", f"2 rows removed: {out}\n")
    record = json.loads(matvit(*ask).out)
    assert record["searched"] == "38 rows one by one"
    found = [hit["key"] for hit in record["hits"]]
    assert (len(found), set(found) & set(keys)) == (38, set())
    assert matvit(
        "index", "remove", "-i", out, "--where", "label = 'checks' or key like '%.jpg'"
    ).err.startswith("15 ")
    assert len(live(out)) == 23
    assert verify(out) == []
    one_line(matvit("query", "--key", "red/01.png", "-i", out), "has no row with the key 'red/01.png'")


def test_a_condition_that_no_row_meets_removes_none(matvit: Callable, out: Path) -> None:
    before = (out / "manifest.json").read_bytes()
    done = matvit("index", "remove", "-i", out, "--where", "label = 'violet'")
    assert (done.code, done.err) == (0, f"0 rows removed: {out}\n")
    assert (out / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message, code",
    [
        ((), "say which rows: by key, or by --where", 2),
        (("--where", ""), "say which rows: by key, or by --where", 2),
        (("red/01.png", "--where", "label = 'red'"), "say which rows: by key, or by --where", 2),
        (("red/nowhere.png",), "has no row with the key 'red/nowhere.png'", 2),
        (("red/01.png", "\x1b[31m\n"), "has no row with the key", 2),
        (("--where", "label ="), "filter, character 8: expected", 2),
        (("--where", "colour = 'red'"), "there is no column colour: there are key, path, label", 2),
        (("--where", "key is not null"), "that is every row of", 1),
    ],
)
def test_what_cannot_be_removed(
    matvit: Callable, out: Path, arguments: tuple[str, ...], message: str, code: int
) -> None:
    before = (out / "manifest.json").read_bytes()
    one_line(matvit("index", "remove", "-i", out, *arguments), message, code)
    assert (out / "manifest.json").read_bytes() == before
    assert not out.with_name("i.partial").exists()


# --- compact ---


def test_compacting_frees_the_space_of_removed_rows(matvit: Callable, out: Path) -> None:
    def size() -> int:
        return sum(file.stat().st_size for file in files_of(out))

    before = live(out)
    assert matvit("index", "remove", "-i", out, "--where", "label in ('red', 'green', 'blue')").code == 0
    full = size()
    done = matvit("index", "compact", "-i", out)
    assert (done.code, done.err) == (0, f"16 rows: {out}\n")
    assert size() < full
    facts = json.loads(matvit("index", "info", "-i", out, "--json").out)
    assert (facts["images"], facts["removed"], facts["classes"]) == (16, 0, 2)
    kept = {key: vector for key, vector in before.items() if key.startswith(("checks", "stripes"))}
    assert same(live(out), kept)
    assert verify(out) == []


def test_compacting_an_index_of_which_nothing_was_removed(matvit: Callable, out: Path) -> None:
    before = live(out)
    assert matvit("index", "compact", "-i", out).code == 0
    assert same(live(out), before)


# --- merge ---


@pytest.fixture
def halves(encoder: Encoder, corpus: Path, tmp_path: Path) -> list[Path]:
    lists = []
    for name, files in (("a", files_of(corpus)[::2]), ("b", files_of(corpus)[1::2])):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, [*files, f"/nowhere/{name}.png"])))
        build_index(open_source(tmp_path / f"{name}.txt"), encoder, tmp_path / f"{name}.index")
        lists.append(tmp_path / f"{name}.index")
    return lists


def test_merged_is_as_if_built_at_once(
    matvit: Callable, halves: list[Path], index: Path, corpus: Path, tmp_path: Path
) -> None:
    removed = str(corpus / "red" / "01.png")
    assert matvit("index", "remove", "-i", halves[1], removed).code == 0
    done = matvit("index", "merge", *halves, "-o", tmp_path / "all")
    assert (done.code, done.out, done.err) == (0, "", f"39 rows: {tmp_path}/all\n")
    expected = {str(corpus / key): vector for key, vector in live(index).items()}
    del expected[removed]
    merged = live(tmp_path / "all")
    assert merged.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(merged[key], vector, atol=1e-3)
    facts = json.loads(matvit("index", "info", "-i", tmp_path / "all", "--json").out)
    assert (facts["images"], facts["removed"], facts["not readable"]) == (39, 0, 2)
    assert facts["sources"] == f"{tmp_path}/a.txt, {tmp_path}/b.txt"
    assert [len(live(half)) for half in halves] == [20, 19], "they are left as they were"
    assert (verify(tmp_path / "all"), verify(halves[0]), verify(halves[1])) == ([], [], [])


def test_the_two_years_of_the_readme(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras call their images alike: all of them get a key, and every night after the merge, too."""
    monkeypatch.chdir(tmp_path)
    for year, colour in (("2024", "red"), ("2025", "blue")):
        (tmp_path / year).mkdir()
        for number in (0, 1):
            shutil.copy(
                corpus / colour / f"{number:02}.{'png' if number else 'jpg'}", f"{year}/IMG_{number:04}.jpg"
            )
        assert matvit("index", "build", year, "-m", checkpoint, "-o", f"{year}.index").code == 0
    done = matvit("index", "merge", "2024.index", "2025.index", "-o", "all.index")
    assert (done.code, done.err.splitlines()) == (
        0,
        [
            "2025.index has names that are taken: its keys begin with 2025/ in all.index",
            "4 rows: all.index",
        ],
    )
    shutil.copy(corpus / "blue" / "02.png", "2025/IMG_0002.jpg")
    done = matvit("index", "add", "2025", "-i", "all.index", "--prune")
    assert done.code == 0
    assert list(live(tmp_path / "all.index")) == [
        *("IMG_0000.jpg", "IMG_0001.jpg"),
        *("2025/IMG_0000.jpg", "2025/IMG_0001.jpg", "2025/IMG_0002.jpg"),
    ]
    facts = json.loads(matvit("index", "info", "-i", "all.index", "--json").out)
    assert facts["key prefixes"] == f"{tmp_path}/2025: 2025/"
    hits = json.loads(matvit("query", "2025/IMG_0001.jpg", "-i", "all.index", "-k", 1, "--json").out)["hits"]
    assert hits[0]["path"] == f"{tmp_path}/2025/IMG_0001.jpg"
    assert matvit("index", "verify", "-i", "all.index", "--rows", 5).code == 0


def test_what_cannot_be_merged(
    matvit: Callable, halves: list[Path], other_checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    other = Encoder.open(other_checkpoint, device="cpu", dtype="fp32")
    build_index(open_source(corpus / "red"), other, tmp_path / "other")
    new, names = tmp_path / "new", sorted(path.name for path in tmp_path.iterdir())
    for arguments, message, code in (
        ((*halves, tmp_path / "other", "-o", new), "this index needs matvit_tiny_patch16_224", 2),
        ((halves[0], halves[0], "-o", new), "occurs more than once", 2),
        ((halves[0], tmp_path / "nowhere", "-o", new), f"there is no index at {tmp_path}/nowhere", 1),
        ((halves[0], "-o", halves[1]), "b.index exists: choose another directory", 2),
        (("-o", new), "Missing argument 'INDEX", 2),
        ((*halves, "-o", new, "--factory", "IVF4,Flat"), "needs at least 156 vectors", 2),
        ((*halves, "-o", new, "--factory", "nonsense"), "refuses index kind 'nonsense'", 2),
        ((*halves, "-o", new, "--max-memory", "x"), "write 4G, 500M", 2),
    ):
        one_line(matvit("index", "merge", *arguments), message, code)
        assert not new.exists()
    left = {path.name for path in tmp_path.iterdir()} - set(names)
    assert left <= {"new.partial"}


# --- relocate ---


@pytest.fixture
def moved(matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """An index, where its eight images were and where they are."""
    old, new, out = shutil.copytree(corpus / "red", tmp_path / "old"), tmp_path / "new", tmp_path / "i"
    assert matvit("index", "build", old, "-m", checkpoint, "-o", out).code == 0
    old.rename(new)
    return out, old, new


def test_an_index_follows_images_that_moved(
    matvit: Callable, moved: tuple[Path, Path, Path], checkpoint: Path
) -> None:
    out, old, new = moved
    before = live(out)
    checkpoint_of = Index.open(out).manifest.checkpoint
    done = matvit("index", "relocate", "-i", out, old, new)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1] == f"8 files are at {new} now: {out}"
    assert same(live(out), before)
    assert matvit("query", "--key", "01.png", "-i", out, "-k", 1, "--paths").out.startswith(f"{new}/")
    assert checkpoint_of == str(checkpoint)
    facts = json.loads(matvit("index", "info", "-i", out, "--json").out)
    assert (facts["sources"], facts["command"]) == (str(new), f"matvit index relocate -i {out} {old} {new}")
    assert matvit("index", "add", new, "-i", out, "--prune").err.splitlines() == [
        "8 files are as they were",
        "nothing new",
    ]
    assert matvit("index", "verify", "-i", out, "--rows", 3).code == 0


def test_what_is_missing_is_refused_or_kept(matvit: Callable, moved: tuple[Path, Path, Path]) -> None:
    out, old, new = moved
    (new / "03.png").unlink()
    done = matvit("index", "relocate", "-i", out, old, new)
    assert (done.code, done.err.splitlines()[-1].startswith("matvit: 1 of 8 files of")) == (2, True)
    done = matvit("index", "relocate", "-i", out, old, new, "--missing", "keep", "--check-content")
    assert done.code == 0
    assert done.err.splitlines()[-2:] == [
        f"1 files are not at {new}: their rows are as they were",
        f"7 files are at {new} now: {out}",
    ]
    assert sorted(Path(path).parent.name for path in paths_of(Index.open(out))) == ["new"] * 7 + ["old"]
    one_line(matvit("index", "relocate", "-i", out.with_name("x"), old, new), "there is no index at", 1)
    one_line(matvit("index", "relocate", "-i", out, old / "x", new), "no image of")
    one_line(matvit("index", "relocate", "-i", out, new, old), "no such file or folder")


# --- export ---


def test_exported_in_the_layout_of_clip_retrieval(matvit: Callable, out: Path, tmp_path: Path) -> None:
    assert matvit("index", "remove", "-i", out, "--where", "label = 'red'").code == 0
    done = matvit("index", "export", "-i", out, "-o", tmp_path / "a" / "e")
    assert (done.code, done.out, done.err) == (0, "", f"32 rows: {tmp_path}/a/e\n")
    names = [str(file.relative_to(tmp_path / "a" / "e")) for file in files_of(tmp_path / "a" / "e")]
    assert names == ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"]
    vectors = np.load(tmp_path / "a" / "e" / "img_emb" / "img_emb_0.npy")
    table = pq.read_table(tmp_path / "a" / "e" / "metadata" / "metadata_0.parquet")
    assert (vectors.dtype, vectors.shape, len(table)) == (np.float16, (32, 32), 32)
    expected = live(out)
    assert table["key"].to_pylist() == list(expected)
    assert np.array_equal(vectors, np.stack(list(expected.values())))
    opened = Index.open(out)
    paths = dict(zip(keys_of(opened), paths_of(opened), strict=True))
    assert table["image_path"].to_pylist() == [paths[key] for key in expected]

    # What was exported can be searched with.
    asked = matvit("query", "-i", out, "--vectors", tmp_path / "a/e/img_emb/img_emb_0.npy", "-k", 1, "--json")
    assert [json.loads(line)["hits"][0]["key"] for line in asked.out.splitlines()] == list(expected)


def test_what_exists_is_not_exported_over(matvit: Callable, out: Path, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    one_line(matvit("index", "export", "-i", out, "-o", tmp_path / "e"), "e exists: choose another directory")
    one_line(
        matvit("index", "export", "-i", tmp_path / "nowhere", "-o", tmp_path / "f"), "there is no index at", 1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "i"]
