import copy
import math
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matvit import GRANULARITIES, Layer, Submodel, SubmodelError, SubmodelSpace
from matvit.submodels.tokens import Tokens

B16 = SubmodelSpace((3072,) * 12)
L16 = SubmodelSpace((4096,) * 24)
TAPERED = SubmodelSpace((96, 64, 200))
DINO = SubmodelSpace((1536,) * 12, tokens=Tokens((224, 224), (14, 14), prefix=1))  # 256 patches.


def test_equal_widths_are_one_value_whatever_the_labels():
    labelled, bare = B16.uniform("M"), Submodel((768,) * 12)
    assert labelled.labels != bare.labels
    assert labelled == bare
    assert hash(labelled) == hash(bare)
    assert {labelled: "found"}[bare] == "found"
    assert labelled != Submodel((768,) * 11 + (769,))


@pytest.mark.parametrize("name", ["layers", "widths", "image_size", "labels"])
def test_is_frozen(name):
    with pytest.raises(AttributeError):
        setattr(B16.full, name, None)
    with pytest.raises(AttributeError):
        B16.full.layers[0].ffn = 1


def test_widths_are_layers_that_keep_so_many_units():
    submodel = Submodel([4, Layer(8)])
    assert submodel == Submodel((4, 8)) == Submodel(map(Layer, (4, 8)))
    assert submodel.layers == (Layer(4), Layer(8))
    assert submodel.widths == (4, 8)
    assert submodel.image_size is None


def test_an_image_size_is_part_of_the_value():
    small = Submodel((4, 8), image_size=168)
    assert small == Submodel((4, 8), image_size=168)
    assert small != Submodel((4, 8))
    assert hash(small) != hash(Submodel((4, 8)))
    assert small != Submodel((4, 8), image_size=224)


@pytest.mark.parametrize("size", [0, -1, 1.5, "168", (168, 168)])
def test_a_bad_image_size_is_named(size):
    with pytest.raises(SubmodelError, match="image size must be a positive whole number"):
        Submodel((4, 8), image_size=size)


@pytest.mark.parametrize("ask", [TAPERED.check, lambda submodel: TAPERED.parse(str(submodel))])
@pytest.mark.parametrize("submodel", [TAPERED.full, Submodel((1, 2, 3)), Submodel((97, 64, 200)), B16.full])
@pytest.mark.parametrize("axis", [{"image_size": 168}, {"layers": [Layer(1, 2)] * 3}])
def test_an_encoder_of_unknown_tokens_has_widths_alone(ask, submodel, axis):
    with pytest.raises(SubmodelError):
        ask(replace(submodel, **axis))


@pytest.mark.parametrize("text", ["L@168px", " L @ 168 px ", "L*3@168PX", "48,32,100@168px"])
def test_another_image_size_is_refused_in_a_clear_line(text):
    with pytest.raises(SubmodelError, match=r"^\S+@168px: of this encoder, no other image size is known$"):
        TAPERED.parse(text)


@pytest.mark.parametrize("size", [160, 162, 7])
def test_an_image_size_is_a_whole_number_of_patches(size):
    with pytest.raises(SubmodelError, match=rf"@{size}px: {size} px are no whole number of patches of 14 px"):
        DINO.parse(f"L@{size}px")


def test_the_encoders_own_image_size_is_none():
    assert DINO.parse("M@224px") == DINO.uniform("M")
    assert str(DINO.parse("M@224px")) == "M"
    assert DINO.parse("M@238px").image_size == 238


def test_merges_are_part_of_the_value():
    merging = Submodel([Layer(4, 8), Layer(8)])
    assert merging.merges == (8, 0)
    assert merging.widths == (4, 8)
    assert merging != Submodel((4, 8))
    assert merging == Submodel([Layer(4, 8), 8])
    assert hash(merging) != hash(Submodel((4, 8)))


@pytest.mark.parametrize("merge", [-1, 1.5, "4", None])
def test_a_bad_number_of_tokens_is_named(merge):
    with pytest.raises(SubmodelError, match="tokens to merge must be a whole number"):
        Layer(4, merge)


