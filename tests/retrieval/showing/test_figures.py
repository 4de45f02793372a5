"""Pictures that open, show something, and survive what has become of the images."""

from dataclasses import replace
from pathlib import Path

from drawings import share_of_colour
from matplotlib import rc_context

from retrieval import Searcher, open_source
from retrieval.measuring.evaluate import evaluate
from retrieval.showing.figures import plot_curve


def test_curve_is_drawn(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    space = searcher.encoder.space
    result = evaluate(searcher, open_source(queries), space.curve, same_encoder=True)
    series = [result.series(f"{which}_1nn", which) for which in ("adaptive", "same_encoder")]
    assert series[0].values == [point["adaptive_1nn"].value for point in result.points]
    assert series[1].gmacs == [point.cost.gmacs for point in result.points]
    full = searcher.encoder.cost(space.full).gmacs
    plot_curve(tmp_path / "one.png", series[:1], full_gmacs=full)
    plot_curve(tmp_path / "two.png", series, full_gmacs=full, title="digits", floors={"raw pixels": 0.3})
    assert share_of_colour(tmp_path / "two.png") > share_of_colour(tmp_path / "one.png") > 0.005


def test_every_curve_is_drawn_however_many_there_are(
    searcher: Searcher, queries: Path, tmp_path: Path
) -> None:
    space = searcher.encoder.space
    result = evaluate(searcher, open_source(queries), [space.smallest, space.full])
    full = searcher.encoder.cost(space.full).gmacs
    series = [result.series("adaptive_1nn", f"curve {number}") for number in range(9)]
    with rc_context({"svg.fonttype": "none"}):
        plot_curve(tmp_path / "curves.svg", series, full_gmacs=full)
    drawn = (tmp_path / "curves.svg").read_text()
    assert all(each.name in drawn for each in series)


def test_one_point_is_a_curve(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    result = evaluate(searcher, open_source(queries), [searcher.encoder.space.full])
    plot_curve(
        tmp_path / "one.png",
        [result.series("adaptive_1nn", "adaptive 1-NN")],
        full_gmacs=result.points[0].cost.gmacs,
    )
    assert share_of_colour(tmp_path / "one.png") > 0


def test_xl_line_is_drawn_only_where_xl_was_measured(
    searcher: Searcher, queries: Path, tmp_path: Path
) -> None:
    space = searcher.encoder.space
    result = evaluate(searcher, open_source(queries), [space.smallest, space.full])
    full = searcher.encoder.cost(space.full).gmacs
    for points, drawn in ((result.points, True), (result.points[:1], False)):
        series = replace(result, points=points).series("adaptive_1nn", "adaptive 1-NN")
        with rc_context({"svg.fonttype": "none"}):
            plot_curve(tmp_path / "curve.svg", [series], full_gmacs=full)
        assert ("XL queries" in (tmp_path / "curve.svg").read_text()) is drawn
