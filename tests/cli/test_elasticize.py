"""`matvit elasticize`: what is told and kept, and mistakes in a line."""

import csv
import errno
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

import pytest
import timm
import torch
from PIL import Image
from small_index import bytes_of
from small_world import random_matvit

import matvit as library
from matvit.files.lock import exclusive
from matvit.weights.checkpoint import weights_sha256


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elastic") / "model"


@pytest.fixture
def run(matvit: Callable, checkpoint: Path, corpus: Path) -> Callable:
    def elasticize(out: Path, *arguments: object, model: object = checkpoint, images: object = corpus):
        return matvit("elasticize", images, "-m", model, "-o", out, "--device", "cpu", *arguments)

    return elasticize


def test_what_is_told_and_kept(run: Callable, checkpoint: Path, corpus: Path, elastic: Path) -> None:
    done = run(elastic, "--limit", "32", "--check", "8", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["images"], told["checked"], told["tokens"]) == (32, 8, 32 * 17)
    checked = {point["submodel"]: point["cosine"] for point in told["points"]}
    assert {"S", "M", "L", "XL", *told["curve"]} <= set(checked)
    for submodel, cosine in told["curve"].items():
        assert checked[submodel] == pytest.approx(cosine, abs=1e-6)
    model, original = library.load(elastic), library.load(checkpoint)
    assert {str(submodel): cosine for submodel, cosine in model.measured.items()} == told["curve"]
    aligned = set(map(str, model.alignments.numbers))
    assert {"S", "M"} <= aligned <= {"S", "M", "L", *told["curve"]} - {"XL"}
    assert weights_sha256(model) == weights_sha256(original)
    assert told["extra_bytes"] == sum(tensor.nbytes for tensor in model.extras.values()) > 0
    assert torch.equal(model.head.weight, original.head.weight)
    with (elastic / "report" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in row.items()} for row in told["points"]] == rows
    with Image.open(elastic / "report" / "report.png") as image:
        assert image.getcolors(16) is None
    command = (elastic / "report" / "command.txt").read_text()
    assert command.startswith(f"matvit elasticize {corpus} -m {checkpoint} -o {elastic} --device cpu")


def test_the_table_and_the_warnings(run: Callable, tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--limit", "2", "--check", "8", "--curve")
    assert done.code == 0
    lines = done.out.splitlines()
    assert "cosine to XL" in lines[0]
    model = library.load(tmp_path / "out")
    shown = {str(submodel) for submodel in (*model.space.curve, *model.space.mixnmatch)}
    assert {line.split()[0] for line in lines[1:]} == shown
    assert "fitted to 2 images (34 tokens), checked on 8 others" in " ".join(done.err.split())
    assert "34 tokens are fewer than the 64 hidden units to refit" in " ".join(done.err.split())


def test_it_may_be_made_again_in_its_place(run: Callable, tmp_path: Path) -> None:
    assert run(tmp_path / "out", "--limit", "4", "--check", "4").code == 0
    assert run(tmp_path / "out", "--limit", "4", "--check", "4").code == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "elastic.safetensors",
        "report",
    }