@pytest.mark.parametrize(
    "text, patches",
    [
        ("XL", [256] * 13),
        ("XL~64+96+0*10", [256, 192, *[96] * 11]),
        ("XL~64+97+0*10", [256, 192, *[96] * 11]),
        ("XL~32", [256, 224, 192, 160, 128, 96, 64, 32, 16, 8, 4, 2, 1]),
        ("XL~2@28px", [4, 2, *[1] * 11]),
    ],
)
def test_half_of_the_patches_stay_in_every_layer(text, patches):
    assert DINO.tokens.entering(DINO.parse(text)) == tuple(1 + left for left in patches)


@given(
    st.lists(st.tuples(st.integers(1, 1536), st.integers(0, 10)), min_size=12, max_size=12),
    st.sampled_from([None, 168, 224, 448]),
)
def test_any_submodel_reads_back_from_its_spelling(layers, size):
    submodel = DINO.check(Submodel([Layer(*layer) for layer in layers], image_size=size))
    assert DINO.parse(str(submodel)) == submodel
    assert str(DINO.parse(str(submodel))) == str(submodel)


@pytest.mark.parametrize(
    "text",
    [
        "XL~8",
        "XL ~ 8",
        "XL~8*12",
        " XL*12 ~ 8 * 12 ",
        "1536*12~8",
        "XL~8*6+8*6",
        "XL~8,8,8,8,8,8,8,8,8,8,8,8",
    ],
)
def test_spellings_of_one_schedule(text):
    assert DINO.parse(text) == Submodel([Layer(1536, 8)] * 12)
    assert str(DINO.parse(text)) == "XL~8"


@pytest.mark.parametrize(
    "text", ["~8", "XL~", "XL~x", "XL~8~8", "XL~S", "60%~8", "XL@28px~8", "XL~-1", "XL~1.5"]
)
def test_what_spells_no_schedule_is_left_to_others(text):
    assert DINO.parse(text) is None


def test_a_schedule_of_another_depth_names_both():
    with pytest.raises(
        SubmodelError, match="'XL~8\\*3' gives 3 numbers of tokens; this encoder has 12 layers"
    ):
        DINO.parse("XL~8*3")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("original", [Submodel((4, 8)), B16.curve[5], Submodel((4, 8), image_size=168)])
def test_survives_copies_and_pickle(duplicate, original):
    twin = duplicate(original)
    assert twin == original
    assert str(twin) == str(original)
    assert hash(twin) == hash(original)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_space_survives_copies_and_pickle(duplicate):
    assert duplicate(B16).curve == B16.curve


@pytest.mark.parametrize(
    "submodel, text",
    [
        (B16.uniform("S"), "S"),
        (B16.full, "XL"),
        (B16.labelled(("S",) * 5 + ("M",) * 7), "S*5+M*7"),
        (Submodel((384,) * 5 + (768,) * 7), "384*5+768*7"),
        (Submodel((1, 2, 1)), "1*1+2*1+1*1"),
        (replace(B16.uniform("L"), image_size=168), "L@168px"),
        (replace(B16.labelled(("S",) * 5 + ("M",) * 7), image_size=168), "S*5+M*7@168px"),
        (Submodel((384,) * 12, image_size=168), "384*12@168px"),
        (replace(B16.full, layers=[Layer(3072, 8)] * 12), "XL~8"),
        (Submodel([Layer(384, 0)] * 6 + [Layer(384, 24)] * 6, image_size=196), "384*12~0*6+24*6@196px"),
    ],
)
def test_prints_as_runs_of_layers(submodel, text):
    assert str(submodel) == text


@given(st.tuples(*(st.integers(1, hidden) for hidden in TAPERED.hidden)).map(Submodel))
def test_any_widths_read_back_from_their_spelling(submodel):
    assert TAPERED.parse(str(submodel)) == submodel
    assert TAPERED.parse(",".join(map(str, submodel.widths))) == submodel
    assert TAPERED.parse(str(TAPERED.check(submodel))) == submodel


@given(st.lists(st.sampled_from(list(GRANULARITIES)), min_size=3, max_size=3).map(tuple))
def test_any_granularities_read_back_from_their_spelling(labels):
    submodel = TAPERED.labelled(labels)
    read = TAPERED.parse(str(submodel))
    assert read == submodel
    assert str(read) == str(submodel)


