"""`matvit query`: results, JSON lines, stdin, contact sheets."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_world import files_of

from retrieval import Searcher


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_results_say_who_answered_at_what_cost(matvit: Callable, index: Path, corpus: Path) -> None:
    files = files_of(corpus)[:2]
    done = matvit("query", *files, "-i", index, "--budget", "M", "-k", "3")
    assert (done.code, done.err) == (0, "")
    for file in files:
        assert f"{file}: M, 516.4 k MACs" in done.out
    best = matvit("query", files[0], "-i", index, "-k", "1").out.splitlines()
    assert best[0].rstrip() == f"{files[0]}: XL, 934.1 k MACs"
    key, score, *rest = best[-1].split()
    assert (key, rest) == ("blue/00.jpg", ["blue", str(files[0])])
    assert float(score) == pytest.approx(1, abs=1e-3)


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
        (("cat.jpg", "--sheet", "s.xyz"), "draws .png, .pdf and .svg files"),
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


def test_a_budget_in_ms_is_measured_once(
    matvit: Callable, index: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    monkeypatch.setattr("matvit.latency.SETTLE_SECONDS", 0)
    ask = ("query", files_of(queries)[0], "-i", index, "-b", "60000ms", "--json")
    first, second = matvit(*ask), matvit(*ask)
    assert "Measuring: " in first.err
    assert "Measuring" not in second.err
    assert "measured before" in second.err
    assert first.out == second.out
    assert lines(first.out)[0]["submodel"] == "XL"
