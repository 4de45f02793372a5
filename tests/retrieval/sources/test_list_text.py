"""Lists of text as people have them: with and without labels, quoted, tables with a header, JSON lines."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_lists import extras, fill, read, refused, text

from retrieval.sources.sample import Failure, Sample

FILES = ("a.jpg", "sub/b c.jpg", "d,e.jpg", "f's.jpg", "é.jpg")


def labels(place: Path) -> list[tuple[str, str | None]]:
    found = read(place)
    assert [item for item in found if isinstance(item, Failure)] == []
    return [(item.key, item.label) for item in found if isinstance(item, Sample)]


# --- one image a line ---


@pytest.mark.parametrize("between", [" ", "  ", "\t", ",", ", ", " , ", ";", "; "])
@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_a_path_and_a_label(tmp_path: Path, between: str, quote: str) -> None:
    fill(tmp_path, *FILES)
    names = ["cat", "0", "n01440764", "blue-bird", "Zoë"]
    lines = [
        f"{quote}{f.replace(quote, quote * 2) if quote else f}{quote}{between}{n}"
        for f, n in zip(FILES, names, strict=True)
    ]
    assert labels(text(tmp_path / "x.txt", "\n".join(lines))) == list(zip(FILES, names, strict=True))


@pytest.mark.parametrize("between", ["\t", ",", ", ", ";", " "])
@pytest.mark.parametrize(
    "names", [["golden retriever", "tench, fish"], ["0 3 5", "1,2"], ['"a, b"', "'c d'"]]
)
def test_labels_of_several_words(tmp_path: Path, between: str, names: Sequence[str]) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    place = text(tmp_path / "x.txt", f"a.jpg{between}{names[0]}\nb.jpg{between}{names[1]}\n")
    assert labels(place) == [("a.jpg", names[0].strip("\"'")), ("b.jpg", names[1].strip("\"'"))]


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quoted_paths_without_labels(tmp_path: Path, quote: str) -> None:
    fill(tmp_path, "a b.jpg", "c,d.jpg")
    assert labels(text(tmp_path / "x.lst", f"{quote}a b.jpg{quote}\r\n{quote}c,d.jpg{quote}\r\n")) == [
        ("a b.jpg", None),
        ("c,d.jpg", None),
    ]


def test_a_whole_line_that_is_a_path_is_one(tmp_path: Path) -> None:
    """Though what is before the last space is one, too."""
    names = ["a.jpg", "a.jpg copy", "a.jpg,old", '"a.jpg"', "a.jpg\t2"]
    fill(tmp_path, *names)
    assert labels(text(tmp_path / "x.txt", "\n".join(names))) == [(name, None) for name in names]


def test_most_of_the_first_lines_decide_for_all(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "last one.jpg")
    place = text(tmp_path / "x.txt", "a.jpg 1\ngone.jpg 2\nb.jpg 3\nc.jpg\nlast one.jpg\n")
    assert [(item.key, getattr(item, "label", "failed")) for item in read(place)] == [
        ("a.jpg", "1"),
        ("gone.jpg", "failed"),
        ("b.jpg", "3"),
        ("c.jpg", "failed"),
        ("last", "failed"),
    ]


def test_a_list_of_which_nothing_is_there_is_read_as_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()  # no file, and so no reason to take a line for more than a path
    lines = ["a.jpg 1", "b.jpg 2", "sub c.jpg"]
    assert read(text(tmp_path / "x.txt", "\n".join(lines))) == [
        Failure(line, "no such file") for line in lines
    ]


def test_labelled_paths_may_be_absolute(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    (tmp_path / "lists").mkdir()
    place = text(tmp_path / "lists/x.txt", f"{tmp_path}/a.jpg cat\n../a.jpg dog\n")
    assert labels(place) == [(f"{tmp_path}/a.jpg", "cat"), ("../a.jpg", "dog")]


def test_a_scheme_before_a_label_refuses_the_list(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    for line in ("https://example.org/b.jpg cat", "pipe:touch marker,cat"):
        assert "is not read; understood are" in refused(text(tmp_path / "x.txt", f"a.jpg 1\n{line}\n"))
    assert labels(text(tmp_path / "x.txt", "a.jpg pipe:x")) == [("a.jpg", "pipe:x")], "a label is no place"
    assert not (tmp_path / "marker").exists()


# --- tables ---


@pytest.mark.parametrize(
    "name",
    [
        *(
            "path",
            "image_path",
            "img_path",
            "file_path",
            "filepath",
            "file_name",
            "filename",
            "file",
            "image",
        ),
        *("image_name", "img", "Path", "Image Path", "FILE-NAME", " filename "),
    ],
)
def test_a_column_of_paths_has_many_names(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "a.jpg")
    assert labels(text(tmp_path / "x.csv", f"id,{name}\n7,a.jpg\n")) == [("a.jpg", None)]
    assert extras(tmp_path / "x.csv") == [{"id": "7"}]


@pytest.mark.parametrize(
    "name", ["label", "class", "class_name", "category", "target", "Label", "Class Name"]
)
def test_a_column_of_labels_too(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    place = text(tmp_path / "x.csv", f"{name},path\ncat,a.jpg\n,b.jpg\n")
    assert labels(place) == [("a.jpg", "cat"), ("b.jpg", None)]
    assert extras(place) == [{} if name == "label" else {name: "cat"}, {}]


def test_the_first_of_several_names_is_taken_and_the_others_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    place = text(tmp_path / "x.csv", "image,target,label,file_name,key\nI,T,L,a.jpg,K\n")
    (item,) = read(place)
    assert item == Sample("K", f"{tmp_path}/a.jpg", "L", {"image": "I", "target": "T"}, b"a.jpg")


@pytest.mark.parametrize("name, between", [("x.csv", ","), ("x.csv", ";"), ("x.csv", "\t"), ("X.TSV", "\t")])
def test_tables_as_programs_write_them(tmp_path: Path, name: str, between: str) -> None:
    fill(tmp_path, *FILES)
    rows = [["path", "label", "note"], *([f'"{file}"', "007", '"two\nlines, ""q"""'] for file in FILES)]
    written = "\r\n".join(between.join(row) for row in rows)
    for start in ("", "\ufeff"):
        place = text(tmp_path / name, start + written)
        assert labels(place) == [(file, "007") for file in FILES]
        assert extras(place) == [{"note": 'two\nlines, "q"'}] * len(FILES)


