"""Scenic's checkpoints: the numbers of Google's own code, every form of file, and files that are no good."""

import hashlib
import json
import struct
from pathlib import Path

import msgpack
import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import matvit
from matvit import CheckpointError, Submodel, UnknownModelError
from matvit.weights.scenic.convert import convert, facts, read
from matvit.weights.scenic.layout import Layout
from matvit.weights.scenic.msgpack_file import FlaxFile

GOLDEN = Path(__file__).parents[2] / "golden"
STATE, BARE = GOLDEN / "checkpoint_2", GOLDEN / "params_a.msgpack"
SPECS = ["S", "M", "L", "XL", "mix1", "mix2"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "golden_a.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenic") / "checkpoint"
    convert(STATE, out)
    return out


@pytest.fixture(scope="module")
def model(directory):
    return matvit.load(directory)


# --- the numbers of Google's own code ---


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("file", [STATE, BARE], ids=lambda file: file.name)
def test_logits_and_features(tmp_path, golden, file, spec):
    model = convert(file, tmp_path / "out")
    submodel = Submodel(tuple(golden[f"spec/{spec}"].tolist()))
    with torch.inference_mode():
        logits = model(golden["inputs_nchw"], submodel)
        tokens = model.forward_features(golden["inputs_nchw"], submodel)
        features = model.forward_head(tokens, pre_logits=True)
    torch.testing.assert_close(logits, golden[f"logits/{spec}"], rtol=0, atol=1e-5)
    torch.testing.assert_close(features, golden[f"feat/{spec}"], rtol=0, atol=1e-5)


def test_the_full_encoder_needs_no_submodel(model, golden):
    torch.testing.assert_close(model(golden["inputs_nchw"]), golden["logits/XL"], rtol=0, atol=1e-5)


# --- the checkpoint that is written ---


def test_the_directory_loads_here_and_in_plain_timm(directory, model, golden):
    plain = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    assert type(plain) is timm.models.vision_transformer.VisionTransformer
    logits = model(golden["inputs_nchw"])
    torch.testing.assert_close(logits, golden["logits/XL"], rtol=0, atol=1e-5)
    assert torch.equal(plain(golden["inputs_nchw"]), logits)
    assert model.norm.eps == plain.norm.eps == 1e-6


def test_what_is_remembered_of_the_file(directory):
    config = json.loads((directory / "config.json").read_text())
    size, tree = STATE.stat().st_size, BARE.stat().st_size
    assert config["matvit"]["scenic"] == {
        "source": "checkpoint_2",
        "sha256": hashlib.sha256(STATE.read_bytes()).hexdigest(),
        "bytes": size,
        "bytes_left_out": size - tree,
        "global_step": 2,
        "classifier": "token",
    }
    told = {name: fact for name, fact in facts(directory).items() if isinstance(fact, int)}
    assert told == {
        "layers": 4,
        "width": 48,
        "heads": 3,
        "hidden_units": 192,
        "patch_size": 8,
        "image_size": 32,
        "classes": 10,
        "bytes": size,
        "bytes_left_out": size - tree,
        "global_step": 2,
    }


def test_progress_counts_every_byte_once(tmp_path):
    told = []
    convert(STATE, tmp_path / "out", progress=lambda *step: told.append(step))
    size = STATE.stat().st_size
    assert told[-1] == ("bytes read", size, size)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


# --- files made here ---


def array(values, code=1):
    values = np.asarray(values)
    return msgpack.ExtType(
        code, msgpack.packb((list(values.shape), values.dtype.name, np.ascontiguousarray(values).tobytes()))
    )


def nested(leaves):
    root = {}
    for path, leaf in leaves.items():
        *maps, name = path.split("/")
        place = root
        for step in maps:
            place = place.setdefault(step, {})
        place[name] = leaf
    return root


SMALL = Layout(width=8, depth=2, heads=2, hidden=16, patch=2, channels=3, grid=2, classes=3, class_token=True)


