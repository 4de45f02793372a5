"""Which model a command takes where an index, maybe a stranger's, remembers one and nobody says `-m`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from resealed import reseal
from small_world import files_of

NAMES = [
    "hf-hub:stranger/weights",
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2.lvd142m",
    "matvit-b16-in1k",
]
COMMANDS = [
    "query {image} -i {index}",
    "query - -i {index}",
    "evaluate {images} -i {index}",
    "plan -i {index}",
    "calibrate {images} -i {index}",
    "index add {more} -i {index}",
    "index verify {index} --rows 2",
]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was asked of the network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in (
        "timm.models._hub.hf_hub_download",
        "matvit.weights.published.fetch",
        "socket.socket.connect",
    ):
        monkeypatch.setattr(name, refuse)


@pytest.fixture
def strangers(index: Path, tmp_path: Path) -> Callable[[str], Path]:
    def of(model: str) -> Path:
        place = shutil.copytree(index, tmp_path / "strangers")
        reseal(place, checkpoint=model)
        return place

    return of


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_model_is_fetched_because_an_index_names_it(
    matvit: Callable,
    strangers: Callable,
    no_network: None,
    corpus: Path,
    queries: Path,
    name: str,
    command: str,
) -> None:
    place = strangers(name)
    words = command.format(index=place, image=files_of(corpus)[0], images=corpus, more=queries)
    done = matvit(*words.split())
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert last.startswith(f"matvit: {place} was made with '{name}', which would be downloaded")
    assert last.endswith(f"pass -m {name} if you want it")
    assert len(done.err.splitlines()) == 1 + command.startswith("index add")  # which says first what is new


def test_m_is_the_consent(matvit: Callable, strangers: Callable, checkpoint: Path, corpus: Path) -> None:
    place = strangers("hf-hub:stranger/weights")
    assert matvit("query", files_of(corpus)[0], "-i", place, "-m", checkpoint).code == 0


def test_a_name_that_was_fetched_before_needs_none(
    matvit: Callable,
    strangers: Callable,
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(checkpoint, tmp_path / "cache" / "published" / "matvit-b16-in1k")
    done = matvit("query", files_of(corpus)[0], "-i", strangers("matvit-b16-in1k"))
    assert (done.code, done.err) == (0, "")


def test_other_weights_of_that_name_are_refused(
    matvit: Callable,
    strangers: Callable,
    other_checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(other_checkpoint, tmp_path / "cache" / "published" / "matvit-b16-in1k")
    done = matvit("query", files_of(corpus)[0], "-i", strangers("matvit-b16-in1k"))
    assert done.code == 2
    assert "this index needs matvit_tiny_patch16_224 (weights" in done.err


@pytest.mark.parametrize(
    "name", ["", "m", "\0", "a\nb", "local-dir:/tmp", "matvit_tiny_patch16_224", "x" * 5000]
)
def test_a_name_that_leads_nowhere_is_one_line(
    matvit: Callable, strangers: Callable, no_network: None, corpus: Path, name: str
) -> None:
    done = matvit("query", files_of(corpus)[0], "-i", strangers(name))
    assert done.code in (1, 2)
    assert len(done.err.splitlines()) == 1