@pytest.mark.parametrize(
    "space", [B16, L16, TAPERED, SubmodelSpace((4096,))], ids=lambda s: f"depth{s.depth}"
)
def test_curve(space):
    curve, names = space.curve, list(GRANULARITIES)
    assert len(curve) == 3 * space.depth + 1
    assert len(set(curve)) == len(curve)
    assert curve[0] == space.smallest == space.uniform("S")
    assert curve[-1] == space.full == Submodel(space.hidden)
    assert set(space.uniforms()) <= set(curve)
    for submodel in curve:
        used = [names.index(label) for label in submodel.labels]
        assert used == sorted(used)
        assert max(used) - min(used) <= 1
    for cheaper, dearer in pairwise(curve):
        assert all(a <= b for a, b in zip(cheaper.widths, dearer.widths, strict=True))
        assert sum(cheaper.widths) < sum(dearer.widths)


def test_where_nothing_is_nested_the_curve_is_of_smaller_images():
    space = replace(DINO, nested=False)
    sides = [112, 126, 140, 154, 168, 182, 196, 210]
    assert space.curve == (*(Submodel(space.hidden, image_size=side) for side in sides), space.full)


def test_where_images_have_one_size_it_is_of_merging_tokens():
    tokens = Tokens((224, 224), (14, 14), prefix=1, one_size="it reads one size")
    space = SubmodelSpace((1536,) * 12, tokens=tokens, nested=False)
    assert [str(submodel) for submodel in space.curve] == ["XL~21", "XL~16", "XL~11", "XL~5", "XL"]
    alone = SubmodelSpace((1536,) * 12, nested=False)
    assert alone.curve == (alone.full,)


@given(st.sampled_from(B16.mixnmatch))
def test_slices_that_nobody_trained_are_in_doubt_until_they_were_measured(submodel):
    plain = replace(B16, nested=False)
    assert B16.doubt(submodel) == ""
    assert (plain.doubt(submodel) == "") == (submodel == plain.full)
    assert replace(plain, measured={submodel: 0.9, plain.full: 1.0}).doubt(submodel) == ""


def test_curve_has_as_many_points_as_the_paper_says():
    assert len(B16.curve) == 37
    assert len(L16.curve) == 73


def test_granularities_keep_the_shares_of_the_paper():
    assert [s.widths[0] for s in B16.uniforms()] == [384, 768, 1536, 3072]


def test_widths_never_shrink_with_depth():
    for submodel in B16.curve:
        assert list(submodel.widths) == sorted(submodel.widths)


def test_a_narrow_layer_keeps_at_least_one_unit():
    assert SubmodelSpace((3, 3)).smallest.widths == (1, 1)


@pytest.mark.parametrize("widths", [(), (0,), (-1, 4), (1.5, 2), ("4",)])
def test_bad_widths_are_named(widths):
    with pytest.raises(SubmodelError, match="positive whole numbers"):
        Submodel(widths)


@pytest.mark.parametrize("width", [0, -1, 1.5, "4", None])
def test_a_bad_layer_is_named(width):
    with pytest.raises(SubmodelError, match="positive whole numbers"):
        Layer(width)


def test_wrong_depth_names_both_depths():
    with pytest.raises(SubmodelError, match="2 layers; this encoder has 3"):
        TAPERED.check(Submodel((4, 4)))
    with pytest.raises(SubmodelError, match="2 widths; this encoder has 3 layers"):
        TAPERED.parse("4,4")


def test_too_wide_names_the_layer():
    with pytest.raises(SubmodelError, match="65 units in layer 1, which has 64"):
        TAPERED.check(Submodel((96, 65, 200)))
    with pytest.raises(SubmodelError, match="65 units in layer 1, which has 64"):
        TAPERED.parse("96,65,200")


def test_zero_width_spelled_out_is_an_error():
    with pytest.raises(SubmodelError, match="positive"):
        TAPERED.parse("0*3")


def test_an_absurd_count_is_an_error_and_takes_no_memory():
    with pytest.raises(SubmodelError, match="this encoder has 3 layers"):
        TAPERED.parse("S*99999999999999")


