"""`matvit query`: results, JSON lines, stdin, contact sheets."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compiler import needs_compiler
from failing_disk import fail_below
from PIL import Image
from small_world import files_of, random_matvit, shard_of
from toy_engine import register

import matvit as library
from cli.main import main
from cli.output import print_path
from matvit.engines.all_engines import ENGINES
from matvit.engines.engine import QueryEngine
from retrieval import Encoder, Searcher, build_index, open_source

GOLDEN = Path(__file__).parents[1] / "matvit" / "golden"
PUBLISHED = "matvit-b16-in1k"


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_results_say_who_answered_at_what_cost(matvit: Callable, index: Path, corpus: Path) -> None:
    files = files_of(corpus)[:2]
    done = matvit("query", *files, "-i", index, "--budget", "M", "-k", "3")
    assert (done.code, done.err) == (0, "")
    for file in files:
        assert f"{file}: M, 433.4 k MACs" in done.out
    best = matvit("query", files[0], "-i", index, "-k", "1").out.splitlines()
    assert best[0].rstrip() == f"{files[0]}: XL, 752.9 k MACs; Flat"
    assert best[1].split() == ["score", "label", "path"]
    assert best[2].split() == ["1", "1.000", "blue", str(files[0])]


def test_a_row_says_one_path_from_here_and_a_label_where_there_is_one(
    matvit: Callable,
    index: Path,
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = files_of(corpus)[0]
    monkeypatch.chdir(corpus.parent)
    assert matvit("query", file, "-i", index, "-k", 1).out.splitlines()[2].split()[-1] == str(
        file.relative_to(corpus.parent)
    )
    (tmp_path / "flat").mkdir()
    shutil.copy(file, tmp_path / "flat" / "photo.jpg")
    matvit("index", "build", tmp_path / "flat", "-m", checkpoint, "-o", tmp_path / "i")
    lines = matvit("query", file, "-i", tmp_path / "i").out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["score", "path"],
        ["1", "1.000", f"{tmp_path}/flat/photo.jpg"],
    ]


def test_no_score_is_above_one(matvit: Callable, index: Path, corpus: Path) -> None:
    found = lines(matvit("query", corpus, "-i", index, "-k", 1, "--json").out)
    assert len(found) == 40
    assert max(record["hits"][0]["score"] for record in found) <= 1


def test_json_lines_are_the_library_s_hits(matvit: Callable, index: Path, queries: Path) -> None:
    files = files_of(queries)[:3]
    done = matvit("query", *files, "-i", index, "-b", "60%", "-k", "4", "--json")
    assert (done.code, done.err) == (0, "")
    searcher = Searcher.open(index)
    for record, file in zip(lines(done.out), files, strict=True):
        hits = searcher.query(file, budget="60%", k=4)
        assert (record["query"], record["submodel"], record["gmacs"]) == (
            str(file),
            str(hits.submodel),
            hits.gmacs,
        )
        assert record["hits"] == [vars(hit) for hit in hits]


def test_a_folder_stands_for_its_images(matvit: Callable, index: Path, queries: Path) -> None:
    done = matvit("query", queries, "-i", index, "--json")
    assert [record["query"] for record in lines(done.out)] == [str(file) for file in files_of(queries)]


def test_an_unreadable_query_does_not_stop_the_others(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    good = files_of(queries)[0]
    done = matvit(
        "query", tmp_path / "text.jpg", good, tmp_path / "gone.jpg", "-i", index, "-k", "1", "--json"
    )
    assert done.code == 1
    first, second, third = lines(done.out)
    assert first == {"query": f"{tmp_path}/text.jpg", "error": f"{tmp_path}/text.jpg: not an image"}
    assert second["query"] == str(good)
    assert third["error"] == f"{tmp_path}/gone.jpg: no such file"
    assert done.err == f"matvit: {first['error']}\nmatvit: {third['error']}\n"


def test_paths_on_stdin_are_answered_one_by_one(index: Path, corpus: Path, tmp_path: Path) -> None:
    files = [str(file) for file in files_of(corpus)[:2]]
    with subprocess.Popen(
        [
            sys.executable,
            *("-c", "from cli.main import main; main()"),
            *("query", "-", "-i", str(index), "-b", "XL", "-k", "1"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as process:
        late = threading.Timer(60, process.kill)  # rather than wait for an answer for ever
        late.start()
        assert process.stdin
        assert process.stdout
        assert process.stderr

        def answer(path: str) -> dict:
            print(path, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())  # before stdin ends

        assert answer(files[0])["hits"][0]["path"] == files[0]
        assert answer(f"{tmp_path}/gone.jpg")["error"] == f"{tmp_path}/gone.jpg: no such file"
        assert answer("\n" + files[1])["hits"][0]["path"] == files[1]
        late.cancel()
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.stderr.read() == f"matvit: {tmp_path}/gone.jpg: no such file\n"
    assert process.returncode == 1


def test_any_bytes_on_stdin_are_answered(
    matvit: Callable, index: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = files_of(corpus)[0]
    given = b"caf\xe9.jpg\n\0\n" + str(corpus).encode() + b"\n\n" + bytes(good)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    done = matvit("query", "-", "-i", index)
    assert done.code == 1
    *wrong, right = lines(done.out)
    assert ["error" in record for record in wrong] == [True] * 3
    assert right["hits"][0]["path"] == str(good)


def test_contact_sheet(matvit: Callable, index: Path, queries: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = matvit("query", *files_of(queries)[:2], "-i", index, "--sheet", sheet, "--json")
    assert done.code == 0
    assert len(lines(done.out)) == 2
    assert done.err == f"contact sheet of the first 2 queries: {sheet}\n"
    with Image.open(sheet) as image:
        assert image.getcolors(16) is None, "more than sixteen colours"


def test_another_model_is_refused_and_the_needed_one_named(
    matvit: Callable, index: Path, other_checkpoint: Path, queries: Path
) -> None:
    done = matvit("query", files_of(queries)[0], "-i", index, "-m", other_checkpoint)
    needed = Searcher.open(index).index.manifest.encoder.weights_sha256[:12]
    assert (done.code, done.out) == (2, "")
    assert f"this index needs matvit_tiny_patch16_224 (weights {needed})" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("-", "cat.jpg"), "- stands alone"),
        (("-", "--sheet", "s.png"), "- stands alone"),
        (("-", "--open"), "- stands alone"),
        (("--vectors", "v.npy", "--open"), "which --vectors are not"),
        (("cat.jpg", "--sheet", "s.xyz"), "draws .png, .pdf, .svg, .html files"),
    ],
)
def test_what_cannot_be_asked_is_said_before_the_work(
    matvit: Callable, index: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = matvit("query", *arguments, "-i", index)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.err


def test_an_empty_folder_is_a_mistake(matvit: Callable, index: Path, tmp_path: Path) -> None:
    done = matvit("query", tmp_path, "-i", index)
    assert (done.code, done.out) == (2, "")
    assert "no images in this folder" in done.err


def test_file_names_cannot_speak_to_the_terminal(
    matvit: Callable, index: Path, corpus: Path, tmp_path: Path
) -> None:
    named = tmp_path / "[red]\x1b[31m\nx.png"
    named.write_bytes(next(file for file in files_of(corpus) if file.suffix == ".png").read_bytes())
    done = matvit("query", named, "-i", index, "-k", 1)
    assert done.code == 0
    assert "[red]\\x1b[31m\\nx.png" in done.out
    assert len(done.out.splitlines()) == 3


def test_no_time_at_all_is_refused_before_anything_is_measured(
    matvit: Callable, queries: Path, index: Path, made_up_times: list[int]
) -> None:
    done = matvit("query", files_of(queries)[0], "-i", index, "-b", "0ms")
    assert (done.code, done.out, made_up_times) == (2, "", [])


def test_a_budget_in_ms_is_measured_once(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    monkeypatch.setattr("matvit.runtime.latency.SETTLE_SECONDS", 0)
    monkeypatch.setattr("cli.progress._QUIET_SECONDS", 0)
    ask = ("query", files_of(queries)[0], "-i", index, "-b", "60000ms", "--json")
    first, second = matvit(*ask), matvit(*ask)
    assert "runs timed: " in first.err
    assert "runs timed" not in second.err
    assert "measured before" in second.err
    assert first.out == second.out
    assert lines(first.out)[0]["submodel"] == "XL"


@pytest.mark.parametrize(
    "budget, submodel, told",
    [
        ("512ms", "XL", "510 ms ±0%"),
        ("511.9ms", "L*1+XL*3", "450 ms ±0%"),
        ("384ms", "L*2+XL*2", "~380 ms"),
        ("127 MS", "S*1+M*3", "110 ms ±1%"),
        ("64ms", "S", "64 ms ±2%"),
    ],
)
def test_a_time_says_what_it_bought(
    matvit: Callable, index: Path, queries: Path, made_up_times: list, budget: str, submodel: str, told: str
) -> None:
    done = matvit("query", files_of(queries)[0], "-i", index, "-b", budget, "--json")
    assert done.code == 0
    assert lines(done.out)[0]["submodel"] == submodel
    assert done.err.splitlines()[-1] == f"{budget}: {submodel} takes {told}"
    assert len(made_up_times) == 1


def test_times_that_are_not_to_be_relied_on_are_told_of_in_a_line(
    matvit: Callable, index: Path, queries: Path, made_up_times: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matvit.submodels.profile.NOISY", 0.015)
    for _ in range(2):
        done = matvit("query", files_of(queries)[0], "-i", index, "-b", "64ms", "--json")
        (warning,) = [line for line in done.err.splitlines() if line.startswith("matvit: ")]
        assert "spread by more than 2% of the median" in warning
    assert len(made_up_times) == 1


def test_too_little_time_is_refused(
    matvit: Callable, index: Path, queries: Path, made_up_times: list
) -> None:
    done = matvit("query", files_of(queries)[0], "-i", index, "-b", "63ms")
    assert (done.code, done.out) == (2, "")
    assert "63ms is below the smallest submodel, S: 64 ms for one image" in done.err.splitlines()[-1]


@pytest.mark.filterwarnings("default")
def test_times_that_cannot_be_kept_are_used_all_the_same(
    matvit: Callable,
    index: Path,
    queries: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made_up_times: list,
) -> None:
    (tmp_path / "cache").touch()
    done = matvit("query", *files_of(queries)[:3], "-i", index, "-b", "512ms", "--json")
    assert done.code == 0
    assert [record["submodel"] for record in lines(done.out)] == ["XL"] * 3
    assert len(made_up_times) == 1
    (told,) = [line for line in done.err.splitlines() if "could not be kept" in line]
    assert told.startswith("matvit: this latency profile could not be kept: ")


def test_without_a_budget_the_full_encoder_answers_whatever_its_granularity_is_called(
    matvit: Callable, corpus: Path, tmp_path: Path
) -> None:
    library.save(random_matvit(0, granularities={"quarter": 0.25, "full": 1}), tmp_path / "model")
    out = tmp_path / "i"
    assert matvit("index", "build", corpus, "-m", tmp_path / "model", "-o", out).code == 0
    ask = ("query", files_of(corpus)[0], "-i", out, "-k", 1)
    done = matvit(*ask)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].rstrip() == f"{files_of(corpus)[0]}: full, 752.9 k MACs; Flat"
    assert "'XL' is not a budget: write quarter full, 60%" in matvit(*ask, "-b", "XL").err


@needs_compiler
def test_a_compiled_query_says_what_compiling_took(matvit: Callable, index: Path, queries: Path) -> None:
    ask = ("query", *files_of(queries)[:2], "-i", index, "-b", "S", "-k", "5", "--dtype", "fp32", "--json")
    eager, compiled = matvit(*ask), matvit(*ask, "--engine", "compiled")
    assert (compiled.code, eager.err) == (0, "")
    before, after = compiled.err.splitlines()
    assert before == "compiling takes a minute or more"
    found = re.fullmatch(r"compiled S in \d+ s; frozen weights hold ([\d.]+) kB", after)
    assert found
    assert float(found[1]) > 50, "the weights of the smallest submodel"
    for one, other in zip(lines(eager.out), lines(compiled.out), strict=True):
        assert (one["query"], one["submodel"]) == (other["query"], other["submodel"])
        scores = [[hit["score"] for hit in record["hits"]] for record in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_the_engine_reaches_the_encoder(
    matvit: Callable, index: Path, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = register(monkeypatch)
    ask = ("query", files_of(queries)[0], "-i", index, "--json", "--dtype", "fp32", "-b", "S")
    eager = matvit(*ask)
    assert (eager.code, toy.ran) == (0, [])
    own = matvit(*ask, "--engine", "toy")
    assert (own.code, own.err) == (0, "")
    assert [(str(submodel), dtype) for submodel, dtype in toy.ran] == [("S", torch.float32)]
    keys = [[hit["key"] for hit in lines(done.out)[0]["hits"]] for done in (eager, own)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("name", ["abacus", "openvino", ""])
def test_an_engine_that_serves_no_queries_gets_one_line(
    matvit: Callable, index: Path, queries: Path, name: str
) -> None:
    done = matvit("query", files_of(queries)[0], "-i", index, "--engine", name)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"matvit: '{name}' is no engine for queries: write eager or compiled\n"


def test_help_names_every_engine_for_queries(matvit: Callable) -> None:
    told = matvit("query", "--help").out
    for engine in ENGINES:
        assert not isinstance(engine, QueryEngine) or engine.name in told


# --- among some rows, near enough, like a row, by vector ---


def test_a_condition_and_a_threshold(matvit: Callable, index: Path, queries: Path) -> None:
    file = files_of(queries)[7]
    ask = ("query", file, "-i", index, "-k", 40, "--json")
    everything = lines(matvit(*ask).out)[0]
    assert everything["searched"] == "Flat"
    reds = [hit for hit in everything["hits"] if hit["label"] == "red"]
    (found,) = lines(matvit(*ask, "--where", "label = 'red'").out)
    assert [hit["key"] for hit in found["hits"]] == [hit["key"] for hit in reds]
    assert found["searched"] == "8 rows one by one"
    threshold = reds[2]["score"] - 1e-6
    (found,) = lines(matvit(*ask, "--where", "label = 'red'", "--threshold", threshold).out)
    assert [hit["key"] for hit in found["hits"]] == [hit["key"] for hit in reds[:3]]
    done = matvit("query", file, "-i", index, "--where", "label = 'violet'", "--budget", "S")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(f"{file}: S, ")
    assert done.err.endswith("; 0 rows one by one: nothing found\n")
    assert lines(matvit("query", file, "-i", index, "--threshold", 1, "--json").out)[0]["hits"] == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--where", "label = 'blue"), "filter, character 9: ' is never closed"),
        (("--where", "colour = 'blue'"), "there is no column colour"),
        (("--where", ""), "the filter is empty"),
        (("--threshold", "1.5"), "--threshold"),
        (("--threshold", "near"), "--threshold"),
        (("-k", "0"), "-k"),
        (("--key", "nowhere.png"), "has no row with the key 'nowhere.png'"),
        (("--vectors", "s.npy", "--sheet", "s.html"), "--sheet and --open show images and rows"),
        ((), "say what to look for: images, --key or --vectors"),
    ],
)
def test_what_cannot_be_searched_for(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    asks = not arguments or arguments[0] in ("--key", "--vectors")
    files = () if asks else (files_of(queries)[0],)
    done = matvit("query", *files, "-i", index, *arguments)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.err


def test_like_rows_of_the_index(matvit: Callable, index: Path, corpus: Path) -> None:
    done = matvit("query", "--key", "red/01.png", "--key", "blue/02.png", "-i", index, "-k", 3, "--json")
    assert (done.code, done.err) == (0, "")
    records = lines(done.out)
    assert [record["query"] for record in records] == ["red/01.png", "blue/02.png"]
    for record in records:
        assert (record["submodel"], record["gmacs"], record["searched"]) == (None, 0, "Flat")
        assert len(record["hits"]) == 3
        assert record["query"] not in [hit["key"] for hit in record["hits"]]
        assert record["hits"] == [vars(hit) for hit in Searcher.open(index).query_key(record["query"], k=3)]
    plain = matvit("query", "--key", "red/01.png", files_of(corpus)[0], "-i", index, "-k", 1).out
    assert [line.rstrip() for line in plain.splitlines()[::3]] == [
        "red/01.png: Flat",
        f"{files_of(corpus)[0]}: XL, 752.9 k MACs; Flat",
    ]


def test_vectors_made_elsewhere(matvit: Callable, index: Path, queries: Path, tmp_path: Path) -> None:
    searcher = Searcher.open(index, device="cpu", dtype="fp32")
    files = files_of(queries)[:2]
    vectors = np.stack([searcher.encoder.embed(searcher.encoder.preprocess(file)[None])[0] for file in files])
    expected = [[hit.key for hit in searcher.query(file, k=3)] for file in files]
    for given in (vectors, (vectors * 99).astype(np.float64), np.asfortranarray(vectors), vectors[0]):
        np.save(tmp_path / "v.npy", given)
        done = matvit("query", "--vectors", tmp_path / "v.npy", "-i", index, "-k", 3, "--json")
        assert (done.code, done.err) == (0, "")
        found = lines(done.out)
        assert [[hit["key"] for hit in record["hits"]] for record in found] == expected[: len(found)]
        assert [record["query"] for record in found] == [f"{tmp_path}/v.npy[{i}]" for i in range(len(found))]
        assert [(record["submodel"], record["gmacs"]) for record in found] == [(None, 0)] * len(found)
    assert len(found) == 1
    plain = matvit("query", "--vectors", tmp_path / "v.npy", "-i", index, "-k", 1).out
    assert plain.splitlines()[0].rstrip() == f"{tmp_path}/v.npy[0]: Flat"


class Mark:
    """Leaves a mark when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize(
    "what, message",
    [
        ("wide", "queries are (2, 31), not (Q, 32)"),
        ("cube", "queries are (1, 1, 32), not (Q, 32)"),
        ("zero", "a vector is zero or not finite"),
        ("nan", "a vector is zero or not finite"),
        ("integers", "holds int64, not floating-point numbers"),
        ("text", "holds <U1, not floating-point numbers"),
        ("complex", "holds complex128, not floating-point numbers"),
        ("pickle", "not an .npy file of numbers"),
        ("bare pickle", "not an .npy file of numbers"),
        ("zip", "not an .npy file of numbers"),
        ("cut", "not an .npy file of numbers"),
        ("empty", "not an .npy file of numbers"),
        ("claims", "not an .npy file of numbers"),
    ],
)
def test_vectors_that_cannot_be_used(
    matvit: Callable, index: Path, tmp_path: Path, what: str, message: str
) -> None:
    file, mark = tmp_path / "v.npy", tmp_path / "mark"
    good = np.ones((2, 32), np.float32)
    match what:
        case "pickle":
            np.save(file, np.array([Mark(mark)], dtype=object), allow_pickle=True)
        case "bare pickle":
            file.write_bytes(pickle.dumps(Mark(mark)))
        case "zip":
            with file.open("wb") as opened:
                np.savez(opened, good)
        case "cut" | "empty" | "claims":
            np.save(file, good)
            data = file.read_bytes()
            large = data.replace(b"(2, 32), }" + b" " * 14, b"(2222222222222, 32), }  ")
            file.write_bytes({"cut": data[:-1], "empty": b"", "claims": large}[what])
            assert what != "claims" or large != data
        case _:
            arrays = {
                "wide": good[:, 1:],
                "cube": good[:1, None],
                "zero": np.vstack([good, good * 0]),
                "nan": good * np.nan,
                "integers": good.astype(np.int64),
                "text": good.astype("U1"),
                "complex": good.astype(complex),
            }
            np.save(file, arrays[what])
    done = matvit("query", "--vectors", file, "-i", index)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert f"--vectors {file}: {message}" in done.err
    assert not mark.exists()


