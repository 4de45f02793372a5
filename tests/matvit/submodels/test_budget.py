from fractions import Fraction

import pytest
import timm
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from matvit import BudgetError, Submodel, SubmodelError, SubmodelSpace
from matvit.submodels.budget import is_time, resolve
from matvit.submodels.profile import Point, Profile, Setting, Timing

with torch.device("meta"):  # Budgets need shapes, not weights.
    MODEL = timm.create_model("matvit_base_patch16_224")
SPACE, COST = MODEL.space, MODEL.cost
FULL, LEAST = COST(SPACE.full), COST(SPACE.smallest)
NINES = "9" * 5000
decimals = st.decimals(min_value=0, max_value=200, places=4, allow_nan=False, allow_infinity=False)


def read(budget):
    return resolve(budget, SPACE, COST)


def largest(measure, limit):
    """The exact oracle: measure them all and keep the largest that fits; None if none does."""
    return max(
        (s for s in SPACE.curve if measure(COST(s)) <= limit), key=lambda s: sum(s.widths), default=None
    )


def check(budget, measure, limit):
    if (expected := largest(measure, limit)) is None:
        with pytest.raises(BudgetError):
            read(budget)
    else:
        assert read(budget) == expected


@given(decimals)
@example(100)
@example(0)
def test_percentages(share):
    check(f"{share}%", lambda cost: cost.macs, Fraction(share) * FULL.macs / 100)


@given(st.integers(LEAST.macs - 10**9, FULL.macs + 10**9), st.sampled_from(["macs", "flops"]))
@example(LEAST.macs, "macs")
@example(LEAST.macs - 1, "macs")
@example(FULL.macs - 1, "macs")
@example(FULL.flops, "flops")
def test_plain_units(limit, unit):
    check(f"{limit}{unit}", lambda cost: getattr(cost, unit), limit)


@given(st.integers(LEAST.params - 10**6, FULL.params + 10**6))
@example(LEAST.params)
@example(FULL.params)
@example(FULL.params - 1)
def test_parameters(limit):
    check(f"{limit}params", lambda cost: cost.params, limit)


@given(decimals, st.sampled_from("kmg"), st.sampled_from(["macs", "flops", "params"]))
def test_scaled_units(number, prefix, unit):
    scale = {"k": 10**3, "m": 10**6, "g": 10**9}[prefix]
    check(f"{number}{prefix}{unit}", lambda cost: getattr(cost, unit), Fraction(number) * scale)


@pytest.mark.parametrize("point", range(0, 37, 6))
def test_a_budget_of_exactly_a_submodel_gives_that_submodel(point):
    submodel = SPACE.curve[point]
    assert read(f"{COST(submodel).macs}macs") == submodel
    assert read(f"{COST(submodel).params}params") == submodel


def test_no_budget_is_the_full_encoder_whatever_its_granularity_is_called():
    assert resolve(None, SPACE, COST, pytest.fail) == SPACE.full
    space = SubmodelSpace(SPACE.hidden, {"quarter": 0.25, "full": 1})
    assert resolve(None, space, COST) == space.uniform("full") == SPACE.full
    assert str(resolve(None, space, COST)) == "full"


def test_all_of_it_is_the_full_encoder():
    assert read("100%") == read("100.0%") == read("1000%") == SPACE.full


@pytest.mark.parametrize("name", ["S", "M", "L", "XL"])
def test_granularities(name):
    assert read(name) == read(f" {name} ") == SPACE.uniform(name)
    assert str(read(name)) == name


@pytest.mark.parametrize("text", ["384*5+768*7", "S*5+M*7", ",".join(["384"] * 5 + ["768"] * 7)])
def test_widths_are_taken_as_they_are(text):
    assert read(text) == Submodel((384,) * 5 + (768,) * 7)
    assert str(read(text)) == "S*5+M*7"


def test_widths_off_the_curve_are_taken_too():
    assert read("XL*6+S*6").widths == (3072,) * 6 + (384,) * 6
    assert read(Submodel((7,) * 12)).widths == (7,) * 12


@pytest.mark.parametrize(
    "text, twin",
    [
        ("9gmacs", "9000mmacs"),
        ("9gmacs", "9000000kmacs"),
        ("9gmacs", "9000000000macs"),
        ("9gmacs", "18gflops"),
        ("9gmacs", "9GMACs"),
        ("9gmacs", " 9 gmacs "),
        ("9gmacs", "9.gmacs"),
        ("9gmacs", "09.00GMACS"),
        (".6gparams", "600mparams"),
        ("50mparams", "50MParams"),
        ("50mparams", "50000 kparams"),
        ("60%", "60 %"),
        ("60%", "60.0%"),
    ],
)
def test_spellings_of_one_budget(text, twin):
    assert read(text) == read(twin)


def test_below_the_smallest_names_it_and_its_cost():
    with pytest.raises(BudgetError) as caught:
        read("10%")
    message = str(caught.value)
    assert "smallest submodel, S: 7.8" in message
    assert "44.4%" in message
    assert f"{LEAST.mparams:.4g} M parameters" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nonsense",
        "60",
        "-60%",
        "-1gmacs",
        "25",
        "25m",
        "25mms",
        "25 m s",
        "-25ms",
        "1.2s",
        "nan%",
        "inf%",
        "1e3%",
        "60%%",
        "9 g macs",
        "9tmacs",
        "%",
        "gmacs",
        "9macsx",
        "1/2gmacs",
        "xs",
        "60%\nM",
        "0x10%",
        "384",
        pytest.param(NINES, id="5000 digits"),
        *[pytest.param(NINES + unit, id=f"5000 digits, {unit}") for unit in ("%", "ms", "gmacs", "params")],
        *[pytest.param(f"1.{NINES}{unit}", id=f"5000 decimals, {unit}") for unit in ("%", "ms", "gflops")],
    ],
)
def test_what_is_no_budget_says_what_is(text):
    with pytest.raises(BudgetError, match=r"is not a budget: write S M L XL, 60%.* 25ms"):
        read(text)
    assert not is_time(text)


