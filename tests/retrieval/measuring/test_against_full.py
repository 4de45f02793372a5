"""Submodels beside the full encoder, on images that they were not fitted to."""

import numpy as np
import pytest
import torch
from refitted_world import encoder_of

from matvit import Submodel
from matvit.submodels.cost import Cost
from retrieval.measuring import against_full
from retrieval.measuring.against_full import compare, why_poor
from retrieval.measuring.curve import Point
from retrieval.measuring.estimate import Estimate


def test_a_report_says_what_ten_lines_of_numpy_say(plain, refitted, drawn, monkeypatch):
    monkeypatch.setattr(against_full, "ENOUGH", len(drawn.labels))
    encoder = encoder_of(refitted)
    submodel = encoder.submodel("S*2+M*2")
    curve = compare(encoder, plain, drawn, [encoder.space.full, submodel, encoder.submodel("M")])
    assert [str(point.submodel) for point in curve.points] == ["S*2+M*2", "M", "XL"]
    batch = torch.cat(drawn.check)
    full, small = (encoder.embed(batch, each) for each in (None, submodel))
    value = {name: measure.value for name, measure in curve.points[0].measures.items()}
    assert value["cosine"] == pytest.approx((full * small).sum(1).mean(), abs=1e-6)
    assert value["cosine_p5"] == pytest.approx(np.percentile((full * small).sum(1), 5), abs=1e-6)
    other_images = full @ full.T
    other = (other_images.sum() - np.trace(other_images)) / (len(full) * (len(full) - 1))
    assert value["closeness"] == pytest.approx((value["cosine"] - other) / (1 - other), abs=1e-5)
    near, wanted = [], []
    for query in range(len(batch)):
        others = [row for row in range(len(batch)) if row != query]
        near.append(sorted(others, key=lambda row: -small[query] @ full[row]))
        wanted.append(sorted(others, key=lambda row: -full[query] @ full[row]))
    same = [a[0] == b[0] for a, b in zip(near, wanted, strict=True)]
    common = [len({*a[:10]} & {*b[:10]}) / 10 for a, b in zip(near, wanted, strict=True)]
    assert value["equal_top1"] == pytest.approx(np.mean(same))
    assert value["overlap_10"] == pytest.approx(np.mean(common))
    right, best = ([drawn.labels[a[0]] for a in each] == drawn.labels for each in (near, wanted))
    assert value["adaptive_1nn"] == pytest.approx(right.mean())
    assert value["difference"] == pytest.approx(right.mean() - best.mean())
    slice_of_m = (plain.embed(batch, plain.submodel("M")) * full).sum(1).mean()
    assert curve.points[1].measures["slice_cosine"].value == pytest.approx(slice_of_m, abs=1e-6)
    assert "slice_cosine" not in value
    assert curve.points[2].measures["cosine"].value == pytest.approx(1, abs=1e-6)


def test_of_few_images_no_neighbours_are_told(refitted, drawn):
    encoder = encoder_of(refitted)
    for point in compare(encoder, None, drawn, encoder.space.curve).points:
        assert set(point.measures) == {"cosine", "cosine_p5", "closeness"}


def test_a_table_has_the_same_columns_in_every_row(plain, refitted, drawn):
    encoder = encoder_of(refitted)
    table = compare(encoder, plain, drawn, encoder.space.curve).table()
    assert len(table) == len(encoder.space.curve)
    assert len({tuple(row) for row in table}) == 1
    assert table[0]["queries"] == 20
    assert table[0]["slice_cosine"] != ""
    assert table[1]["slice_cosine"] == ""


@pytest.mark.parametrize(
    "measures, said",
    [
        ({"cosine": 0.85, "closeness": 0.81}, None),
        (
            {"cosine": 0.95, "closeness": 0.7},
            "S is not worth using: it moves embeddings by 30% of what sets images apart",
        ),
        ({"cosine": 0.85, "closeness": 0.7, "overlap_10": 0.5}, None),
        (
            {"cosine": 0.95, "closeness": 0.9, "overlap_10": 0.3},
            "S is not worth using: it finds 30% of the full encoder's ten nearest images",
        ),
        ({"cosine": 0.85, "overlap_10": 0.3, "difference": -0.01}, None),
        ({"cosine": 0.99, "difference": -0.08}, "S is not worth using: it loses 8.0 points of 1-NN"),
        ({"cosine": 0.97, "slice_cosine": 0.98}, "S is no closer to the full encoder than a plain slice"),
    ],
    ids=str,
)
def test_what_is_not_worth_using_is_said(measures, said):
    estimates = {name: Estimate(value, (value, value)) for name, value in measures.items()}
    warning = why_poor(Point(Submodel((1, 1), labels=("S", "S")), Cost(1, 1), 0.5, estimates))
    assert (warning or "").startswith(said or "")
    assert (warning is None) == (said is None)
