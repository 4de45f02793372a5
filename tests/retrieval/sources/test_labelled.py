"""Labelled images for training, from folders, shards and torchvision's sets, every one by its number."""

import errno
import io
import os
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from failing_disk import fail_below
from PIL import Image
from small_world import write_shard
from torch.utils.data import DataLoader, Dataset

from matvit.errors import TrainingError
from retrieval.errors import ImageSourceError
from retrieval.sources.labelled import LabelledImages, open_labelled
from retrieval.sources.open_images import open_source


def pixels(number: int, side: int = 8) -> np.ndarray:
    """Of an image that no other number has; larger numbers make larger files."""
    return np.random.default_rng(number).integers(0, 256, (side + number % 7, side, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "png")
    return file.getvalue()


def write_folder(root: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return root


def write_shards(root: Path, labels: Sequence[Sequence[str]]) -> Path:
    """Shards of images that are numbered through."""
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, names in enumerate(labels):
        members: dict[str, bytes] = {}
        for name in names:
            members |= {f"{number:03}.png": png(number), f"{number:03}.cls": name.encode()}
            number += 1
        write_shard(root / f"x-{shard:03}.tar", members)
    return root


def is_image(image: Image.Image, number: int) -> bool:
    return np.array_equal(np.array(image), pixels(number))


def all_of(images: LabelledImages) -> list[tuple[str, Image.Image, int]]:
    return [images.load(i) for i in range(len(images))]


# --- folders ---


def test_a_folder_of_classes(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/0.png", "b/deep/3.png", "c/.hidden.png", "outside.png", "b/text.txt"]
    images = open_labelled(write_folder(tmp_path, names), "RGB")
    assert images.class_to_idx == {"a": 0, "b": 1}
    assert images.runs == (4,)
    assert images.targets.tolist() == [0, 0, 1, 1]
    for number, (key, image, target) in enumerate(all_of(images)):
        assert (key, target) == (names[number], int(key.startswith("b")))
        assert is_image(image, number)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_kind_of_image_in_the_colours_of_the_model(tmp_path: Path, mode: str) -> None:
    for i, name in enumerate(("a/0.webp", "a/1.bmp", "b/2.PNG", "b/3.jpeg", "b/4.gif")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / name)
    images = open_labelled(tmp_path, mode)
    assert [(image.mode, target) for _, image, target in all_of(images)] == [
        (mode, target) for target in (0, 0, 1, 1, 1)
    ]


def test_classes_that_are_numbers_are_sorted_as_such(tmp_path: Path) -> None:
    names = [str(n) for n in range(12)] + ["100"]
    images = open_labelled(write_folder(tmp_path, [f"{name}/0.png" for name in names]), "RGB")
    assert list(images.class_to_idx) == names
    assert list(images.class_to_idx.values()) == list(range(13))
    for key, _, target in all_of(images):
        assert names[target] == key.partition("/")[0]


def test_words_are_sorted_as_words_and_come_before_numbers(tmp_path: Path) -> None:
    names = ["10", "9", "n02", "n10", "Zebra", "-1", "²"]  # a superscript is a digit, but no number
    images = open_labelled(write_folder(tmp_path, [f"{name}/0.png" for name in names]), "RGB")
    assert list(images.class_to_idx) == ["-1", "Zebra", "n02", "n10", "²", "9", "10"]


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path / "a") + b"/\xe9.png"
    write_folder(tmp_path, ["a/0.png", "b/0.png"])
    Path(os.fsdecode(place)).write_bytes(png(2))
    images = open_labelled(tmp_path, "RGB")
    assert len(images) == 3
    assert len(all_of(images)) == 3


def test_the_fingerprint_changes_with_keys_and_labels(tmp_path: Path) -> None:
    names = ["a/0.png", "a/1.png", "b/0.png"]
    prints = {open_labelled(write_folder(tmp_path / "same", names), "RGB").fingerprint}
    prints |= {open_labelled(write_folder(tmp_path / "same again", names), "L").fingerprint}
    assert len(prints) == 1, "where they lie is nothing to it"
    for place, other in (
        ("one more", [*names, "b/1.png"]),
        ("renamed", ["a/0.png", "a/2.png", "b/0.png"]),
        ("moved", ["a/0.png", "b/0.png", "b/1.png"]),
    ):
        prints |= {open_labelled(write_folder(tmp_path / place, other), "RGB").fingerprint}
    assert len(prints) == 4


def test_an_unreadable_image_is_named_and_never_hangs(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a/good.png"])
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "text.png").write_text("no image")
    (tmp_path / "a" / "half.png").write_bytes(png(0)[:100])
    (tmp_path / "a" / "nothing.png").touch()
    images = open_labelled(tmp_path, "RGB")
    assert len(images) == 5
    for i, message in enumerate(
        (
            "/a/good.png",
            "/a/half.png: ",
            "/a/nothing.png: empty file",
            "/a/pipe.jpg: not a regular",
            "/a/text.png",
        )
    ):
        if i == 0:
            images.load(i)
            continue
        with pytest.raises(TrainingError) as caught:
            images.load(i)
        assert str(caught.value).startswith(f"{tmp_path}{message}")
        assert str(caught.value).endswith("; remove it and train again")


def test_no_images_and_unknown_classes_are_errors(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TrainingError, match=f"no images in class folders under {place}"):
            open_labelled(place, "RGB")
    write_folder(tmp_path, ["a/0.png", "b/0.png", "c/0.png"])
    with pytest.raises(TrainingError, match="has a class that training does not know: 'b'"):
        open_labelled(tmp_path, "RGB", class_to_idx={"a": 0, "c": 1})
    told = open_labelled(tmp_path, "RGB", class_to_idx={"c": 0, "b": 7, "a": 3, "d": 4})
    assert told.targets.tolist() == [3, 7, 0]
    assert told.class_to_idx["d"] == 4


# --- shards ---

LABELS = [["b", "a"], ["a"], ["c", "b", "b"]]


@pytest.mark.parametrize("spelled", ["", "/x-{000..002}.tar", "/x-*.tar"], ids=["folder", "braces", "stars"])
def test_shards(tmp_path: Path, spelled: str) -> None:
    images = open_labelled(f"{write_shards(tmp_path / 'shards', LABELS)}{spelled}", "RGB")
    assert images.class_to_idx == {"a": 0, "b": 1, "c": 2}
    assert images.runs == (2, 1, 3)
    assert images.targets.tolist() == [1, 0, 0, 2, 1, 1]
    shard = [0, 0, 1, 2, 2, 2]
    for number, (key, image, _) in enumerate(all_of(images)):
        assert key == f"x-{shard[number]:03}.tar:{number:03}"
        assert is_image(image, number)
    assert open_labelled(tmp_path / "shards" / "x-001.tar", "L").targets.tolist() == [0]


def test_labels_of_shards_that_are_numbers_are_sorted_as_such(tmp_path: Path) -> None:
    images = open_labelled(write_shards(tmp_path, [["10\n", " 9", "2"]]), "RGB")
    assert images.class_to_idx == {"2": 0, "9": 1, "10": 2}


def test_training_reads_of_a_shard_what_an_index_does(tmp_path: Path) -> None:
    """Names with dots, images that share a label, several of one stem, two tars in one."""
    first = ["Shot at 10.31.00", "Shot at 10.31.07", "St. Peter", "a"]
    members = {f"{stem}.{kind}": data for n, stem in enumerate(first) for kind, data in labelled(n, "b")}
    whole = write_shard(tmp_path / "x.tar", members).read_bytes()
    members = {
        "s0.cls": b"c",
        "s0.left.png": png(4),
        "s0.right.png": png(5),
        "z.gif": png(6),
        "z.png": png(7),
    }
    whole += write_shard(tmp_path / "x.tar", members | {"z.cls": b"b"}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole)
    images = open_labelled(tmp_path, "RGB")
    samples = [sample for part in open_source(tmp_path).parts for sample in part.read()]
    keys = [*first, "s0.left", "s0.right", "z", "z.gif"]
    assert [sample.key for sample in samples] == [f"x.tar:{key}" for key in keys]
    assert images.targets.tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    for i, number in enumerate([0, 1, 2, 3, 4, 5, 7, 6]):
        assert images.load(i)[0] == samples[i].key
        assert is_image(images.load(i)[1], number)


def labelled(number: int, label: str) -> list[tuple[str, bytes]]:
    return [("cls", label.encode()), ("png", png(number))]


@pytest.mark.parametrize("zeros", [(0, 2560), (1024, 3072)])
def test_a_hole_in_a_shard_is_refused(tmp_path: Path, zeros: tuple[int, int]) -> None:
    shard = write_shards(tmp_path, [["a", "b", "c"]]) / "x-000.tar"
    data = bytearray(shard.read_bytes())
    data[slice(*zeros)] = bytes(zeros[1] - zeros[0])
    shard.write_bytes(data)
    with pytest.raises(
        ImageSourceError, match=r"x-000\.tar: .*truncated or corrupt tar at byte \d+"
    ) as caught:
        open_labelled(tmp_path, "RGB")
    assert "\n" not in str(caught.value)


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    """Such as macOS leaves beside every file that it copies."""
    write_shards(tmp_path, LABELS)
    (tmp_path / "._x-000.tar").write_bytes(b"\x00\x05\x16\x07")
    assert len(open_labelled(tmp_path, "RGB")) == 6


class Everything(Dataset[tuple[int, bytes]]):
    """The images as workers read them."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[int, bytes]:
        return i, self.images.load(i)[1].tobytes()


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create . worker processes:UserWarning",  # on a machine of one core
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)
def test_workers_do_not_read_across_each_other(tmp_path: Path) -> None:
    """They inherit files that are open already, and with them the place in each of them."""
    images = open_labelled(write_shards(tmp_path, [["a"] * 50, ["b"] * 50]), "RGB")
    images.load(0)
    images.load(99)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 8)).tolist()
    loader = DataLoader(Everything(images), sampler=order, num_workers=3, batch_size=None)
    seen = list(loader)
    assert [i for i, _ in seen] == order
    assert all(data == pixels(i).tobytes() for i, data in seen)


def open_tars() -> int:
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(descriptor.readlink()))
        except OSError:  # the one that lists them
            continue
    return sum(name.endswith(".tar") for name in names)


def test_many_shards_are_read_in_any_order_with_few_of_them_open(tmp_path: Path) -> None:
    images = open_labelled(write_shards(tmp_path, [["a", "b"]] * 40), "RGB")
    assert images.runs == (2,) * 40
    for i in np.random.default_rng(0).permutation(80).tolist():
        assert is_image(images.load(i)[1], i)
    if Path("/proc/self/fd").exists():
        assert 1 <= open_tars() <= 20


def test_images_travel_to_workers_that_were_not_forked(tmp_path: Path) -> None:
    for place in (write_shards(tmp_path / "s", LABELS), write_folder(tmp_path / "f", ["a/0.png", "b/1.png"])):
        images = open_labelled(place, "RGB")
        images.load(0)
        copy = pickle.loads(pickle.dumps(images))
        assert all(is_image(copy.load(i)[1], i) for i in range(len(images)))
        assert copy.load(1)[0] == images.load(1)[0]


def test_a_missing_label_names_its_image(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", {"0.png": png(0), "0.cls": b"a", "1.png": png(1)})
    with pytest.raises(TrainingError, match=r"x\.tar:1 has no \.cls member: training needs labels"):
        open_labelled(tmp_path, "RGB")


@pytest.mark.parametrize("keep", [0, 600, 1500, 2600])
def test_a_tar_that_breaks_off_is_refused(tmp_path: Path, keep: int) -> None:
    shard = write_shards(tmp_path, [["a", "b"]]) / "x-000.tar"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ImageSourceError, match=r"x-000\.tar: .*truncated or corrupt tar") as caught:
        open_labelled(tmp_path, "RGB")
    assert "\n" not in str(caught.value)


def test_noise_and_nothing_in_place_of_a_shard_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(ImageSourceError, match=r"x\.tar: .*truncated or corrupt tar"):
        open_labelled(tmp_path, "RGB")
    for name in ("y.tar", "y-{0..3}.tar", "y-*.tar"):
        with pytest.raises(ImageSourceError, match=r"no such file|no shard matches"):
            open_labelled(tmp_path / name, "RGB")


def test_shards_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for number, place in enumerate("ab"):
        (tmp_path / place).mkdir()
        write_shard(tmp_path / place / "x.tar", {"0.png": png(number), "0.cls": place.encode()})
    images = open_labelled(tmp_path / "{a,b}" / "x.tar", "RGB")
    for number, place in enumerate("ab"):
        key, image, target = images.load(number)
        assert (key, target) == (f"{place}/x.tar:0", number)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(png(number)))))
    with pytest.raises(ImageSourceError, match="comes twice"):
        open_labelled(tmp_path / "{a,a}" / "x.tar", "RGB")


def test_a_shard_in_the_wrong_order_is_refused(tmp_path: Path) -> None:
    members = {"0.png": png(0), "0.cls": b"a", "1.png": png(1), "1.cls": b"a", "0.jpg": png(2)}
    write_shard(tmp_path / "x.tar", members)
    with pytest.raises(ImageSourceError, match=r"x\.tar:0\.jpg: .*tar --sort=name"):
        open_labelled(tmp_path, "RGB")


def test_an_unreadable_image_in_a_shard_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", {"0.png": png(0)[:90], "0.cls": b"a", "1.png": b"no", "1.cls": b"b"})
    images = open_labelled(tmp_path, "RGB")
    for i in (0, 1):
        with pytest.raises(TrainingError, match=rf"x\.tar:{i}: .*; remove it and train again"):
            images.load(i)


# --- torchvision ---


def write_idx(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a network that refuses every connection."""
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def fashion(cache: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fashion-MNIST with few images, where torchvision looks for it."""
    random = np.random.default_rng(0)
    sets = {}
    for split, count in (("train", 7), ("t10k", 4)):
        greys = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        raw = cache / "torchvision" / "FashionMNIST" / "raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", greys)
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels)
        sets[split] = greys, labels
    return sets


@pytest.mark.parametrize("name", ["fashion_mnist", "Fashion_MNIST"])
def test_a_set_of_torchvision(fashion: dict[str, tuple[np.ndarray, np.ndarray]], name: str) -> None:
    train = open_labelled(f"torchvision:{name}", "L")
    test = open_labelled(f"torchvision:{name}/test", "L", class_to_idx=train.class_to_idx)
    assert list(train.class_to_idx)[:2] == ["T-shirt/top", "Trouser"], (
        "torchvision's order, not the alphabet's"
    )
    assert len(train.class_to_idx) == 10, "whether or not each of them has an image"
    for images, split, key in ((train, "train", "train"), (test, "t10k", "test")):
        greys, labels = fashion[split]
        assert images.targets.tolist() == labels.tolist()
        assert images.runs == (len(labels),)
        for i, (name_of, image, target) in enumerate(all_of(images)):
            assert (name_of, target) == (f"{key}/{i}", labels[i])
            assert np.array_equal(np.array(image), greys[i])
    assert train.fingerprint != test.fingerprint


def test_a_set_of_greys_in_colour(fashion: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    image = open_labelled("torchvision:fashion_mnist", "RGB").load(0)[1]
    assert image.mode == "RGB"
    assert np.array_equal(np.array(image)[..., 2], fashion["train"][0][0])


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "no_such_set", ""])
def test_a_set_that_is_not_there_is_one_clear_line(cache: Path, name: str) -> None:
    with pytest.raises(TrainingError) as caught:
        open_labelled(f"torchvision:{name}", "RGB")
    message = str(caught.value)
    assert message.startswith(f"torchvision:{name}: ")
    assert "\n" not in message
    assert len(message) > len(f"torchvision:{name}: ") + 5


def test_a_class_that_cannot_be_listed_ends_training_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be missing without a word, and its number be another's."""
    write_folder(tmp_path, ["cat/1.png", "dog/1.png"])
    fail_below(tmp_path / "dog", errno.EACCES, monkeypatch)
    with pytest.raises(TrainingError, match=r"dog: permission denied; make it readable, or remove it"):
        open_labelled(tmp_path, "RGB")
