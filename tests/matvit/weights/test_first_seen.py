"""What a URL gave first is what it must give ever after, until its line is removed."""

import json
from pathlib import Path

import pytest

from matvit.errors import DownloadError
from matvit.weights.first_seen import require_same

URL, FILE = "https://example.org/vit", Path("vit.msgpack")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "downloads.json"


def test_the_first_is_remembered_and_the_same_is_fine(record: Path) -> None:
    for url, digest in ((URL, "a1"), (URL, "a1"), (f"{URL}?2", "b2")):
        require_same(url, digest, FILE)
    assert json.loads(record.read_text()) == {URL: "a1", f"{URL}?2": "b2"}
    assert len(record.read_text().splitlines()) == 4, "a line of its own for each"
    assert [file.name for file in record.parent.iterdir()] == ["downloads.json"]


def test_another_file_is_refused_until_its_line_is_removed(record: Path) -> None:
    require_same(URL, "a1", FILE)
    with pytest.raises(
        DownloadError, match="is not the file that was there first: its SHA-256 is b2"
    ) as error:
        require_same(URL, "b2", FILE)
    message = str(error.value)
    assert "\n" not in message
    assert f"remove the line of this URL from {record}; else remove {FILE}" in message
    assert json.loads(record.read_text()) == {URL: "a1"}
    record.write_text("{}")
    require_same(URL, "b2", FILE)
    assert json.loads(record.read_text()) == {URL: "b2"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"x": 3}', "[" * 100_000, "\ud800"])
def test_a_damaged_record_says_so(record: Path, text: str) -> None:
    record.parent.mkdir()
    record.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DownloadError, match=f"^{record}, which tells .* is damaged: mend or remove it$"):
        require_same(URL, "a1", FILE)