def test_a_file_of_vectors_that_is_not_there(matvit: Callable, index: Path, tmp_path: Path) -> None:
    done = matvit("query", "--vectors", tmp_path / "v.npy", "-i", index)
    assert (done.code, done.out, done.err) == (
        1,
        "",
        f"matvit: {tmp_path}/v.npy: No such file or directory\n",
    )


# --- what is printed and drawn ---


def test_paths_and_nothing_else(
    matvit: Callable, index: Path, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    files = files_of(corpus)
    done = matvit("query", files[0], "-i", index, "-k", 3, "--paths")
    assert (done.code, done.err) == (0, "")
    found = lines(matvit("query", files[0], "-i", index, "-k", 3, "--json").out)[0]["hits"]
    assert done.out.splitlines() == [hit["path"] for hit in found]
    assert matvit("query", files[0], "-i", index, "--paths", "--where", "label = 'violet'").out == ""

    shard_of(tmp_path / "x:y.tar", files[:5])
    assert matvit("index", "build", tmp_path / "x:y.tar", "-m", checkpoint, "-o", tmp_path / "i").code == 0
    done = matvit("query", files[2], "--key", "x:y.tar:blue-03", "-i", tmp_path / "i", "-k", 1, "--paths")
    assert len(done.out.splitlines()) == 2
    assert done.out.splitlines()[1] == f"{tmp_path}/x:y.tar:blue-02"


NAMES = (
    b"plain.png",
    b"two\nlines.png",
    b" spaces and 'quotes' .png",
    b"tab\t\x1b[31m.png",
    "Zoë.png".encode(),
)


@pytest.fixture
def oddly_named(encoder: Encoder, corpus: Path, tmp_path: Path) -> tuple[Path, list[bytes]]:
    """An index of pictures with the names that files may have, and their paths."""
    (tmp_path / "odd").mkdir()
    for name, file in zip(NAMES, files_of(corpus)[1:], strict=False):
        (tmp_path / "odd" / os.fsdecode(name)).write_bytes(file.read_bytes())
    build_index(open_source(tmp_path / "odd"), encoder, tmp_path / "odd.index")
    return tmp_path / "odd.index", [os.fsencode(tmp_path / "odd") + b"/" + name for name in NAMES]


def test_paths_are_the_very_bytes_of_names(
    oddly_named: tuple[Path, list[bytes]],
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, paths = oddly_named
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    def printed(*arguments: object) -> bytes:
        ask = ("query", *map(os.fsdecode, paths), "-i", index, "-k", 1, "--paths", *arguments)
        monkeypatch.setattr(sys, "argv", ["matvit", *map(str, ask)])
        with pytest.raises(SystemExit):
            main()
        return capfdbinary.readouterr().out

    assert printed() == b"".join(path + b"\n" for path in paths)
    assert printed("-0") == printed("--null") == b"".join(path + b"\0" for path in paths)


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_at_a_terminal_paths_stay_escaped(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    print_path("a\x1b[31m\ncaf\udce9 é.png", end)
    assert terminal.getvalue() == "a\\x1b[31m\\ncaf\\udce9 é.png" + end.decode()


def test_bytes_that_are_no_utf8_come_out_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_path(os.fsdecode(b"caf\xe9\n.png"), b"\0")
    assert capfdbinary.readouterr().out == b"caf\xe9\n.png\0"


@pytest.mark.parametrize("last", [b"", b"\0", b"\0\0"])
def test_names_between_nulls_on_stdin(
    matvit: Callable, oddly_named: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    index, paths = oddly_named
    given = b"\0".join([*paths, b"gone\n.png"]) + last
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    done = matvit("query", "-", "-0", "-i", index, "-k", 1)
    assert done.code == 1
    *found, wrong = lines(done.out)
    assert [record["query"] for record in found] == [os.fsdecode(path) for path in paths]
    assert [record["hits"][0]["path"] for record in found] == [os.fsdecode(path) for path in paths]
    assert wrong == {"query": "gone\n.png", "error": "gone\n.png: no such file"}


def test_names_between_nulls_in_and_out(
    matvit: Callable, oddly_named: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, paths = oddly_named
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\0".join(paths))))
    done = matvit("query", "-", "-0", "-i", index, "-k", 1, "--paths")
    assert (done.code, done.err) == (0, "")
    assert os.fsencode(done.out).split(b"\0")[:-1] == paths


def test_nulls_without_paths_mean_nothing(matvit: Callable, index: Path, corpus: Path) -> None:
    for how in ((), ("--json",), ("--json", "--paths")):
        done = matvit("query", files_of(corpus)[0], "-i", index, "-0", *how)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert "-0 is for paths: of results, with --paths, or on stdin, with -" in done.err


def test_a_folder_within_one_that_cannot_be_listed(
    matvit: Callable, index: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(corpus / "red", tmp_path / "q" / "red")
    (tmp_path / "q" / "closed").mkdir()
    fail_below(tmp_path / "q" / "closed", errno.EIO, monkeypatch)
    done = matvit("query", tmp_path / "q", "-i", index, "-k", 1, "--json")
    assert done.code == 1
    wrong, *found = lines(done.out)
    assert wrong["query"] == f"{tmp_path}/q/closed"
    assert wrong["error"] == f"{tmp_path}/q/closed: cannot be opened: Input/output error"
    assert len(found) == 8


def test_a_page_of_queries_and_rows(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = tmp_path / "sheet.html"
    ask = ("query", "--key", "red/01.png", *files_of(queries)[:2], "-i", index, "-k", 4, "--sheet", sheet)
    done = matvit(*ask, "--json")
    assert (done.code, len(lines(done.out))) == (0, 3)
    assert done.err == f"contact sheet of the first 3 queries: {sheet}\n"
    page = sheet.read_text()
    assert (page.count("<section>"), page.count("data:image/png;base64,")) == (3, 15)
    assert (page.count('class="right"') > 0, "query, by XL" in page) == (True, True)
    assert "red/01.png" in page

    monkeypatch.setattr("cli.query.SHEET_ROWS", 2)
    for first in (("--key", "red/01.png", "--key", "red/02.png"), files_of(queries)[:2]):
        done = matvit("query", *first, files_of(queries)[3], "-i", index, "--sheet", sheet, "--json")
        assert (done.code, len(lines(done.out))) == (0, 3)
        assert done.err == f"contact sheet of the first 2 queries: {sheet}\n"
        assert sheet.read_text().count("<section>") == 2


@pytest.mark.parametrize("given", [(), ("--sheet", "mine.png")])
def test_open_shows_the_sheet(
    matvit: Callable,
    index: Path,
    queries: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", lambda file: opened.append(file) or 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.chdir(tmp_path)
    done = matvit("query", files_of(queries)[0], "-i", index, "--open", *given)
    assert done.code == 0
    [sheet] = opened
    assert done.err == f"contact sheet of the first 1 queries: {sheet}\n"
    assert Path(sheet).stat().st_size > 1000
    assert given[1:] == (sheet,) or Path(sheet).read_text().startswith("<!doctype html>")


def test_open_without_a_screen_names_the_sheet(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = matvit("query", files_of(queries)[0], "-i", index, "--open", "--json")
    [sheet] = tmp_path.glob("*/sheet.html")
    assert (done.code, len(lines(done.out))) == (0, 1)
    assert done.err.splitlines() == [
        f"contact sheet of the first 1 queries: {sheet}",
        "there is no screen or viewer here to open it",
    ]


def test_records_say_what_was_searched(
    matvit: Callable, checkpoint: Path, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "i", files_of(queries)[0]
    build = ("index", "build", corpus, "-m", checkpoint, "-o", out)
    assert matvit(*build, "--factory", "HNSW16").code == 0

    def searched(*arguments: object) -> str:
        return lines(matvit("query", file, "-i", out, *arguments, "--json").out)[0]["searched"]

    assert searched() == "HNSW16"
    assert searched("--where", "label != 'red'") == "32 rows one by one"
    assert matvit("index", "remove", "red/01.png", "-i", out).code == 0
    assert searched() == "39 rows one by one"


# --- models by name ---


def test_an_index_remembers_a_published_name(
    matvit: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("matvit.weights.published.fetch", pytest.fail)
    library.save(random_matvit(0), tmp_path / "cache" / "published" / PUBLISHED)
    out, file = tmp_path / "i", files_of(corpus)[0]
    assert matvit("index", "build", corpus, "-m", PUBLISHED, "-o", out).code == 0
    monkeypatch.chdir(tmp_path)
    done = matvit("query", file, "-i", out, "-k", "1", "--json")
    assert (done.code, done.err) == (0, "")
    assert lines(done.out)[0]["hits"][0]["path"] == str(file)


def test_a_published_model_that_an_index_needs_is_fetched_in_sight_once_agreed_to(
    matvit: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(url: str, target: Path, *, progress: Callable) -> str:
        fetched.append(url)
        shutil.copy(GOLDEN / "checkpoint_2", target)
        progress("bytes downloaded", target.stat().st_size, target.stat().st_size)
        return ""

    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("matvit.weights.published.fetch", fetch)
    out, file = tmp_path / "i", files_of(corpus)[0]
    monkeypatch.setattr("cli.progress._QUIET_SECONDS", 0)
    bars = ["bytes downloaded: 1.5 MB/1.5 MB", "bytes read: 1.5 MB/1.5 MB"]
    built = matvit("index", "build", corpus, "-m", PUBLISHED, "-o", out)
    assert built.code == 0, built.err
    shutil.rmtree(tmp_path / "cache")
    refused = matvit("query", file, "-i", out)
    assert (refused.code, len(fetched)) == (2, 1)
    assert f"pass -m {PUBLISHED} if you want it" in refused.err
    done = matvit("query", file, "-i", out, "-m", PUBLISHED, "-k", "1", "--json")
    assert done.code == 0, done.err
    assert lines(done.out)[0]["hits"][0]["path"] == str(file)
    introduced, *told = built.err.splitlines()
    assert introduced.startswith(
        f"{PUBLISHED}: 85.8 M parameters, 16.35 GMACs an image, apache-2.0; 1000 MB are"
    )
    for shown in (told, done.err.splitlines()):
        assert [line.split(",")[0] for line in shown[:2]] == bars
    assert len(fetched) == 2
    assert matvit("query", file, "-i", out).err == ""


def test_a_directory_called_like_a_published_model_is_that_directory(
    matvit: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("matvit.weights.published.fetch", pytest.fail)
    monkeypatch.chdir(tmp_path)
    library.save(random_matvit(0), PUBLISHED)
    assert len(json.loads(matvit("plan", "-m", PUBLISHED, "--json").out)) == 13
    compared = ("--engine", "eager", "--repeats", 1, "-b", "S")
    bench = matvit("bench", "-m", PUBLISHED, *compared, "--device", "cpu", "--json")
    assert not json.loads(bench.out)["random_weights"]
    assert matvit("index", "build", corpus, "-m", PUBLISHED, "-o", "i").code == 0
    ask = ("query", files_of(corpus)[0], "-i", tmp_path / "i", "--json")
    assert matvit(*ask, "-m", PUBLISHED).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = matvit(*ask)
    assert (done.code, done.err) == (0, "")
    assert not (tmp_path / "cache").exists()


def test_a_slice_that_nobody_trained_answers_only_if_forced(
    matvit: Callable, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    model = random_matvit(0)
    library.save(model.extract(model.space.full), tmp_path / "plain")
    matvit("index", "build", corpus, "-m", tmp_path / "plain", "-o", tmp_path / "index", "--device", "cpu")
    ask = ("query", files_of(queries)[0], "-i", tmp_path / "index", "--device", "cpu", "--budget")
    assert "XL@12px, " in matvit(*ask, "60%").out
    refused = matvit(*ask, "M")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(
        "matvit: M has narrower layers that were never trained, refitted or measured"
    )
    assert "M, " in matvit(*ask, "M", "--force").out