def values_of(layout=SMALL, **changes):
    """Flax's name -> numbers, for a model of a given layout."""
    rng = np.random.default_rng(0)
    layout = Layout(**{**vars(layout), **changes})
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in layout.shapes().items()}


def tree_of(values):
    return nested({name: array(leaf) for name, leaf in values.items()})


@pytest.fixture
def write(tmp_path):
    def to_file(content):
        file = tmp_path / "checkpoint"
        file.write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
        return file

    return to_file


def same_weights(model, values):
    return all(
        torch.equal(tensor, model.state_dict()[name])
        for name, tensor in Layout.of(values).state_dict(dict(values)).items()
    )


MOMENTS = {"0": {"count": array(np.int32(7)), "mu": {"params": tree_of(values_of())}}, "1": {}}


@pytest.mark.parametrize(
    "form, step",
    [
        (lambda tree: tree, None),
        (lambda tree: {"params": tree}, None),
        (lambda tree: {"params": {"params": tree}}, None),
        (lambda tree: {"params": {"params": tree}, "batch_stats": {}}, None),
        (lambda tree: {"params": {"params": {"params": tree}}}, None),
        (lambda tree: {"params": tree, "opt_state": MOMENTS, "global_step": 5}, 5),
        (lambda tree: {"opt_state": MOMENTS, "global_step": array(np.int32(5)), "params": tree}, 5),
        (lambda tree: {"global_step": array(np.int64(5), code=3), "params": tree, "rng": None}, 5),
        (lambda tree: {"optimizer": {"state": MOMENTS, "target": tree}, "global_step": 9}, 9),
        (lambda tree: {"global_step": 9, "optimizer": {"target": {"params": tree}, "state": MOMENTS}}, 9),
        (lambda tree: {"metadata": {"list": [1, [2.5, "x"], b"y"]}, "params": tree}, None),
    ],
)
def test_every_form_of_file(write, form, step):
    values = values_of()
    model, note = read(write(form(tree_of(values))))
    assert same_weights(model, values)
    assert note["global_step"] == step


def test_layers_are_numbers(write):
    values = values_of(depth=12)
    for i in range(12):
        values[f"Transformer/encoderblock_{i}/LayerNorm_0/bias"][:] = i
    values = dict(sorted(values.items()))  # encoderblock_10 before encoderblock_2
    model, _ = read(write(tree_of(values)))
    assert [block.norm1.bias[0].item() for block in model.blocks] == list(range(12))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_dtypes_are_read_as_float32(write, dtype):
    values = {name: np.round(leaf * 8) / 8 for name, leaf in values_of().items()}  # Exact in each of them.
    leaves = {}
    for name, leaf in values.items():
        if dtype == "bfloat16":
            halves = (leaf.view(np.uint32) >> 16).astype(np.uint16)
            packed = msgpack.packb((list(leaf.shape), "bfloat16", halves.tobytes()))
            leaves[name] = msgpack.ExtType(1, packed)
        else:
            leaves[name] = array(leaf.astype(dtype))
    model, _ = read(write(nested(leaves)))
    assert same_weights(model, values)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def chunked(values, size):
    flat = values.reshape(-1)
    pieces = [flat[start : start + size] for start in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(axis): length for axis, length in enumerate(values.shape)},
        "chunks": {str(number): array(piece) for number, piece in enumerate(pieces)},
    }


def test_chunked_leaves(write):
    file = FlaxFile(GOLDEN / "chunked_example.msgpack")
    leaves = file.leaves(file.whole)
    assert np.array_equal(leaves["w"], np.arange(300, dtype=np.float32).reshape(10, 30))
    assert np.array_equal(leaves["b"], np.arange(4, dtype=np.float32))
    values = values_of()
    model, _ = read(write(nested({name: chunked(leaf, 5) for name, leaf in values.items()})))
    assert same_weights(model, values)


