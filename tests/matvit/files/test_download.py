"""Downloads from a real server on this machine: resumed, checked, and put in place whole."""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from matvit.errors import DownloadError
from matvit.files import download
from matvit.files.download import fetch

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server has and how it behaves; `asked` is what it was asked for."""

    content: bytes = field(default=CONTENT, repr=False)
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    honest: bool = True
    """Whether it minds If-Range."""
    length: int | None = None
    """Content-Length to claim."""
    with_length: bool = True
    endless: bool = False
    """Whether it sends its content again and again."""
    stop_after: int | None = None
    """Bytes after which it hangs up."""
    status: int = 200
    location: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    release: threading.Event | None = None
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append({name.lower(): value for name, value in self.headers.items()})
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", site.location)
            self.end_headers()
            return
        if site.status != 200:
            self.send_error(site.status)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (site.etag, site.modified) or not site.honest
        start = int(wanted[1]) if wanted and site.ranges and same else 0
        if start and start >= len(site.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            total = len(site.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.modified:
            self.send_header("Last-Modified", site.modified)
        if site.with_length:
            length = len(site.content) - start if site.length is None else site.length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        stop = len(site.content) if site.stop_after is None else start + site.stop_after
        self.wfile.write(site.content[start:stop])
        with suppress(ConnectionError):
            while site.endless:
                self.wfile.write(site.content)
        if site.release:
            self.wfile.flush()
            site.release.wait(10)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_BLOCK", 2**18)
    kept = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"site": kept}))
    kept.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "deep" / "file"


def names(target):
    return sorted(file.name for file in target.parent.iterdir())


def interrupted(site, target, after=2_000_000):
    """Leave a partial file behind, as a connection that breaks does."""
    site.stop_after = after
    with pytest.raises(DownloadError, match=f"ended after {after} of|more expected"):
        fetch(site.url, target)
    site.stop_after = None
    assert names(target) == ["file.partial", "file.partial.json"]


def test_a_whole_file(site, target):
    told = []
    assert fetch(site.url, target, progress=lambda *step: told.append(step)) == SHA256
    assert target.read_bytes() == CONTENT
    assert names(target) == ["file"]
    assert told[0] == ("bytes downloaded", 0, len(CONTENT))
    assert told[-1] == ("bytes downloaded", len(CONTENT), len(CONTENT))


def test_it_goes_on_where_it_stopped(site, target):
    interrupted(site, target)
    told = []
    assert fetch(site.url, target, progress=lambda *step: told.append(step)) == SHA256
    assert target.read_bytes() == CONTENT
    assert names(target) == ["file"]
    assert site.asked[1]["range"] == "bytes=2000000-"
    assert site.asked[1]["if-range"] == '"one"'
    assert [told[0][1:], told[-1][1:]] == [(2_000_000, len(CONTENT)), (len(CONTENT), len(CONTENT))]


def test_it_goes_on_by_the_date_where_there_is_no_strong_etag(site, target):
    site.etag, site.modified = 'W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"
    interrupted(site, target)
    assert fetch(site.url, target) == SHA256
    assert site.asked[1]["if-range"] == site.modified


def test_again_and_again(site, target):
    interrupted(site, target, 1_000_000)
    site.stop_after = 1_500_000
    with pytest.raises(DownloadError, match=r"ended after 2500000 of 5120000|more expected"):
        fetch(site.url, target)
    site.stop_after = None
    assert fetch(site.url, target) == SHA256
    assert site.asked[2]["range"] == "bytes=2500000-"


@pytest.mark.parametrize(
    "change",
    [
        {"content": CONTENT[::-1], "etag": '"two"'},
        {"content": CONTENT[::-1], "etag": '"two"', "honest": False},
        {"content": CONTENT[::-1] + b"longer", "honest": False},
        {"content": CONTENT[::-1][:3_000_000], "honest": False},
        {"content": CONTENT[::-1][:1_000_000], "honest": False},
        {"content": CONTENT[::-1], "ranges": False},
        {"content": CONTENT[::-1], "etag": "", "honest": False},
    ],
    ids=["new ETag", "new ETag, If-Range ignored", "longer", "shorter", "as short", "no ranges", "no ETag"],
)
def test_a_file_that_changed_is_fetched_from_its_start(site, target, change):
    interrupted(site, target)
    for name, value in change.items():
        setattr(site, name, value)
    told = []
    fetched = fetch(site.url, target, progress=lambda *step: told.append(step))
    assert fetched == hashlib.sha256(site.content).hexdigest()
    assert target.read_bytes() == site.content
    assert told[-1][1] == len(site.content)


@pytest.mark.parametrize("note", [None, "", "{", "[]", '{"url": 1}', json.dumps({"url": "other"})])
def test_a_partial_file_of_unknown_origin_is_not_gone_on_with(site, target, note):
    target.parent.mkdir()
    target.with_name("file.partial").write_bytes(b"something else")
    if note is not None:
        target.with_name("file.partial.json").write_text(note)
    assert fetch(site.url, target) == SHA256
    assert "range" not in site.asked[0]


def test_a_partial_file_of_another_url_is_not_gone_on_with(site, target):
    interrupted(site, target)
    assert fetch(site.url + "?2", target) == SHA256
    assert "range" not in site.asked[1]


def test_a_partial_file_that_is_complete(site, target):
    interrupted(site, target)
    target.with_name("file.partial").write_bytes(CONTENT)
    assert fetch(site.url, target) == SHA256
    assert [asked.get("range") for asked in site.asked[1:]] == ["bytes=5120000-", None]


def test_without_a_length_what_arrives_is_taken(site, target):
    site.with_length = False
    told = []
    assert fetch(site.url, target, progress=lambda *step: told.append(step)) == SHA256
    assert {total for _, _, total in told} == {None}


def refused(site, target, match):
    """A download that ends with the headers: of the body nothing is sent, nor waited for."""
    site.stop_after = 0
    told = []
    with pytest.raises(DownloadError, match=rf"^cannot download {site.url}: {match}\. Run") as caught:
        fetch(site.url, target, progress=lambda *step: told.append(step))
    assert "\n" not in str(caught.value)
    assert (told, names(target)) == ([], [])


def test_more_than_the_disk_holds_is_refused_before_any_of_it(site, target, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BYTES", 2**63)
    free = shutil.disk_usage(target.parent.parent).free
    site.length = free + 2**40
    refused(site, target, r"\d+ MiB are missing and \d+ MiB free on the disk")


def test_only_what_is_missing_must_fit_on_the_disk(site, target, monkeypatch):
    interrupted(site, target)
    free = len(CONTENT) - 2_000_000
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(DownloadError, match="4 MiB are missing and 2 MiB free"):
        fetch(site.url, target.with_name("another"))
    assert fetch(site.url, target) == SHA256


def test_more_than_any_checkpoint_is_refused_before_any_of_it(site, target):
    site.length = 65 * 2**30
    refused(site, target, "it is 65 GiB, larger than any checkpoint")


def test_a_file_that_never_ends_is_given_up(site, target, monkeypatch):
    monkeypatch.setattr(download, "_MAX_BYTES", 12 * 2**20)
    site.endless, site.with_length = True, False
    told = []
    with pytest.raises(DownloadError, match="it does not end after 0 GiB"):
        fetch(site.url, target, progress=lambda *step: told.append(step))
    assert 10 * 2**20 < told[-1][1] <= 12 * 2**20
    assert target.with_name("file.partial").stat().st_size <= 12 * 2**20 + download._BLOCK
    site.endless = False
    assert fetch(site.url, target) == SHA256


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_answer_that_is_no_file(site, target, status):
    site.status = status
    with pytest.raises(
        DownloadError, match=rf"cannot download {site.url}: the server answers {status}"
    ) as caught:
        fetch(site.url, target)
    assert f"by hand and put it at {target}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(target) == []


def test_an_error_keeps_what_arrived_before(site, target):
    interrupted(site, target)
    site.status = 503
    with pytest.raises(DownloadError, match="503"):
        fetch(site.url, target)
    assert target.with_name("file.partial").stat().st_size == 2_000_000


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_no_server(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{free_port()}/file"
    with pytest.raises(
        DownloadError, match=rf"cannot download {url}: Connection refused\. .* put it at {target}"
    ):
        fetch(url, target)
    assert names(target) == []


def test_a_server_that_says_nothing(site, target, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.1)
    site.stop_after, site.release = 1_000_000, threading.Event()
    with pytest.raises(DownloadError, match="timed out"):
        fetch(site.url, target)
    site.release.set()
    site.stop_after = site.release = None
    assert fetch(site.url, target) == SHA256


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/file",
        "http://127.0.0.1.example.org/file",
        "file:///etc/passwd",
        "ftp://example.org/file",
        "data:,x",
        "https://",
        "https:///file",
        "http://[::1",
        "plain",
    ],
)
def test_only_https(target, url):
    with pytest.raises(DownloadError, match="is refused: only https"):
        fetch(url, target)
    assert not target.parent.exists()


@pytest.mark.parametrize("location", ["http://example.org/file", "file:///etc/passwd", "ftp://example.org/x"])
def test_nor_does_it_follow_anywhere_else(site, target, location):
    site.location = location
    with pytest.raises(DownloadError, match=r"only https is downloaded|Redirection"):
        fetch(site.url.replace("/file", "/moved"), target)
    assert names(target) == []


def test_it_follows_a_server_to_itself(site, target):
    site.location = site.url
    assert fetch(site.url.replace("/file", "/moved"), target) == SHA256


def test_https_never_leads_to_this_machine():
    request = download.urllib.request.Request("https://example.org/")
    with pytest.raises(Exception, match="it leads to http://localhost/"):
        download._SafeRedirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://localhost/")


def test_a_second_download_at_once_is_refused(site, target):
    site.stop_after, site.release = 1_000_000, threading.Event()
    started = threading.Event()
    errors = []

    def first():
        try:
            fetch(site.url, target, progress=lambda *_: started.set())
        except DownloadError as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(10)
    with pytest.raises(DownloadError, match="another process is downloading it"):
        fetch(site.url, target)
    site.release.set()
    thread.join()
    assert len(errors) == 1  # The server hung up early; nothing was mixed.
    site.stop_after = site.release = None
    assert fetch(site.url, target) == SHA256


def test_an_older_file_stays_until_the_new_one_is_whole(site, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    site.stop_after = 1_000_000
    with pytest.raises(DownloadError):
        fetch(site.url, target)
    assert target.read_bytes() == b"old"
    site.stop_after = None
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [":port/file", ":1/a b", ":1/\u00e9", ":99999999/file"])
def test_a_url_that_is_none(target, rest):
    with pytest.raises(DownloadError, match="cannot download"):
        fetch(f"http://localhost{rest}", target)


def test_a_place_that_cannot_be_written(site, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"Not a directory|File exists"):
        fetch(site.url, tmp_path / "file" / "inside")


@pytest.mark.parametrize("name", ["file.partial", "file.partial.json", ".matvit-lock-file"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_somebody_else_put_where_it_arrives_is_not_written_through(site, target, name, kind):
    target.parent.mkdir()
    secret, there = target.with_name("secret"), target.with_name(name)
    secret.write_text("secret")
    make = {
        "link": lambda: there.symlink_to(secret),
        "link to nothing": lambda: there.symlink_to(target.with_name("nothing")),
        "pipe": lambda: os.mkfifo(there),
        "folder": there.mkdir,
    }
    make[kind]()
    with pytest.raises(DownloadError, match=rf"^cannot download {site.url}: .*({name}|directory)") as caught:
        fetch(site.url, target)
    assert "\n" not in str(caught.value)
    assert secret.read_text() == "secret"
    assert not target.with_name("nothing").exists()
    assert not target.exists()
    there.rmdir() if kind == "folder" else there.unlink()
    assert fetch(site.url, target) == SHA256


def test_nothing_is_left_of_what_is_forgotten(site, target):
    interrupted(site, target)
    fetch(site.url, target)
    target.with_name("file.partial.json").write_text("{}")  # by a process that was killed just before the end
    download.forget(target)
    assert names(target) == []
