"""The curve, against ten lines of NumPy and plain timm models."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import files_of, picture, random_matvit, shard_of
from timm.data import create_transform, resolve_model_data_config

import matvit
from indexes import Index
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.encoding.preprocess import Preprocess
from retrieval.errors import EvaluationError, ImageSourceError
from retrieval.measuring.evaluate import evaluate
from retrieval.measuring.evaluation import Evaluation
from retrieval.showing.csv_table import write_csv
from retrieval.sources.sample import Failure


def embedded(checkpoint: Path, files: list[Path], submodel: matvit.Submodel) -> np.ndarray:
    plain = matvit.load(checkpoint).extract(submodel)
    plain.reset_classifier(0)
    transform = create_transform(**resolve_model_data_config(plain), is_training=False)
    with torch.inference_mode():
        vectors = plain(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    return torch.nn.functional.normalize(vectors).numpy()


def one_nn(
    queries: np.ndarray, corpus: np.ndarray, wanted: list[str], labels: list[str], *, loo: bool
) -> int:
    scores = queries @ corpus.astype(np.float16).astype(np.float32).T
    if loo:
        np.fill_diagonal(scores, -np.inf)
    return sum(labels[best] == label for best, label in zip(scores.argmax(1), wanted, strict=True))


def oracle(checkpoint: Path, queries: Path, corpus: Path, *, loo: bool = False) -> dict[str, tuple[int, int]]:
    """Correct answers, adaptive and same-encoder, of every submodel of the curve."""
    asked, known = files_of(queries), files_of(corpus)
    wanted, labels = [f.parent.name for f in asked], [f.parent.name for f in known]
    space = matvit.load(checkpoint).space
    full = embedded(checkpoint, known, space.full)
    counts = {}
    for s in space.curve:
        vectors, own = embedded(checkpoint, asked, s), embedded(checkpoint, known, s)
        counts[str(s)] = (
            one_nn(vectors, full, wanted, labels, loo=loo),
            one_nn(vectors, own, wanted, labels, loo=loo),
        )
    return counts


def counted(result: Evaluation) -> dict[str, tuple[int, int]]:
    assert all("same_encoder_1nn" in point.measures for point in result.points)
    return {str(p.submodel): (p["adaptive_1nn"].count, p["same_encoder_1nn"].count) for p in result.points}


@pytest.fixture(scope="module")
def result(searcher: Searcher, queries: Path) -> Evaluation:
    curve = searcher.encoder.space.curve
    return evaluate(searcher, open_source(queries), curve[::-1], same_encoder=True, batch_size=7)


def test_accuracies_are_those_of_plain_models(
    result: Evaluation, checkpoint: Path, queries: Path, corpus: Path
) -> None:
    expected = oracle(checkpoint, queries, corpus)
    assert counted(result) == expected
    assert len({adaptive for adaptive, _ in expected.values()}) > 3, "the oracle tells submodels apart"
    assert any(adaptive != own for adaptive, own in expected.values())
    assert all(point["adaptive_1nn"].total == 20 for point in result.points)
    assert (result.queries, result.unlabelled, result.left_out, result.failures) == (20, 0, 0, ())


def test_submodels_that_see_fewer_tokens_are_measured_with_images_of_their_size(
    searcher: Searcher, queries: Path, corpus: Path
) -> None:
    encoder, asked, known = searcher.encoder, files_of(queries), files_of(corpus)
    wanted, labels = [f.parent.name for f in asked], [f.parent.name for f in known]

    def by_hand(files: list[Path], submodel: matvit.Submodel) -> np.ndarray:
        preprocess = encoder.preprocess_for(submodel)
        return encoder.embed(torch.stack([preprocess(file) for file in files]), submodel)

    submodels = [encoder.submodel(budget) for budget in ("M@8px", "XL~8*1+4*1+0*2", "L")]
    result = evaluate(searcher, queries, submodels, same_encoder=True, batch_size=7)
    full = by_hand(known, encoder.space.full)
    expected = {}
    for submodel in submodels:
        vectors = by_hand(asked, submodel)
        expected[str(submodel)] = (
            one_nn(vectors, full, wanted, labels, loo=False),
            one_nn(vectors, by_hand(known, submodel), wanted, labels, loo=False),
        )
    assert counted(result) == expected


def test_points_come_cheapest_first_with_their_cost(result: Evaluation, encoder: Encoder) -> None:
    assert [point.submodel for point in result.points] == list(encoder.space.curve)
    assert [point.cost for point in result.points] == [encoder.cost(s) for s in encoder.space.curve]
    assert result.points[-1].share_of_full == 1


def test_csv_holds_the_table(result: Evaluation, tmp_path: Path) -> None:
    write_csv(tmp_path / "curve.csv", result.table())
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measures = list(result.points[0].measures)
    first = ["submodel", "widths", "gmacs", "gflops", "mparams", "share_of_xl"]
    with_intervals = [f"{name}{end}" for name in measures for end in ("", "_low", "_high")]
    assert list(rows[0]) == [*first, *with_intervals, "queries"]
    assert {
        "adaptive_1nn",
        "same_encoder_1nn",
        "difference",
        "knn_20",
        "map_at_10",
        "equal_top1",
        "equal_predictions",
    } < set(measures)
    for row, point in zip(rows, result.points, strict=True):
        assert row["submodel"] == str(point.submodel)
        assert tuple(map(int, row["widths"].split())) == point.submodel.widths
        assert float(row["gflops"]) == pytest.approx(2 * float(row["gmacs"]))
        assert float(row["adaptive_1nn"]) == point["adaptive_1nn"].count / 20
        low, high = point["adaptive_1nn"].interval
        assert float(row["adaptive_1nn_low"]) == pytest.approx(low, abs=1e-6)
        assert float(row["adaptive_1nn_high"]) == pytest.approx(high, abs=1e-6)
        assert row["queries"] == "20"


def test_others_are_compared_with_the_full_encoder_though_it_is_not_asked_for(
    searcher: Searcher, queries: Path, result: Evaluation
) -> None:
    small = searcher.encoder.space.smallest
    [alone] = evaluate(searcher, open_source(queries), [small]).points
    beside = result.points[0]
    assert alone.measures.keys() == beside.measures.keys() - {"to_line", "same_encoder_1nn"}
    for name, measure in alone.measures.items():
        assert measure.value == pytest.approx(beside.measures[name].value, abs=1e-6), name
    drop = beside["adaptive_1nn"].value - result.points[-1]["adaptive_1nn"].value
    assert alone.measures["difference"].value == pytest.approx(drop)


def test_classifiers_are_compared_as_plain_models_are(
    result: Evaluation, checkpoint: Path, queries: Path
) -> None:
    files = files_of(queries)
    model = matvit.load(checkpoint)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        full = model(images).log_softmax(-1)
        for point in result.points:
            ours = model(images, point.submodel).log_softmax(-1)
            same = (ours.argmax(-1) == full.argmax(-1)).float().mean()
            assert point.measures["equal_predictions"].value == pytest.approx(float(same))
            divergence = torch.nn.functional.kl_div(ours, full, log_target=True, reduction="batchmean")
            assert point.measures["divergence"].value == pytest.approx(float(divergence), abs=1e-6)


def test_without_same_encoder_it_is_not_in_the_table(searcher: Searcher, queries: Path) -> None:
    result = evaluate(searcher, open_source(queries), [searcher.encoder.space.full])
    assert "same_encoder_1nn" not in result.points[0].measures
    assert not any("same" in name for name in result.table()[0])


def test_corpus_images_are_searched_without_themselves(
    checkpoint: Path, encoder: Encoder, corpus: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(corpus, tmp_path / "photos")
    # A twin under another label: each of the two must find the other one, not itself.
    twin = picture("red", 1)
    twin.putpixel((3, 3), (9, 9, 9))  # not quite the same, since equal scores have no order
    twin.save(folder / "blue" / "twin.png")
    build_index(open_source(folder), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    result = evaluate(searcher, open_source(folder), encoder.space.curve, same_encoder=True)
    expected = oracle(checkpoint, folder, folder, loo=True)
    assert counted(result) == expected
    assert result.left_out == 41
    assert expected["XL"][0] < 41


def test_corpus_images_of_shards_are_searched_without_themselves(
    checkpoint: Path, encoder: Encoder, corpus: Path, tmp_path: Path
) -> None:
    shard_of(tmp_path / "x.tar", files_of(corpus))
    build_index(open_source(tmp_path), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    result = evaluate(
        searcher, open_source(tmp_path / "x.tar"), encoder.space.curve, same_encoder=True, batch_size=3
    )
    assert counted(result) == oracle(checkpoint, corpus, corpus, loo=True)
    assert result.left_out == 40


def test_corpus_images_are_known_by_any_way_to_their_folder(
    searcher: Searcher, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(corpus)
    monkeypatch.chdir(corpus)
    for way in (".", "../corpus", f"{corpus}/../corpus", tmp_path / "link"):
        result = evaluate(searcher, open_source(way), [searcher.encoder.space.full])
        assert result.left_out == 40, way


def test_the_same_keys_elsewhere_are_other_images(searcher: Searcher, corpus: Path, tmp_path: Path) -> None:
    copies = shutil.copytree(corpus, tmp_path / "copies")
    result = evaluate(searcher, open_source(copies), [searcher.encoder.space.full], same_encoder=True)
    assert result.left_out == 0
    assert counted(result) == {"XL": (40, 40)}


def test_what_has_no_label_or_cannot_be_read_is_counted(
    searcher: Searcher, queries: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(queries, tmp_path / "photos")
    for name in ("a.png", "b.png"):
        picture("red", 7).save(folder / name)
    (folder / "red" / "broken.jpg").write_text("no image")
    (folder / "unlabelled.jpg").touch()
    seen: list[tuple[str, int, int | None]] = []
    curve = searcher.encoder.space.curve
    result = evaluate(
        searcher,
        open_source(folder, labels=True),
        curve,
        progress=lambda *step: seen.append(step),
        batch_size=4,
    )
    expected = evaluate(searcher, open_source(queries), curve)
    assert [p["adaptive_1nn"] for p in result.points] == [p["adaptive_1nn"] for p in expected.points]
    assert (result.queries, result.unlabelled) == (20, 2)
    assert set(result.failures) == {
        Failure("red/broken.jpg", "not an image"),
        Failure("unlabelled.jpg", "empty file (0 bytes)"),
    }
    assert seen[-1] == ("images embedded", 24, 24)


# The kind: labels that no row has, rows that are removed, and a class of which the query is the one image.
def test_queries_that_can_only_be_wrong_are_left_out_and_counted(
    checkpoint: Path, encoder: Encoder, searcher: Searcher, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    curve = encoder.space.uniforms()
    folder = shutil.copytree(queries, tmp_path / "photos")
    (folder / "red").rename(folder / "mauve")
    without_red = shutil.copytree(queries, tmp_path / "without")
    shutil.rmtree(without_red / "red")
    result = evaluate(searcher, open_source(folder), curve, batch_size=3)
    known = evaluate(searcher, open_source(without_red), curve)
    assert (result.queries, result.alone, known.queries, known.alone) == (16, 4, 16, 0)
    # Not to the last bit, which hangs on the images that are embedded together.
    rows = [pytest.approx(point.row(), abs=2e-6) for point in known.points]
    assert [point.row() for point in result.points] == rows

    lonely = shutil.copytree(corpus, tmp_path / "lonely")
    for file in files_of(lonely / "red")[1:]:
        file.unlink()
    build_index(open_source(lonely), encoder, tmp_path / "i")
    among_itself = Searcher(Index.open(tmp_path / "i"), encoder)
    result = evaluate(among_itself, open_source(lonely), curve, same_encoder=True)
    assert (result.queries, result.alone, result.left_out) == (32, 1, 32)
    Index.open(tmp_path / "i").remove_where("label = 'red'", command="")
    result = evaluate(Searcher(Index.open(tmp_path / "i"), encoder), open_source(queries), curve)
    assert (result.queries, result.alone) == (16, 4)


class Blind:
    """Preprocessing that makes of some images what no model can embed."""

    def __init__(self, preprocess: Preprocess, victims: list[bytes]) -> None:
        self._preprocess, self._victims = preprocess, victims

    def read(self, image: bytes) -> Image.Image:
        read = self._preprocess.read(image)
        read.info["blind"] = image in self._victims
        return read

    def tensor(self, image: Image.Image) -> torch.Tensor:
        return self._preprocess.tensor(image) * (torch.nan if image.info["blind"] else 1)


def test_a_query_that_cannot_be_embedded_is_a_failure(encoder: Encoder, index: Path, queries: Path) -> None:
    searcher = Searcher(Index.open(index), encoder)
    victim = files_of(queries)[5]
    real = searcher.encoder.preprocess
    searcher.encoder.preprocess = Blind(real, [victim.read_bytes()])
    result = evaluate(searcher, open_source(queries), encoder.space.curve)
    key = victim.relative_to(queries).as_posix()
    assert result.failures == (Failure(key, "the model's embedding of it is zero or not finite"),)
    assert (result.queries, len(result.samples), result.right.shape[1]) == (19, 19, 19)
    searcher.encoder.preprocess = Blind(real, [file.read_bytes() for file in files_of(queries)])
    with pytest.raises(EvaluationError, match=r"^no query in .* could be embedded \(the first, .*finite\)$"):
        evaluate(searcher, open_source(queries), encoder.space.curve)


def test_queries_that_cannot_be_right_are_an_error(searcher: Searcher, queries: Path, tmp_path: Path) -> None:
    shutil.copytree(queries / "red", tmp_path / "flat")
    with pytest.raises(EvaluationError, match=r"no query in .*flat has a label"):
        evaluate(searcher, open_source(tmp_path / "flat"), [searcher.encoder.space.full])
    shutil.copytree(queries / "red", tmp_path / "other" / "mauve")
    with pytest.raises(EvaluationError, match=r"labels \(mauve.* of another image of the corpus"):
        evaluate(searcher, open_source(tmp_path / "other", labels=True), [searcher.encoder.space.full])


def test_a_corpus_that_has_moved_cannot_be_embedded_again(
    encoder: Encoder, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(corpus, tmp_path / "photos")
    build_index(open_source(folder), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    folder.rename(tmp_path / "moved")
    assert evaluate(searcher, open_source(queries), [encoder.space.full]).queries == 20
    with pytest.raises(ImageSourceError, match="photos: no such file or folder"):
        evaluate(searcher, open_source(queries), [encoder.space.full], same_encoder=True)


def test_grey_models_are_measured_too(corpus: Path, queries: Path, tmp_path: Path) -> None:
    grey = {"mean": (0.5,), "std": (0.5,)}
    matvit.save(random_matvit(3, in_chans=1, pretrained_cfg_overlay=grey), tmp_path / "grey")
    encoder = Encoder.open(tmp_path / "grey", device="cpu", dtype="fp32")
    build_index(open_source(corpus), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    assert evaluate(searcher, open_source(queries), encoder.space.curve).queries == 20


def test_a_corpus_that_has_changed_is_not_embedded_again(
    encoder: Encoder, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(corpus, tmp_path / "photos")
    build_index(open_source(folder), encoder, tmp_path / "i")
    (folder / "blue" / "new.png").write_bytes(next(iter(files_of(queries))).read_bytes())
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    full = [encoder.space.full]
    assert evaluate(searcher, open_source(queries), full).queries == 20
    with pytest.raises(EvaluationError, match="no longer those of the index"):
        evaluate(searcher, open_source(queries), full, same_encoder=True)