@pytest.mark.parametrize("budget", ["S*5", "384*13", "S,M", "3073*12", Submodel((8,))])
def test_widths_that_do_not_fit_are_an_error(budget):
    with pytest.raises(SubmodelError):
        read(budget)


def test_a_model_reads_budgets_too():
    assert MODEL.submodel("60%") == read("60%")


SETTING = Setting("Chip 7", "cpu", "float32", 1, 2, "2.15")
times_of_a_curve = st.lists(st.floats(0.001, 1000), min_size=37, max_size=37)


def profile_of(times, setting=SETTING):
    points = (Point(s, ms, Timing(ms, 0, 0, 0)) for s, ms in zip(SPACE.curve, times, strict=True))
    return Profile(setting, tuple(points), COST)


def within(budget, profile):
    return resolve(budget, SPACE, COST, lambda: profile)


@given(times_of_a_curve, st.decimals("0.0001", 1100, places=4))
def test_milliseconds(times, limit):
    """However noisy the times: what is found fits, and nothing that costs more does."""
    profile = profile_of(times)
    fitting = [s for s, ms in zip(SPACE.curve, times, strict=True) if Fraction(ms) <= Fraction(limit)]
    if not fitting:
        with pytest.raises(BudgetError, match="is below the smallest submodel, S: "):
            within(f"{limit}ms", profile)
        return
    found = within(f"{limit}ms", profile)
    assert Fraction(profile(found)) <= Fraction(limit)
    assert COST(found).macs == max(COST(s).macs for s in fitting)


def test_a_time_of_exactly_a_submodel_gives_that_submodel():
    profile = profile_of([0.5 * (i + 1) for i in range(37)])
    for i, submodel in enumerate(SPACE.curve):
        assert within(f"{0.5 * (i + 1)}ms", profile) == submodel
    assert within(" 1.50 MS ", profile) == within("1.5ms", profile) == SPACE.curve[2]
    assert within("1.9999ms", profile) == SPACE.curve[2]


def test_too_little_time_names_the_smallest_and_where_it_was_measured():
    with pytest.raises(BudgetError) as caught:
        within("5ms", profile_of([7.93] * 37))
    assert str(caught.value) == (
        "5ms is below the smallest submodel, S: 7.93 ms for one image on Chip 7 (cpu, 2 threads), float32, "
        "torch 2.15"
    )
    setting = Setting("GPU", "cuda", "bfloat16", 32, None, "2.15")
    with pytest.raises(BudgetError, match=r"7\.93 ms for 32 images on GPU"):
        within("5ms", profile_of([7.93] * 37, setting))


def test_a_time_without_a_profile_must_be_measured_first():
    assert is_time("25ms")
    assert is_time(" 0.5 ms")
    for ask in (read, MODEL.submodel):
        with pytest.raises(BudgetError, match=r"25ms is a time, which must be measured first: .*measure"):
            ask("25ms")


@pytest.mark.parametrize("budget", ["0ms", "0.000ms", " .0 MS "])
def test_no_time_at_all_is_refused_and_nothing_measured(budget):
    with pytest.raises(BudgetError, match=r"is no time to embed anything in$"):
        resolve(budget, SPACE, COST, pytest.fail)


def test_a_model_takes_the_profile_that_times_are_looked_up_in():
    profile = profile_of([0.5 * (i + 1) for i in range(37)])
    assert MODEL.submodel("1.9ms", profile) == MODEL.submodel("1.9ms", profile=profile) == SPACE.curve[2]
    assert MODEL.submodel("60%", profile) == read("60%")
    with pytest.raises(BudgetError, match=r"0\.5 ms for one image on Chip 7"):
        MODEL.submodel("0.1ms", profile)


def test_a_profile_of_another_encoder_is_refused():
    with pytest.raises(SubmodelError, match="XL has 12 layers; this encoder has 24"):
        resolve("25ms", SubmodelSpace((4096,) * 24), COST, lambda: profile_of([7.93] * 37))


@pytest.mark.parametrize("budget", ["L@168px", " S*5+M*7 @ 168 PX", Submodel((7,) * 12, image_size=168)])
def test_an_image_size_that_does_not_fit_is_refused_in_one_line(budget):
    for ask in (read, MODEL.submodel):
        with pytest.raises(
            SubmodelError, match=r"^\S+@168px: 168 px are no whole number of patches of 16 px"
        ):
            ask(budget)


@pytest.mark.parametrize(
    "text", ["60%@168px", "25ms@168px", "L@168", "L@px", "L@-1px", "L@1.5px", "@168px", "L@1px@2px", "60%~8"]
)
def test_an_image_size_without_widths_is_no_budget(text):
    with pytest.raises(BudgetError, match="is not a budget"):
        read(text)


@pytest.mark.parametrize("budget", ["M", "60%", "9gmacs", "50mparams", "S*5+M*7", SPACE.full])
def test_nothing_is_measured_for_other_budgets(budget):
    assert not is_time(budget)
    assert resolve(budget, SPACE, COST, pytest.fail) == read(budget)
