"""Pictures that open, show something, and survive what has become of the images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image
from small_world import files_of, picture, shard_of

from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.evaluate import evaluate
from retrieval.figures import adaptive_series, contact_sheet, plot_curve, same_encoder_series


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).reshape(-1, 3)


def share_of_colour(path: Path) -> float:
    """The share of pixels that are no grey."""
    spread = np.ptp(pixels(path).astype(int), axis=1)
    return float((spread > 20).mean())


def test_curve_is_drawn(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    space = searcher.encoder.space
    result = evaluate(searcher, open_source(queries), space.curve, same_encoder=True)
    series = [adaptive_series(result), same_encoder_series(result)]
    assert series[0].accuracy == [point.adaptive.value for point in result.points]
    assert series[1].gmacs == [point.cost.gmacs for point in result.points]
    full = searcher.encoder.cost(space.full).gmacs
    plot_curve(tmp_path / "one.png", series[:1], full_gmacs=full)
    plot_curve(tmp_path / "two.png", series, full_gmacs=full, title="digits", floors={"raw pixels": 0.3})
    assert share_of_colour(tmp_path / "two.png") > share_of_colour(tmp_path / "one.png") > 0.005


def test_one_point_is_a_curve(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    result = evaluate(searcher, open_source(queries), [searcher.encoder.space.full])
    plot_curve(tmp_path / "one.png", [adaptive_series(result)], full_gmacs=result.points[0].cost.gmacs)
    assert share_of_colour(tmp_path / "one.png") > 0


def test_xl_line_is_drawn_only_where_xl_was_measured(
    searcher: Searcher, queries: Path, tmp_path: Path
) -> None:
    space = searcher.encoder.space
    result = evaluate(searcher, open_source(queries), [space.smallest, space.full])
    full = searcher.encoder.cost(space.full).gmacs
    for points, drawn in ((result.points, True), (result.points[:1], False)):
        series = adaptive_series(replace(result, points=points))
        with rc_context({"svg.fonttype": "none"}):
            plot_curve(tmp_path / "curve.svg", [series], full_gmacs=full)
        assert ("XL queries" in (tmp_path / "curve.svg").read_text()) is drawn


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