@pytest.mark.parametrize(
    "text",
    ["", "60%", "9gmacs", "384", "small", "S*", "*3", "S-M", "s,m,l", "1.5,2,3", "@9px", "L@9", "60%@9px"],
)
def test_what_spells_no_widths_is_left_to_others(text):
    assert TAPERED.parse(text) is None


@pytest.mark.parametrize("text", ["M", " M ", "M*3", " M * 3", "M,M,M", "M + M*2", "24,16,50", "M+16+50"])
def test_spellings_of_one_submodel(text):
    assert TAPERED.parse(text) == TAPERED.uniform("M")


def test_check_labels_what_has_a_name():
    assert str(TAPERED.check(Submodel((12, 16, 100)))) == "S*1+M*1+L*1"
    assert TAPERED.check(Submodel((12, 17, 100))).labels is None


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]*", fullmatch=True)
SHARES = st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=5, unique=True)


@st.composite
def spaces(draw):
    """Encoders of any widths with any number of granularities."""
    shares = [*sorted(draw(SHARES)), draw(st.sampled_from([1, 1.0]))]
    names = draw(st.lists(NAMES, min_size=len(shares), max_size=len(shares), unique=True))
    hidden = draw(st.lists(st.integers(1, 5000), min_size=1, max_size=6))
    return SubmodelSpace(tuple(hidden), dict(zip(names, shares, strict=True)))


@given(spaces())
def test_any_increasing_granularities_make_a_space(space):
    assert len(space.curve) == space.depth * (len(space.granularities) - 1) + 1
    assert space.full == Submodel(space.hidden)
    for cheaper, dearer in pairwise(space.curve):
        assert all(a <= b for a, b in zip(cheaper.widths, dearer.widths, strict=True))
    for submodel in space.curve:
        read = space.parse(str(submodel))
        assert read == submodel
        assert space.check(submodel) == submodel


@given(spaces(), st.data())
def test_any_labels_of_any_granularities_read_back_from_their_spelling(space, data):
    names = st.lists(st.sampled_from(list(space.granularities)), min_size=space.depth, max_size=space.depth)
    submodel = space.labelled(tuple(data.draw(names)))
    assert space.parse(str(submodel)) == submodel
    assert space.parse(f" {str(submodel).replace('+', ' , ')} ") == submodel


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"A": 0.5},
        {"A": 0.5, "B": 0.5, "C": 1},
        {"A": 1, "B": 0.5},
        {"A": 0, "B": 1},
        {"A": -0.5, "B": 1},
        {"A": 0.5, "B": 1.5},
        {"A": 0.5, "B": 1, "C": 2},
        {"A": math.nan, "B": 1},
        {"A": 0.5, "B": math.nan},
        {"A": 0.5, "B": math.inf},
    ],
    ids=str,
)
def test_granularities_must_increase_up_to_one(shares):
    with pytest.raises(SubmodelError, match="increase up to 1"):
        SubmodelSpace((8,), shares)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "4",
        "4S",
        "60%",
        "9gmacs",
        ".5ms",
        "A*2",
        "A+B",
        "A,B",
        "A B",
        " A",
        "A\n",
        "é",
        "_A",
        4,
        None,
        ("A",),
        "all",
        "auto",
    ],
    ids=repr,
)
def test_a_name_that_would_not_read_back_is_refused(name):
    with pytest.raises(SubmodelError, match="named by a letter") as caught:
        SubmodelSpace((8,), {name: 0.5, "XL": 1})
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("share", ["0.5", None, [0.5], True, 0.5j, {}], ids=repr)
def test_a_share_that_is_no_number_is_refused(share):
    with pytest.raises(SubmodelError, match="granularity S must be a number"):
        SubmodelSpace((8,), {"S": share, "XL": 1})


@pytest.mark.parametrize("granularities", [None, 0.5, "S", ["S", "XL"], [["S", 0.5]]], ids=repr)
def test_granularities_that_are_no_mapping_are_refused(granularities):
    with pytest.raises(SubmodelError, match="must map names to shares"):
        SubmodelSpace((8,), granularities)


@pytest.mark.parametrize("text", ["S*" + "9" * 5000, "9" * 5000 + "*2"], ids=["count", "width"])
def test_numbers_of_thousands_of_digits_spell_nothing(text):
    assert SubmodelSpace((8, 8)).parse(text) is None