def test_without_a_class_token_the_mean_of_all_tokens_is_taken(write, tmp_path):
    values = values_of(class_token=False)
    model = convert(write(tree_of(values)), tmp_path / "out")
    images = torch.randn(2, 3, 4, 4)
    mean = model.forward_features(images).mean(dim=1)
    torch.testing.assert_close(model(images), model.head(mean))
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(plain(images), model(images))
    assert facts(tmp_path / "out")["classifier"] == "gap"


def test_without_a_classifier(write, tmp_path):
    model = convert(write(tree_of(values_of(classes=0))), tmp_path / "out")
    assert model(torch.randn(1, 3, 4, 4)).shape == (1, 8)
    assert matvit.load(tmp_path / "out").num_classes == 0


@pytest.mark.parametrize("hidden", [1, 7, 13, 31])
def test_any_number_of_hidden_units(write, tmp_path, hidden):
    convert(write(tree_of(values_of(hidden=hidden))), tmp_path / "out")
    assert matvit.load(tmp_path / "out").space.hidden == (hidden, hidden)
    assert facts(tmp_path / "out")["hidden_units"] == hidden


@pytest.mark.parametrize(
    "width, name", [(192, "tiny"), (384, "small"), (768, "base"), (1024, "large"), (24, "base")]
)
def test_the_architecture_goes_by_the_width(write, width, name):
    model, _ = read(write(tree_of(values_of(width=width, heads=3 if width < 1024 else 4, hidden=8))))
    assert model.pretrained_cfg["architecture"] == f"matvit_{name}_patch16_224"


@pytest.mark.parametrize(
    "grid, crop", [(14, (0.875, "center")), (24, (1.0, "squash")), (2, (0.875, "center"))]
)
def test_preprocessing_goes_by_the_image_size(write, tmp_path, grid, crop):
    convert(write(tree_of(values_of(patch=16, grid=grid))), tmp_path / "out")
    data = timm.data.resolve_model_data_config(matvit.load(tmp_path / "out"))
    assert tuple(data["input_size"]) == (3, 16 * grid, 16 * grid)
    assert (data["crop_pct"], data["crop_mode"]) == crop
    assert [*data["mean"], *data["std"]] == [0.5] * 6
    transform = timm.data.create_transform(**data)
    if grid == 14:
        assert transform.transforms[0].size == 256


# --- other models ---


def fails(file, error, match):
    with pytest.raises(error, match=match) as caught:
        read(file)
    assert type(caught.value) is error
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "extra, match",
    [
        ({"pre_logits": {"kernel": array(np.ones((8, 8)))}}, "pre_logits|representation_size"),
        ({"MAPHead_0": {"probe": array(np.ones((1, 1, 8)))}}, "attention-pooling head"),
        ({"surprise": array(np.ones(3))}, "surprise, which is no part of a MatViT"),
    ],
)
def test_another_kind_of_vision_transformer(write, extra, match):
    fails(write({"params": tree_of(values_of()) | extra}), UnknownModelError, match)


@pytest.mark.parametrize(
    "content, match",
    [
        ({"params": {"conv": {"kernel": array(np.ones(3))}}}, "no Vision Transformer of Scenic"),
        ({"params": {}}, "no Vision Transformer of Scenic"),
        ({"opt_state": {}, "step": 3}, "at its top is opt_state, step"),
        ({}, "at its top is nothing"),
        ({"optimizer": {"state": {}}}, "without the parameters"),
    ],
)
def test_another_kind_of_model(write, content, match):
    fails(write(content), UnknownModelError, match)


@pytest.mark.parametrize("changes", [{"patch": 3}, {"heads": 4}])
def test_what_timm_has_no_word_for(write, changes):
    values = values_of()
    if "patch" in changes:
        values["embedding/kernel"] = np.ones((3, 2, 3, 8), np.float32)
    else:
        values["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"] = np.ones(
            (8, 4, 4), np.float32
        )
    fails(write(tree_of(values)), UnknownModelError, "squares are known|4 heads of 4")


