"""Published checkpoints by name: from a server on this machine that stands in for Google's."""

import functools
import hashlib
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import matvit
from matvit import CheckpointError, UnknownModelError
from matvit.errors import DownloadError
from matvit.weights import published
from matvit.weights.checkpoint import weights_sha256
from matvit.weights.published import PUBLISHED, Published, checkpoint_of, obtain

GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "matvit-b16-in1k"
SHA256 = hashlib.sha256((GOLDEN / "checkpoint_2").read_bytes()).hexdigest()


class Server(ThreadingHTTPServer):
    """A folder over HTTP, which counts what it is asked for."""

    def __init__(self, folder):
        self.asked = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def served(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "served")
    return tmp_path / "served"


@pytest.fixture
def server(served, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(served)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(published, "PUBLISHED", {NAME: Published(f"{server.url}/checkpoint_2", "a stand-in")})
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def visible(folder):
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def test_the_names():
    assert {name: entry.url for name, entry in PUBLISHED.items()} == {
        "matvit-b16-in1k": "https://storage.googleapis.com/scenic-bucket/matvit/MatViT-B16-IN1K",
        "matvit-l16-in21k-in1k": "https://storage.googleapis.com/scenic-bucket/matvit/MatViT-L16-IN21K%2BIN1K",
    }


def test_downloaded_converted_and_kept(server, cache):
    told = []
    directory = checkpoint_of(NAME, progress=lambda *step: told.append(step))
    assert directory == cache / "published" / NAME
    assert visible(cache / "published") == [NAME]  # The file itself is gone.
    size = (GOLDEN / "checkpoint_2").stat().st_size
    assert {("bytes downloaded", size, size), ("bytes read", size, size)} < set(told)
    assert matvit.load(directory).num_classes == 10
    note = json.loads((directory / "config.json").read_text())["matvit"]["scenic"]
    assert (note["source"], note["sha256"]) == (f"{server.url}/checkpoint_2", SHA256)
    assert checkpoint_of(NAME) == directory
    assert len(server.asked) == 1


def test_two_at_once_make_it_once(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(checkpoint_of(NAME))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(server.asked) == 1
    matvit.load(found[0])


def test_without_a_network_the_file_is_taken_from_where_the_error_says(server, served, cache):
    file = served / "checkpoint_2"
    elsewhere = file.rename(served.parent / "by hand")
    with pytest.raises(DownloadError) as caught:
        checkpoint_of(NAME)
    place = cache / "published" / f"{NAME}.msgpack"
    assert f"cannot download {server.url}/checkpoint_2: the server answers 404" in str(caught.value)
    assert str(caught.value).endswith(f"by hand and put it at {place}")
    shutil.copy(elsewhere, place)
    assert matvit.load(checkpoint_of(NAME)).num_classes == 10
    assert len(server.asked) == 1
    assert not place.exists()


@pytest.mark.parametrize("content", [b"<html>", b"", (GOLDEN / "checkpoint_2").read_bytes()[:-1]])
def test_a_download_that_is_no_good_says_where_it_is(server, served, cache, content):
    (served / "checkpoint_2").write_bytes(content)
    place = cache / "published" / f"{NAME}.msgpack"
    with pytest.raises(CheckpointError, match=f"^{place} .*it came from {server.url}/checkpoint_2") as caught:
        checkpoint_of(NAME)
    assert "\n" not in str(caught.value)
    assert visible(cache / "published") == [f"{NAME}.msgpack"]
    shutil.copy(GOLDEN / "checkpoint_2", served)
    place.unlink()
    checkpoint_of(NAME)


@pytest.mark.parametrize("name", ["matvit-h14", "", "../published/x"])
def test_other_names(name):
    with pytest.raises(UnknownModelError, match=r"no published MatViT is called .*matvit-l16-in21k-in1k are"):
        checkpoint_of(name)


def test_a_file_that_was_published_anew_is_refused_until_it_is_trusted(server, served, cache, tmp_path):
    """By name, by URL, and put there by hand; what is made of the first one stays."""
    directory = checkpoint_of(NAME)
    before = weights_sha256(matvit.load(directory))
    shutil.rmtree(directory)
    shutil.copy(served / "params_a.msgpack", served / "checkpoint_2")
    url, place, record = (
        f"{server.url}/checkpoint_2",
        cache / "published" / f"{NAME}.msgpack",
        cache / "downloads.json",
    )
    for obtained in (lambda: checkpoint_of(NAME), lambda: obtain(url, tmp_path / "out")):
        with pytest.raises(DownloadError, match=f"from {url} is not the file that was there first") as caught:
            obtained()
        assert str(record) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not directory.exists()
    assert not (tmp_path / "out").exists()
    shutil.copy(GOLDEN / "checkpoint_2", place)
    assert weights_sha256(matvit.load(checkpoint_of(NAME))) == before
    record.unlink()
    obtain(url, tmp_path / "out")
    assert len(server.asked) == 3, "what was refused is not downloaded again"


def test_what_is_no_checkpoint_is_not_remembered(server, served, cache):
    (served / "checkpoint_2").write_bytes(b"<html>")
    with pytest.raises(CheckpointError):
        checkpoint_of(NAME)
    shutil.copy(GOLDEN / "checkpoint_2", cache / "published" / f"{NAME}.msgpack")
    checkpoint_of(NAME)


def test_a_file_that_a_killed_process_left_is_removed(server, cache):
    checkpoint_of(NAME)
    for left in (f"{NAME}.msgpack", f"{NAME}.msgpack.partial.json"):
        (cache / "published" / left).touch()
    checkpoint_of(NAME)
    assert [file.name for file in (cache / "published").iterdir()] == [NAME]
    assert len(server.asked) == 1


# --- wherever a checkpoint is ---


def weights(directory):
    return matvit.load(directory).state_dict()


@pytest.fixture
def expected(tmp_path):
    obtain(str(GOLDEN / "params_a.msgpack"), tmp_path / "expected")
    return weights(tmp_path / "expected")


@pytest.mark.parametrize("kind", ["file", "url", "name"])
def test_every_source_gives_the_same(server, cache, tmp_path, expected, kind):
    source = {"file": str(GOLDEN / "checkpoint_2"), "url": f"{server.url}/checkpoint_2", "name": NAME}[kind]
    told = []
    obtain(source, tmp_path / "out", progress=lambda *step: told.append(step))
    found = weights(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    note = json.loads((tmp_path / "out" / "config.json").read_text())["matvit"]["scenic"]
    assert (note["sha256"], note["global_step"]) == (SHA256, 2)
    assert note["source"] == ("checkpoint_2" if kind == "file" else f"{server.url}/checkpoint_2")
    if kind == "url":
        assert visible(cache / "downloads") == []
    if kind != "name":
        size = (GOLDEN / "checkpoint_2").stat().st_size
        assert ("bytes read", size, size) in told
    assert len(server.asked) == (kind != "file")


def test_a_url_of_another_model_says_where_the_file_is(server, cache, tmp_path):
    with pytest.raises(UnknownModelError, match=r"downloads.*downloaded again once you remove it"):
        obtain(f"{server.url}/chunked_example.msgpack", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (kept,) = visible(cache / "downloads")
    assert kept.endswith("-chunked_example.msgpack")


def test_a_download_outlives_a_wrong_place_to_write(server, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for place, ends in (("photos", "choose another directory"), ("out", None)):
        if ends:
            with pytest.raises(CheckpointError, match=f"{ends}$"):
                obtain(f"{server.url}/checkpoint_2", tmp_path / place)
        else:
            obtain(f"{server.url}/checkpoint_2", tmp_path / place)
    assert len(server.asked) == 1


@pytest.mark.parametrize("source", ["no/such/file", "matvit-b17"])
def test_nothing_there(tmp_path, source):
    with pytest.raises(UnknownModelError, match=r"nor a published MatViT among matvit-b16-in1k"):
        obtain(source, tmp_path / "out")


def test_a_url_that_is_not_safe(tmp_path):
    with pytest.raises(DownloadError, match="only https"):
        obtain("ftp://example.org/x", tmp_path / "out")


def test_a_classifier_that_is_not_the_published_one(server, tmp_path):
    with pytest.raises(UnknownModelError, match="'token'"):
        obtain(NAME, tmp_path / "out", classifier="gap")
