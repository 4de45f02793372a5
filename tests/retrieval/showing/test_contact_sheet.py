"""A page of one file that runs nothing and asks nobody for anything, whatever images are called."""

import io
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from drawings import pixels, share_of_colour
from entries import keys_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_world import files_of, picture, shard_of

from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.hits import Hit, Hits
from retrieval.showing.contact_sheet import contact_sheet

GREEN, ORANGE = (0, 158, 115), (213, 94, 0)
GONE = "(no longer there)"
SCRIPT = "<script>alert(1)</script>"
BARE = [
    *("html", "head", "meta", "title", "style", "body"),
    *("section", *("figure", "figcaption", "span") * 2),
]
"""The tags of a page of one query and one hit, both of which have gone."""
HOSTILE = [SCRIPT, '"><img src=x onerror=alert(1)>', "' onmouseover='x", "&lt;b&gt;", "</figcaption>", "]]>"]


class Page(HTMLParser):
    """What a browser makes of a page: tags with their attributes, and the text of each figure."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[str] = []
        self.rows: list[int] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.rows.append(0)
        if tag == "figure":
            self.rows[-1] += 1
            self.figures.append("")

    def handle_data(self, data: str) -> None:
        if self.figures:
            self.figures[-1] += data

    def images(self) -> list[np.ndarray]:
        sources = [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]
        assert all(
            source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in sources
        )
        files = (io.BytesIO(b64decode(source.partition(",")[2])) for source in sources)
        return [np.asarray(Image.open(file)) for file in files]


def hits_of(*hits: Hit) -> Hits:
    return Hits(None, None, "Flat", hits)


def test_queries_and_hits_are_shown_in_order(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    asked = files_of(queries)[:2]
    rows = [(file.name, file, searcher.query(file, k=3)) for file in asked]
    contact_sheet(tmp_path / "sheet.HTML", rows)
    page = Page(tmp_path / "sheet.HTML")
    assert page.rows == [4, 4]
    expected = [file for _, file, hits in rows for file in (file, *(Path(hit.path) for hit in hits))]
    for shown, file in zip(page.images(), expected, strict=True):
        np.testing.assert_array_equal(shown, np.asarray(Image.open(file)))
    captions = [
        text
        for caption, _, hits in rows
        for text in (
            f"{caption}{caption}",  # which is the file's name here
            *(f"{hit.score:.3f} {hit.label}{Path(hit.path).name}" for hit in hits),
        )
    ]
    assert [figure.strip() for figure in page.figures] == captions
    titles = [attributes.get("title") for tag, attributes in page.tags if tag == "figure"]
    assert titles == [text for _, file, hits in rows for text in (str(file), *(hit.key for hit in hits))]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [file.as_uri() for file in expected]


def test_it_is_one_file_that_loads_nothing(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    file = files_of(queries)[0]
    (tmp_path / "out").mkdir()
    contact_sheet(tmp_path / "out" / "sheet.html", [(file.name, file, searcher.query(file))])
    assert files_of(tmp_path) == [tmp_path / "out" / "sheet.html"]
    page = Page(tmp_path / "out" / "sheet.html")
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body"),
        *("section", "figure", "a", "img", "figcaption", "span"),
    }
    for _, attributes in page.tags:
        assert attributes.keys() <= {"lang", "charset", "title", "class", "href", "width", "src", "alt"}
        assert (attributes.get("href") or "file://").startswith("file://")
        assert (attributes.get("src") or "data:").startswith("data:")
    style = (tmp_path / "out" / "sheet.html").read_text().partition("</style>")[0]
    assert not any(word in style for word in ("url(", "@import", "http"))


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_labels_are_text(text: str, tmp_path: Path) -> None:
    gone = Hit(text, 0.5, text, f"/nowhere/{text}")
    contact_sheet(tmp_path / "sheet.html", [(text, "/nowhere", hits_of(gone))])
    page = Page(tmp_path / "sheet.html")
    assert [tag for tag, _ in page.tags] == BARE
    query, hit = (figure.strip() for figure in page.figures)
    assert (query, hit) == (f"{GONE}{text}nowhere", f"{GONE}0.500 {text}{Path(gone.path).name}")
    assert page.tags[-3] == ("figure", {"class": "unknown", "title": text})


@given(st.text(st.characters(exclude_categories=())))  # surrogates too, as names that are not UTF-8 have
def test_no_text_becomes_a_tag(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    sheet = tmp_path_factory.mktemp("page") / "sheet.html"
    contact_sheet(sheet, [(text, "/nowhere", hits_of(Hit(text, 0.5, text, "/nowhere")))])
    page = Page(sheet)
    assert [tag for tag, _ in page.tags] == BARE
    assert [set(attributes) for tag, attributes in page.tags if tag == "figure"] == [{"class", "title"}] * 2


def test_a_file_s_own_name_is_text(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "<b>\"'"
    folder.mkdir(parents=True)
    picture("red", 0).save(folder / "<img src=x>.png")
    build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    query = folder / "<img src=x>.png"
    hits = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").query(query)
    contact_sheet(tmp_path / "sheet.html", [(query.name, query, hits)])
    page = Page(tmp_path / "sheet.html")
    assert len(page.images()) == 2
    assert page.tags[-5] == ("figure", {"class": "unknown", "title": "<b>\"'/<img src=x>.png"})
    assert page.tags[-4] == ("a", {"href": query.as_uri()})


@pytest.mark.parametrize("fate", ["gone", "broken", "empty", "folder"])
def test_images_that_have_vanished_are_said_to(encoder: Encoder, tmp_path: Path, fate: str) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        picture("red", number).save(tmp_path / "photos" / f"{number}.png")
    build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    query = tmp_path / "photos" / "1.png"
    hits = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").query(query)
    victim = tmp_path / "photos" / "2.png"
    victim.unlink()
    if fate == "folder":
        victim.mkdir()
    elif fate != "gone":
        victim.write_bytes(b"broken" * (fate == "broken"))
    contact_sheet(tmp_path / "sheet.html", [("query", query, hits)])
    page = Page(tmp_path / "sheet.html")
    shown = [GONE in figure for figure in page.figures]
    assert shown == [False, *(hit.key == "2.png" for hit in hits)]
    assert len(page.images()) == 3


def test_hits_in_shards_are_shown_and_may_be_queries(encoder: Encoder, corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)[:4]
    shard_of(tmp_path / "x.tar", files)
    build_index(open_source(tmp_path / "x.tar"), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    query = searcher.hit(keys_of(searcher.index)[2])
    hits = searcher.query_key(query.key, k=3)
    contact_sheet(tmp_path / "sheet.html", [(query.key, query, hits)])
    assert not [tag for tag, _ in Page(tmp_path / "sheet.html").tags if tag == "a"]
    by_key = dict(zip(keys_of(searcher.index), files, strict=True))
    keys = [query.key, *(hit.key for hit in hits)]
    for shown, key in zip(Page(tmp_path / "sheet.html").images(), keys, strict=True):
        np.testing.assert_array_equal(shown, np.asarray(Image.open(by_key[key])))


def test_nothing_found_is_a_query_alone(queries: Path, tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.html", [("query", files_of(queries)[0], hits_of())])
    assert Page(tmp_path / "sheet.html").rows == [1]


def test_contact_sheet_shows_queries_and_hits(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    asked = files_of(queries)[:2]
    rows = [(file.name, file, searcher.query(file, k=4)) for file in asked]
    contact_sheet(tmp_path / "sheet.png", rows)
    assert share_of_colour(tmp_path / "sheet.png") > 0.1
    contact_sheet(tmp_path / "row.png", rows[:1], columns=2)
    with Image.open(tmp_path / "sheet.png") as large, Image.open(tmp_path / "row.png") as small:
        assert large.width > small.width
        assert large.height > small.height


@pytest.mark.parametrize("name", ["x.tar", "X.TAR"])
def test_hits_in_shards_are_drawn(
    encoder: Encoder, corpus: Path, queries: Path, tmp_path: Path, name: str
) -> None:
    shard_of(tmp_path / name, files_of(corpus))
    build_index(open_source(tmp_path / name), encoder, tmp_path / "i")
    query = tmp_path / "black.png"
    Image.new("RGB", (16, 16)).save(query)
    hits = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").query(query, k=8)
    contact_sheet(tmp_path / "sheet.png", [("", query, hits)])
    assert share_of_colour(tmp_path / "sheet.png") > 0.1


@pytest.mark.parametrize("fate", ["gone", "replaced", "empty"])
def test_hits_that_have_vanished_leave_an_empty_tile(encoder: Encoder, tmp_path: Path, fate: str) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        picture("red", number).save(tmp_path / "photos" / f"{number}.png")
    build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    query = tmp_path / "black.png"
    Image.new("RGB", (16, 16)).save(query)
    hits = searcher.query(query)
    contact_sheet(tmp_path / "before.png", [("query", query, hits)])
    for file in files_of(tmp_path / "photos"):
        if fate == "gone":
            file.unlink()
        else:
            file.write_text("no image" if fate == "replaced" else "")
    contact_sheet(tmp_path / "after.png", [("query", query, hits)])
    assert share_of_colour(tmp_path / "after.png") == 0 < share_of_colour(tmp_path / "before.png")


def test_file_names_and_labels_are_text_not_formulas(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / r"$\nonsense{$"
    folder.mkdir(parents=True)
    picture("red", 0).save(folder / "1.png")
    build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    hits = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").query(folder / "1.png")
    contact_sheet(tmp_path / "sheet.png", [(r"$\frac$ 100 $", folder / "1.png", hits)])
    assert share_of_colour(tmp_path / "sheet.png") > 0.1


def verdicts(page: Page) -> list[str | None]:
    return [attributes["class"] for tag, attributes in page.tags if tag == "figure"]


def test_right_and_wrong_are_told_where_both_labels_are_known(tmp_path: Path) -> None:
    for name in ("q", "cat", "dog", "none"):
        picture("red", 0).save(tmp_path / f"{name}.png")
    hits = hits_of(
        *(Hit(n, 0.5, None if n == "none" else n, f"{tmp_path}/{n}.png") for n in ("cat", "dog", "none"))
    )
    known, unknown = Hit("q", 1.0, "cat", f"{tmp_path}/q.png"), tmp_path / "q.png"
    contact_sheet(tmp_path / "sheet.html", [("", known, hits), ("", unknown, hits)])
    page = Page(tmp_path / "sheet.html")
    assert verdicts(page) == ["unknown", "right", "wrong", "unknown", *["unknown"] * 4]
    assert [figure.strip() for figure in page.figures[1:4]] == [
        *("0.500 ✓ catcat.png", "0.500 ✗ dogdog.png", "0.500none.png")
    ]

    contact_sheet(tmp_path / "known.png", [("", known, hits)])
    contact_sheet(tmp_path / "unknown.png", [("", unknown, hits)])
    green, orange = ((pixels(tmp_path / "known.png") == colour).all(1).sum() for colour in (GREEN, ORANGE))
    assert min(green, orange) > 100
    assert not [c for c in (GREEN, ORANGE) if (pixels(tmp_path / "unknown.png") == c).all(1).any()]


def test_photographs_are_jpegs_and_only_what_is_tiny_is_enlarged(tmp_path: Path) -> None:
    for name, size in {"photo": (640, 480), "small": (150, 100), "tiny": (8, 4)}.items():
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    hits = hits_of(*(Hit(n, 0.5, None, f"{tmp_path}/{n}.png") for n in ("small", "tiny")))
    contact_sheet(tmp_path / "sheet.html", [("", tmp_path / "photo.png", hits)])
    images = [attributes for tag, attributes in Page(tmp_path / "sheet.html").tags if tag == "img"]
    assert [(image["class"], image["width"]) for image in images] == [
        *(("photo", "240"), ("photo", "150"), ("tiny", "240"))
    ]
    kinds = [str(image["src"]).partition(";")[0] for image in images]
    assert kinds == ["data:image/jpeg", "data:image/jpeg", "data:image/png"]


def test_a_name_that_no_font_has_is_drawn_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    file = tmp_path / "犬\x1b[31m.png"
    picture("red", 0).save(file)
    contact_sheet(tmp_path / "sheet.png", [("犬", file, hits_of(Hit("犬", 0.5, "犬", str(file))))])
    assert share_of_colour(tmp_path / "sheet.png") > 0.1
    assert not recwarn