def test_granularities_may_be_refitted_once_more(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    options = ("--limit", "30", "--check", "10", "--json")
    alone = run(tmp_path / "alone", *options)
    done = run(tmp_path / "out", *options, "--sequential")
    assert done.code == alone.code == 0
    assert json.loads(done.out)["points"][0]["cosine"] != json.loads(alone.out)["points"][0]["cosine"]
    assert weights_sha256(library.load(tmp_path / "out")) == weights_sha256(library.load(checkpoint))


def test_layers_that_were_trained_nested_stay_as_they_are(
    run: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    given = library.load(checkpoint)
    for lessons in ((), ("--epochs", "1", "--teach", "20")):
        done = run(tmp_path / "out", "--no-refit", "--limit", "32", "--check", "8", *lessons, "--json")
        assert done.code == 0
        assert "fitted to 32 images, checked on 8 others" in " ".join(done.err.split())
        told, model = json.loads(done.out), library.load(tmp_path / "out")
        assert (told["images"], told["tokens"]) == (32, 0)
        assert (model.refits, model.tuned is None) == (None, not lessons)
        assert {str(submodel): cosine for submodel, cosine in model.measured.items()} == told["curve"]
        for submodel in map(model.submodel, ("S", "M")):
            assert submodel in model.alignments.numbers
            assert torch.equal(
                model.cut(submodel).blocks[0].mlp.fc1.weight, given.cut(submodel).blocks[0].mlp.fc1.weight
            )
        assert weights_sha256(model) == weights_sha256(given)
    one_line(
        run(tmp_path / "out", "--no-refit", "--sequential"), 2, "sequential refits once more, and nothing is"
    )


def test_smaller_images_alone(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    command = ("--axis", "sizes", "--limit", "32", "--check", "8", "--epochs", "1", "--teach", "20")
    done = run(tmp_path / "out", *command, "--json")
    assert done.code == 0
    model = library.load(tmp_path / "out")
    assert (json.loads(done.out)["tokens"], model.refits) == (0, None)
    assert set(model.measured) <= {model.space.full, *map(model.submodel, ("XL@12px", "XL@8px"))}
    assert len(model.measured) > 1
    one_line(run(tmp_path / "out", "--axis", "heads"), 2, "'heads' is not one of 'sizes', 'merges', 'widths'")
    one_line(run(tmp_path / "out", "--axis", "sizes", "--curve"), 2, "the Mix'n'Match curve is one of widths")


def test_an_axis_that_the_encoder_has_not_is_refused_by_name(run: Callable, tmp_path: Path) -> None:
    size = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2}
    library.save(library.elastic(timm.create_model("eva02_tiny_patch14_224", **size)), tmp_path / "rotary")
    done = run(tmp_path / "out", "--axis", "merges", model=tmp_path / "rotary")
    one_line(done, 2, "tokens cannot merge where rotary position embeddings tell the place of each")
    assert "images read" not in done.err
    only = ("--axis", "merges", "--axis", "sizes", "--limit", "4", "--check", "4")
    assert run(tmp_path / "out", *only, model=tmp_path / "rotary").code == 0


def test_submodels_may_be_taught(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--limit", "10", "--check", "8", "--epochs", "2", "--teach", "20")
    assert done.code == 0
    said = " ".join(done.err.split())
    assert re.search(r"epoch 2: mean cosine to XL on images held out: \S+ 0\.", said)
    assert "fitted to 10 images" in said
    assert weights_sha256(library.load(tmp_path / "out")) == weights_sha256(library.load(checkpoint))


def stop_while_learning(
    run: Callable, output: Path, command: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run it until the second epoch."""
    monkeypatch.setattr("matvit.refitting.distillation.SAVE_SECONDS", 0)
    with monkeypatch.context() as stopping:

        def stop(told: str, *of: object) -> None:
            if told.startswith("epoch") and of[0] == 2:
                raise KeyboardInterrupt

        stopping.setattr("matvit.refitting.distillation._log.info", stop)
        assert run(output, *command).code != 0


def test_what_was_stopped_goes_on(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("--limit", "10", "--check", "8", "--epochs", "3", "--teach", "20")
    assert run(tmp_path / "whole", *command).code == 0
    stop_while_learning(run, tmp_path / "out", command, monkeypatch)
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == ["out.partial"]
    done = run(tmp_path / "out", *command)
    assert done.code == 0
    said = " ".join(done.err.split())
    assert "out.partial/fitted: fitted before" in said
    assert "out.partial/lessons: going on after 1 steps" in said
    assert "axes measured" not in said
    assert all(f"epoch {epoch}: mean cosine to XL" in said for epoch in (2, 3))
    assert not (tmp_path / "out.partial").exists()
    refits = [(tmp_path / name / "elastic.safetensors").read_bytes() for name in ("whole", "out")]
    assert refits[0] == refits[1]


def test_lessons_that_were_stopped_keep_the_fit_that_they_began_with(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("--limit", "10", "--check", "8", "--epochs", "3", "--teach", "20")
    stop_while_learning(run, tmp_path / "out", command, monkeypatch)
    fitted = (tmp_path / "out.partial" / "fitted" / "elastic.safetensors").read_bytes()
    for other in (("--seed", "1"), ("--limit", "9")):
        done = run(tmp_path / "out", *command, *other)
        one_line(done, 1, "keeps lessons of another encoder, of other images or options")
        assert "axes measured" not in done.err
    assert (tmp_path / "out.partial" / "fitted" / "elastic.safetensors").read_bytes() == fitted
    assert run(tmp_path / "out", *command).code == 0


def test_so_many_minutes(run: Callable, tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--limit", "10", "--check", "8", "--minutes", "0.02", "--teach", "20")
    assert done.code == 0
    said = " ".join(done.err.split())
    assert re.search(r"epoch 1: mean cosine to XL on images held out: \S+ 0\.", said)


def test_the_originals_notes_are_kept(run: Callable, tmp_path: Path) -> None:
    library.save(random_matvit(0), tmp_path / "original", classes=["a", "b"])
    assert run(tmp_path / "out", "--limit", "4", "--check", "4", model=tmp_path / "original").code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["matvit"]["classes"] == ["a", "b"]
    assert config["matvit"]["refitted"] is True


def test_an_index_of_the_original_takes_its_queries(
    run: Callable, matvit: Callable, index: Path, queries: Path, tmp_path: Path
) -> None:
    assert run(tmp_path / "out", "--limit", "8", "--check", "4").code == 0
    done = matvit(
        "query", queries / "red" / "50.png", "-i", index, "-m", tmp_path / "out", "-b", "M", "--json"
    )
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["submodel"] == "M"
    assert len(answer["hits"]) == 10


def test_a_second_one_at_the_same_place_is_refused_before_its_work(run: Callable, tmp_path: Path) -> None:
    def second() -> None:
        done = run(tmp_path / "out", "--limit", "4", "--check", "4")
        one_line(done, 1, f"another process is writing {tmp_path / 'out'}: wait for it to end, or stop it")
        assert "images read" not in done.err

    with exclusive(tmp_path / "out"):
        thread = Thread(target=second)
        thread.start()
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_made_leaves_what_was_there(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder, its report and what was learnt for the next one."""
    command = ("--limit", "4", "--check", "4", "--epochs", "1", "--teach", "8")
    assert run(tmp_path / "out", *command).code == 0
    before = bytes_of(tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("retrieval.showing.figures.plot_consistency", full)
        one_line(run(tmp_path / "out", *command, "--seed", "1"), 1, "No space left on device")
    assert bytes_of(tmp_path / "out") == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "out.partial"]
    done = run(tmp_path / "out", *command, "--seed", "1")
    assert "out.partial/lessons: going on after 1 steps" in " ".join(done.err.split())
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def one_line(done, code: int, message: str) -> None:
    assert done.code == code
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_mistakes_are_one_line(
    run: Callable, checkpoint: Path, elastic: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    one_line(run(out, model="resnet18"), 2, "a ResNet does not nest")
    one_line(run(out, images=tmp_path / "nowhere"), 2, "no such file or folder")
    one_line(run(out, "--epochs", "1", "--minutes", "1"), 2, "give epochs or minutes, not both")
    for minutes in ("nan", "inf"):
        one_line(
            run(out, "--minutes", minutes), 2, "minutes have no end" if minutes == "inf" else "--minutes"
        )
    one_line(run(out, "--teach", "100"), 2, "teach needs epochs or minutes")
    for lessons in ((), ("--epochs", "1")):
        one_line(run(out, *lessons, images=corpus / "red" / "00.jpg"), 2, "1 images that can be read are too")
    if not elastic.exists():
        run(elastic, "--limit", "4", "--check", "4")
    one_line(run(out, model=elastic), 2, "this model is refitted already: give the one that it came from")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    one_line(run(full), 1, "holds something else than a checkpoint")
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


def test_images_all_alike_and_activations_that_are_not_finite(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "grey").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), "grey").save(tmp_path / "grey" / f"{number}.png")
    one_line(run(tmp_path / "out", images=tmp_path / "grey"), 2, "images are all alike")
    broken = random_matvit(0)
    with torch.no_grad():
        broken.blocks[2].mlp.fc1.weight[0, 0] = torch.nan
    library.save(broken, tmp_path / "broken")
    one_line(run(tmp_path / "out", model=tmp_path / "broken"), 2, "blocks.2.mlp: activations are not finite")
    assert not (tmp_path / "out").exists()