@pytest.mark.parametrize("classifier", ["gmp", "gsp", "map", "none", "0", ""])
def test_other_poolings_are_refused_by_name(classifier):
    with pytest.raises(UnknownModelError, match=f"classifier '{classifier}' is not known"):
        read(STATE, classifier=classifier)


def test_a_classifier_that_the_parameters_deny(write):
    with pytest.raises(UnknownModelError, match="those of classifier 'token'"):
        read(STATE, classifier="gap")
    values = values_of(class_token=False)
    with pytest.raises(UnknownModelError, match="those of classifier 'gap'"):
        read(write(tree_of(values)), classifier="token")
    assert same_weights(read(write(tree_of(values)), classifier="gap")[0], values)


# --- damaged and hostile files ---

FC1 = "Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"


@pytest.mark.parametrize("name", [name for name in SMALL.shapes() if name != "cls"])
def test_each_missing_leaf_is_named(write, name):
    values = values_of()
    del values[name]
    if name == "output_projection/kernel":
        fails(write({"params": tree_of(values)}), UnknownModelError, "output_projection/bias")
    else:
        fails(write({"params": tree_of(values)}), CheckpointError, f"it has no {name}")


@pytest.mark.parametrize("name", SMALL.shapes())
def test_each_wrong_shape_is_found(write, name):
    values = values_of()
    values[name] = np.ones((*values[name].shape[:-1], values[name].shape[-1] + 1), np.float32)
    with pytest.raises((CheckpointError, UnknownModelError), match=r"shape|positions|heads|square"):
        read(write({"params": tree_of(values)}))


def test_positions_without_their_class_token(write):
    values = values_of()
    del values["cls"]
    fails(write(tree_of(values)), CheckpointError, "5 patches, which make no square")


def test_a_missing_layer(write):
    values = {name: leaf for name, leaf in values_of(depth=3).items() if "encoderblock_1/" not in name}
    fails(write(tree_of(values)), CheckpointError, "it has no Transformer/encoderblock_1/")


