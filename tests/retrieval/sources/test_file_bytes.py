"""Only regular files are opened."""

import socket
from pathlib import Path

import pytest

from retrieval.errors import UnreadableImageError
from retrieval.sources.file_bytes import open_regular, read_regular, without_links


def test_regular_files_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert read_regular(tmp_path / "a") == b"content"


@pytest.mark.parametrize(
    "path, reason",
    [
        ("/dev/zero", r"not a regular file \(character device\)"),
        ("/", "is a directory"),
        ("/etc/passwd/x", "cannot be opened: Not a directory"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_anything_else_is_refused(path: str, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        open_regular(Path(path))


def test_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket paths must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        with pytest.raises(UnreadableImageError, match=r"not a regular file \(socket\)"):
            open_regular(Path("s.jpg"))


def test_a_file_where_its_folder_truly_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "folder" / "a.png").symlink_to("b.png")
    assert without_links(f"{tmp_path}/link/a.png") == f"{tmp_path}/folder/a.png"
