"""What is no local path has a scheme; what is one has one spelling."""

import errno
import os
import stat
from pathlib import Path

import pytest
from failing_disk import fail_below

from retrieval.errors import ImageSourceError, NotLocalError
from retrieval.sources.local_paths import absolute_path, check_local, mode_at, real_folder, scheme_of

NOT_UTF8 = b"caf\xe9".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "name, scheme",
    [
        ("https://example.org/x.tar", "https:"),
        ("pipe:ls", "pipe:"),
        (" S3://bucket", "S3:"),
        ("x.tar::pipe:ls", "pipe:"),
        ("git+ssh:x", "git+ssh:"),
        ("a.png", None),
        ("./pipe:ls", None),
        ("/data/a:b.tar", None),
        ("a::b", None),
        ("12:30.png", None),
        ("", None),
    ],
)
def test_schemes(name: str, scheme: str | None) -> None:
    assert scheme_of(name) == scheme
    if scheme is None:
        check_local(name)
    else:
        with pytest.raises(NotLocalError, match=f": {scheme.replace('+', '[+]')} is not read$"):
            check_local(name)


def test_what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "pipe:x"):
        Path(name).touch()
    assert stat.S_ISREG(mode_at("a.png"))
    assert stat.S_ISREG(mode_at("./pipe:x"))
    assert stat.S_ISDIR(mode_at("."))
    assert [mode_at(text) for text in ("", "nowhere", "a.png/x", "a\0b", "pipe:x")] == [0] * 5
    fail_below(tmp_path, errno.EIO, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        mode_at(str(tmp_path / "a.png"))


def test_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert absolute_path("link/a.png") == tmp_path / "link" / "a.png"
    assert real_folder(Path("link")) == real_folder(Path("link/../folder")) == tmp_path / "folder"
    for spell in (absolute_path, lambda text: real_folder(Path(text))):
        with pytest.raises(ImageSourceError, match=r"caf\\udce9: the path is not UTF-8; rename it") as caught:
            spell(NOT_UTF8)
        str(caught.value).encode()