def raw(shape, dtype, data, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    "leaf, match",
    [
        (raw([2**60], "float32", b"abcd"), "do not fit its 4 bytes"),
        (raw([2**60, 2**60, 0], "float32", b""), "positive whole numbers"),
        (raw([2**63 - 1, 2**63 - 1], "float32", b""), "do not fit"),
        (raw([-1, -1], "float32", b"abcd"), "positive whole numbers"),
        (raw([True], "float32", b"abcd"), "positive whole numbers"),
        (raw(["1"], "float32", b"abcd"), "positive whole numbers"),
        (raw(1, "float32", b"abcd"), "not a list"),
        (raw([1] * 9, "float32", b"abcd"), "exceeds max_array_len"),
        (raw([1], "float32", "abcd"), None),  # A string in old msgpack: bytes all the same.
        (raw([1], "float32", [1]), "do not fit|damaged"),
        (raw([1], "object", b"abcdefgh"), "dtype is 'object'"),
        (raw([1], "O", b"abcdefgh"), "dtype is 'O'"),
        (raw([1], "<f4", b"abcd"), "dtype is '<f4'"),
        (raw([1], "int32", b"abcd"), "dtype is 'int32'"),
        (raw([1], "complex64", b"abcdefgh"), "dtype is 'complex64'"),
        (raw([1], "float32,(2,)O", b"abcd"), "dtype is"),
        (raw([1], ["float32"], b"abcd"), "damaged"),
        (raw([1], 7, b"abcd"), "dtype is 'int'"),
        (msgpack.ExtType(1, b""), "damaged"),
        (msgpack.ExtType(1, b"\xc1"), "damaged"),
        (msgpack.ExtType(1, msgpack.packb([[1], "float32"])), "damaged"),
        (msgpack.ExtType(1, msgpack.packb({"a": 1})), "damaged"),
        (msgpack.ExtType(1, msgpack.packb(5)), "damaged"),
        (msgpack.ExtType(1, b"\x91" * 10_000), "damaged"),
        (msgpack.ExtType(2, msgpack.packb((1.0, 2.0))), "not an array"),
        (msgpack.ExtType(77, b"abcd"), "not an array"),
        (msgpack.Timestamp(1), "not an array"),
        (None, "not an array"),
        (1.5, "not an array"),
        ("text", "not an array"),
        (b"bytes", "not an array"),
        ([1, 2], "damaged"),
        ([], "not an array"),
        ({}, f"it has no {FC1}"),
        (array(np.full((8, 16), np.nan, np.float32)), "not finite"),
        (array(np.full((8, 16), np.inf, np.float32)), "not finite"),
        (array(np.full((8, 16), 1e300)), "not finite"),
    ],
)
def test_a_leaf_that_is_no_array(write, leaf, match):
    tree = tree_of(values_of())
    tree["Transformer"]["encoderblock_1"]["MlpBlock_0"]["Dense_0"]["kernel"] = leaf
    fails(write({"params": tree}), CheckpointError, match or "has shape")


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda node: node["shape"].update({"0": 2**60}), "more than its"),
        (lambda node: node["shape"].update({"0": 2**62, "1": 2**62}), "more than its"),
        (lambda node: node["shape"].update({"0": 7}), "do not fill"),
        (lambda node: node["shape"].update({"0": 0}), "positive whole numbers"),
        (lambda node: node["shape"].update({"x": 1}), "damaged"),
        (lambda node: node.update(shape=3), "damaged"),
        (lambda node: node.update(shape={str(i): 1 for i in range(5000)}), "damaged"),
        (lambda node: node.pop("shape"), "damaged"),
        (lambda node: node.pop("chunks"), "damaged"),
        (lambda node: node["chunks"].pop("1"), "damaged"),
        (lambda node: node["chunks"].update({"1": 5}), "damaged"),
        (lambda node: node["chunks"].update({"1": raw([2**60], "float32", b"")}), "damaged"),
        (lambda node: node["chunks"].update({"99": array(np.ones(5, np.float32))}), "damaged"),
    ],
)
def test_chunks_that_do_not_fit(write, change, match):
    leaf = chunked(values_of()[FC1], 5)
    change(leaf)
    tree = tree_of(values_of())
    tree["Transformer"]["encoderblock_1"]["MlpBlock_0"]["Dense_0"]["kernel"] = leaf
    fails(write(tree), CheckpointError, match)


def deep(levels, opening=b"\x81\xa1a", end=b"\xc0"):
    return opening * levels + end


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a map of names"),
        (b"PK\x03\x04" + bytes(100), "not a map of names"),
        (b"<!DOCTYPE html><html></html>", "not a map of names"),
        (b"\x80\x04\x95\x10\x00", "bytes follow its end"),  # A pickle, which starts as an empty map does.
        (msgpack.packb([1, 2]), "not a map of names"),
        (msgpack.packb({1: 2}), "not a map of names"),
        (msgpack.packb({"a": 1}) + b"x", "1 bytes follow its end"),
        (msgpack.packb({"x" * 5000: 1}), "not a map of names"),
        (msgpack.packb({"a\nb": 1}), "not a map of names"),
        (b"\x82" + 2 * (msgpack.packb("params") + b"\x80"), "not a map of names"),
        (b"\xc1", "not a map of names"),
        (b"\x81\xa1a\xc1", "damaged"),
        (b"\x81\xa2\xff\xff\xc0", "damaged"),
        (b"\xdf\xff\xff\xff\xff" + bytes(1000), "not a map of names"),
        (b"\x81\xa6params\xdf\xff\xff\xff\xff" + bytes(1000), "cut off"),
        (b"\x81\xa6params\xdd\xff\xff\xff\xff" + bytes(1000), "cut off"),
        (b"\x81\xa6params\xdb\xff\xff\xff\xff" + bytes(1000), "cut off"),
        (b"\x81\xa6params\xc6\xff\xff\xff\xff" + bytes(1000), "cut off"),
        (b"\x81\xa6params\xc9\xff\xff\xff\xfe\x01" + bytes(1000), "cut off"),
        (b"\x81\xa6params\xc9\xff\xff\xff\xff", "damaged"),
        (b"\x81\xa6params\xc9\x00\x00\x04\x00\x01" + bytes(1000), "cut off"),
        (b"\x81\xa6params" + deep(100_000), "damaged"),
        (b"\x81\xa6params" + deep(100), "nested too deeply"),
        (b"\x81\xa6params" + deep(100_000, b"\x91"), "damaged"),
        (b"\x82\xa9opt_state" + deep(100_000) + b"\xa6params\x80", "damaged"),
        (b"\x81\xa9optimizer" + b"\xc0", "not a map of names"),
        (b"\x82\xa6params\x80\xabglobal_step\xa3abc", "no whole number|no Vision"),
        (b"\x81\xa6params\x82\xa1a\x80\xa1a\x80", "the same name twice"),
        (b"\x81\xa6params\x81\xa3a/b\x80", "is no name"),
    ],
)
def test_a_file_that_is_none(write, content, match):
    fails(write(content), CheckpointError, match)


