"""Images drawn from a source: some to fit to, others to check on."""

from pathlib import Path

import pytest
import torch
from small_world import CLASSES, files_of, shard_of

from retrieval.encoding.drawn_images import DrawnImages
from retrieval.errors import ImageSourceError


def test_images_to_fit_to_and_to_check_on_are_apart_and_mixed(drawn):
    fit, checked = torch.stack([*drawn.fit]), torch.cat(drawn.check)
    assert len(fit) == 40
    assert len(checked) == len(drawn.labels) == 20
    assert len(torch.cat([fit, checked]).flatten(1).unique(dim=0)) == 60
    assert len(set(drawn.labels)) > 2
    assert drawn.failures == ()


def test_images_to_check_on_come_at_other_sizes_in_the_same_order(many, plain):
    submodels = [plain.submodel(budget) for budget in ("XL", "S@8px", "M@12px")]
    images = DrawnImages.read(str(many), plain, fit=3, check=5, submodels=submodels)
    assert all(torch.equal(*pair) for pair in zip(images.check_for(submodels[0]), images.check, strict=True))
    whole = torch.cat(images.check).mean((1, 2, 3))
    for submodel, side in zip(submodels[1:], (8, 12), strict=True):
        others = torch.cat(images.check_for(submodel))
        assert others.shape == (5, 3, side, side)
        # What they show is the same.
        assert torch.equal(others.mean((1, 2, 3)).argsort(), whole.argsort())


@pytest.mark.parametrize("count", [1, 32, 33, 40, 99])
def test_the_first_of_them(drawn, count):
    taken = torch.cat(drawn.fit.first(count).batches())
    assert torch.equal(taken, torch.stack([*drawn.fit])[:count])


def test_the_draw_is_the_seeds(many, plain):
    one, same, other = (DrawnImages.read(str(many), plain, fit=10, check=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.stack([*one.fit]), torch.stack([*same.fit]))
    assert not torch.equal(torch.stack([*one.fit]), torch.stack([*other.fit]))


@pytest.mark.parametrize(
    "fit, checked, wanted", [(300, 200, (48, 12)), (50, 200, (48, 12)), (45, 200, (45, 15)), (20, 8, (20, 8))]
)
def test_a_fifth_at_least_is_left_to_check_on(many, plain, fit, checked, wanted):
    images = DrawnImages.read(str(many), plain, fit=fit, check=checked)
    assert (len(images.fit), sum(map(len, images.check))) == wanted


def test_only_what_was_drawn_is_read(many, plain, monkeypatch):
    read = []
    monkeypatch.setattr(
        "retrieval.sources.folder_walk.read_regular", lambda path: read.append(path) or path.read_bytes()
    )
    DrawnImages.read(str(many), plain, fit=10, check=5, workers=0)
    assert len(read) == 15
    assert len({path.parent.name for path in read}) > 2


def test_shards_and_images_without_labels(many, plain, tmp_path):
    files = files_of(many)
    shard_of(tmp_path / "a.tar", files[:20])
    shard_of(tmp_path / "b.tar", files[20:])
    images = DrawnImages.read(str(tmp_path), plain, fit=10, check=10)
    assert len(images.fit) == 10
    assert set(images.labels) <= set(CLASSES)
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(files[:6]):
        (tmp_path / "flat" / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    assert DrawnImages.read(str(tmp_path / "flat"), plain, fit=10, check=10).labels is None


def test_what_cannot_be_read_is_told_and_too_few_are_an_error(many, plain, tmp_path):
    for number, file in enumerate(files_of(many)[:4]):
        (tmp_path / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = DrawnImages.read(str(tmp_path), plain, fit=10, check=10)
    assert [failure.key for failure in images.failures] == ["broken.png"]
    assert (len(images.fit), sum(map(len, images.check))) == (2, 2)
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(ImageSourceError, match="3 images that can be read are too few"):
        DrawnImages.read(str(tmp_path), plain, fit=10, check=10)


def test_pixels_in_a_file_are_those_in_memory_and_nothing_is_left_of_it(many, plain, tmp_path):
    whole = DrawnImages.read(str(many), plain, fit=10, check=5)
    mapped = DrawnImages.read(str(many), plain, fit=10, check=5, directory=tmp_path)
    assert torch.equal(torch.stack([*mapped.fit]), torch.stack([*whole.fit]))
    assert torch.equal(torch.cat(mapped.check), torch.cat(whole.check))
    assert mapped.digest(7) == whole.digest(7) != whole.digest(8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_names_the_folder(many, plain, monkeypatch, tmp_path):
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("retrieval.encoding.drawn_images.TemporaryFile", lambda **_: full)
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
            DrawnImages.read(str(many), plain, fit=10, check=5, directory=tmp_path)