def test_values_are_text_as_they_stand_but_for_spaces_around(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "1")
    place = text(tmp_path / "x.csv", "path, label , when,n,b\na.jpg, 1.0 ,2024-01-02,1e3,true\n1,NA,null,,\n")
    assert [(s.key, s.label) for s in read(place) if isinstance(s, Sample)] == [("a.jpg", "1.0"), ("1", "NA")]
    kept = [{name.strip(): value for name, value in extra.items()} for extra in extras(place)]
    assert kept == [
        {"label": "1.0", "when": "2024-01-02", "n": "1e3", "b": "true"},
        {"label": "NA", "when": "null"},
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not a table with a header line"),
        ("path\n", "no entries"),
        (
            "a.jpg,cat\nb.jpg,dog\n",
            "no column of paths among 'a.jpg', 'cat'; call it one of path, image_path",
        ),
        ("path,label\na.jpg\n", "not a table with a header line"),
        ("path,path\na,b\n", "two columns are called 'path'"),
        ("path,\na,b\n", "a column has no name"),
        ("path,label\na,b\n,c\n", "entry 2 has no path"),
        ("path,key\na,b\nc,b\n", "the key 'b' comes twice"),
        ("path\nhttps://example.org/a.jpg\n", "is not read; understood are"),
        (b"path\ncaf\xe9.jpg\n", "not UTF-8 text"),
        ("path\na.jpg\n".encode("utf-16"), "not UTF-8 text"),
    ],
    ids=range(11),
)
def test_tables_that_are_none(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refused(text(tmp_path / "x.csv", content))


# --- JSON lines ---


def test_json_lines(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    written = (
        '{"file_name": "a.jpg", "label": 3, "tags": ["x", "é"], "ok": true, "note": null}\n\n'
        '{"file_name": "b.jpg", "more": {"a": null}}\r\n'
    )
    for name in ("metadata.jsonl", "x.NDJSON"):
        place = text(tmp_path / name, written)
        assert labels(place) == [("a.jpg", "3"), ("b.jpg", None)]
        assert extras(place) == [{"tags": '["x", "é"]', "ok": "true"}, {"more": '{"a": null}'}]


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"path": "a"}\n["a"]\n', "line 2 is no JSON object; write one a line"),
        ('{"path": "a"}\n{"path"\n', "line 2 is no JSON object"),
        ("[" * 100_000, "line 1 is no JSON object"),
        ('{"path": "\\ud800"}', "line 1 is no JSON object"),
        ('{"url": "a"}\n{"id": 1}', "no column of paths among 'url', 'id'"),
        ('{"path": "a"}\n{"id": 1}', "entry 2 has no path"),
        ('{"path": "a", "": 1}', "a column has no name"),
    ],
    ids=range(7),
)
def test_json_lines_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    assert message in refused(text(tmp_path / "x.jsonl", content))