@pytest.mark.parametrize(
    "step",
    ["5", 5.0, None, {}, [], True, array(np.float32(5)), array(np.arange(2)), raw([2**40], "int32", b"")],
)
def test_a_step_that_is_no_number(write, step):
    fails(write({"params": tree_of(values_of()), "global_step": step}), CheckpointError, "damaged")


def test_more_leaves_than_any_model_has(write):
    fails(
        write({"params": {str(i): {str(j): {} for j in range(300)} for i in range(400)}}),
        CheckpointError,
        "more than",
    )


def test_an_array_longer_than_the_file_reserves_no_memory(write):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for length in (2**30, 2**32 - 2):
        fails(write(b"\x81\xa6params\xc9" + struct.pack(">I", length) + b"\x01"), CheckpointError, "cut off")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_path_that_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")
    fails(tmp_path, CheckpointError, "is not a file")


SOUND = msgpack.packb(
    {
        "opt_state": {"mu": tree_of(values_of(depth=1)), "count": array(np.int32(3))},
        "params": tree_of(values_of(depth=1)),
        "global_step": array(np.int32(3)),
        "metadata": {"list": [1, 2.5, "x"], "none": None},
    }
)


@given(st.integers(0, len(SOUND) - 1))
def test_a_file_cut_off_anywhere(tmp_path_factory, length):
    file = tmp_path_factory.getbasetemp() / "cut"
    file.write_bytes(SOUND[:length])
    fails(file, CheckpointError, "cut off|damaged|empty")


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_file_with_flipped_bits(tmp_path_factory, flips):
    content = bytearray(SOUND)
    for place, bits in flips:
        content[place] ^= bits
    read_or_refuse(tmp_path_factory.getbasetemp() / "flipped", bytes(content))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(tmp_path_factory, content, as_params):
    start = b"\x81\xa6params" if as_params else b""
    read_or_refuse(tmp_path_factory.getbasetemp() / "any", start + content)


def read_or_refuse(file, content):
    file.write_bytes(content)
    refusal = ""
    try:
        model, _ = read(file)
    except (CheckpointError, UnknownModelError) as error:
        refusal = str(error)
    assert "\n" not in refusal
    if not refusal:
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


# --- whole or not at all ---


def test_nothing_is_written_for_a_file_that_is_no_good(write, tmp_path):
    with pytest.raises(CheckpointError):
        convert(write(SOUND[:-20]), tmp_path / "out" / "checkpoint")
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_never_replaced(tmp_path):
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(CheckpointError, match="holds something else"):
        convert(BARE, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["cat.jpg"]
