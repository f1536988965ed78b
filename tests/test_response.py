"""Similarity to mechanisms against concentration, and the EC50 of a compound."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from helpers import well_table
from scipy.optimize import curve_fit, least_squares
from scipy.spatial.distance import cosine
from scipy.stats import f as f_distribution
from scipy.stats import median_abs_deviation

from mcnn_core.analysis.response import (
    CAUTIONS,
    CHOICES,
    HILLS,
    NO_FIT,
    STEP,
    curves,
    effects,
    fit,
    hill,
    potency,
    similarities,
)
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns
from mcnn_core.screen import CONTROL

DOSES = 3.0 ** np.arange(-5, 3)
CONCENTRATION = np.concatenate([np.zeros(18), np.repeat(DOSES, 3)])
NUMBERS = ["ec50", "low", "high", "hill", "bottom", "top"]


# ------------------------------------------------------------------------ similarity


@pytest.fixture
def wells():
    """Two mechanisms, one of a single well.

    A positive control with a mechanism of its own; an unannotated compound.
    """
    rows = [
        (plate, *one)
        for plate in ("P1", "P2", "P3")
        for one in (
            ("DMSO", 0.0, "", "negcon"),
            ("DMSO", 0.0, "", "negcon"),
            ("a", 0.1, "", "trt"),
            ("a", 1.0, "actin", "trt"),
            ("b", 1.0, "actin", "trt"),
            ("u", 1.0, "", "trt"),
            ("taxol", 0.3, "tubulin", "poscon"),
        )
    ]
    rows.append(("P1", "c", 2.0, "kinase", "trt"))
    return well_table(rows, np.random.default_rng(3).normal(size=(len(rows), 5))).sample(
        frac=1, random_state=0
    )


def similarity_by_hand(wells, choice):
    """Compare every pair of wells, one at a time."""
    values = wells[feature_columns(wells)].to_numpy()
    table = {}
    for mechanism in ("actin", "kinase", CONTROL):
        for i in range(len(wells)):
            found = []
            for j, other in enumerate(wells.itertuples()):
                member = (
                    other.Metadata_control_type == "negcon"
                    if mechanism == CONTROL
                    else (other.Metadata_MoA == mechanism and other.Metadata_control_type == "trt")
                )
                if member and i != j:
                    found.append(2 - cosine(values[i], values[j]))
            summary = {"nearest": max, "median": np.median}[choice]
            table.setdefault(mechanism, []).append(summary(found) if found else np.nan)
    return pd.DataFrame(table, index=wells.index)


@pytest.mark.parametrize("choice", CHOICES)
def test_similarity_agrees_with_loops(wells, choice):
    got = similarities(wells, choice)
    pd.testing.assert_frame_equal(got, similarity_by_hand(wells, choice))
    only = wells["Metadata_Compound"] == "c"
    assert got.loc[only, "kinase"].isna().all() and got.loc[~only].notna().all(axis=None)


def test_a_well_is_no_reference_of_its_own(wells):
    """Its copy is: with a twin of every well all annotated ones reach 2, without it none does."""
    annotated = (wells["Metadata_MoA"] == "actin") & (wells["Metadata_control_type"] == "trt")
    assert similarities(wells).loc[annotated, "actin"].max() < 1.999
    twins = similarities(pd.concat([wells, wells], ignore_index=True))[: len(wells)]
    np.testing.assert_allclose(twins.loc[annotated.to_numpy(), "actin"], 2)


def test_without_references_there_are_no_columns(wells):
    bare = wells[wells["Metadata_control_type"] == "trt"].assign(Metadata_MoA="")
    got = similarities(bare)
    assert got.shape == (len(bare), 0) and got.index.equals(bare.index)
    assert curves(bare, got).empty
    with pytest.raises(InputError, match="nearest, median, got 'mean'"):
        similarities(bare, "mean")


def test_curves_are_medians_over_replicates(wells):
    table = similarities(wells)
    got = curves(wells, table)
    tested = wells[(wells["Metadata_control_type"] == "trt")]
    assert set(got["compound"]) == {"a", "b", "c", "u"}
    for row in got.itertuples():
        here = (tested["Metadata_Compound"] == row.compound) & (
            tested["Metadata_Concentration"] == row.concentration
        )
        values = table.loc[tested.index[here], row.mechanism].to_numpy()
        assert row.n == len(values) and row.median == pytest.approx(np.median(values))
        assert row.mad == pytest.approx(median_abs_deviation(values))
    ringed = got[got["annotated"]]
    assert set(
        zip(ringed["compound"], ringed["concentration"], ringed["mechanism"], strict=True)
    ) == {
        ("a", 1.0, "actin"),
        ("b", 1.0, "actin"),
    }
    # C at 2 uM has no similarity to the mechanism of which it is the only well.
    assert len(got) == 5 * 3 - 1


def test_wells_without_a_dose_have_no_curve(wells):
    changed = wells.assign(
        Metadata_Concentration=wells["Metadata_Concentration"].mask(
            wells["Metadata_Compound"] == "a", np.nan
        ),
        Metadata_Compound=wells["Metadata_Compound"].replace("u", ""),
    )
    assert set(curves(changed, similarities(changed))["compound"]) == {"b", "c"}


# ------------------------------------------------------------------------------- fit


def simulated(
    seed, ec50=0.3, slope=1.5, noise=0.1, bottom=0.2, top=1.2, concentration=CONCENTRATION
):
    """Return noisy responses, written down as the logistic function of the logarithm."""
    dosed = concentration > 0
    curve = np.full(len(concentration), bottom)
    curve[dosed] += (top - bottom) / (1 + np.exp(-slope * np.log(concentration[dosed] / ec50)))
    return curve + np.random.default_rng(seed).normal(0, noise, len(curve))


def test_hill_curve_by_hand():
    assert hill(np.array([0, 0.3]), 1, 3, np.log10(0.3), 2.0).tolist() == [1, 2]
    assert hill(np.array([3.0]), 0, 1, 0.0, 2.0)[0] == pytest.approx(9 / 10)
    assert hill(np.array([1e30]), 0, 1, 0.0, 4.0)[0] == 1


@pytest.mark.parametrize(("ec50", "slope"), [(0.02, 1.0), (0.3, 1.5), (1.1, 3.0)])
def test_known_parameters_are_recovered(ec50, slope):
    found = fit(CONCENTRATION, simulated(0, ec50, slope, 0.01))
    assert found["status"] == "fit" and found["low"] <= found["ec50"] <= found["high"]
    assert [found[name] for name in ("ec50", "hill", "bottom", "top")] == pytest.approx(
        [ec50, slope, 0.2, 1.2], rel=0.05
    )
    falling = fit(CONCENTRATION, -5 * simulated(0, ec50, slope, 0.01))
    assert [falling[name] for name in NUMBERS[:4]] == pytest.approx(
        [found[name] for name in NUMBERS[:4]], rel=1e-4
    )
    assert falling["top"] == pytest.approx(-5 * found["top"], rel=1e-4)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """At the noise of a screen: 200 repeats of EC50s anywhere within the doses."""
    generator = np.random.default_rng(8)
    true = 10 ** generator.uniform(-1.5, 0, 200)
    found = [
        fit(CONCENTRATION, simulated(seed, ec50, generator.uniform(1, 2), 0.2))
        for seed, ec50 in enumerate(true)
    ]
    held = [
        one["low"] <= ec50 <= one["high"]
        for one, ec50 in zip(found, true, strict=True)
        if one["status"] == "fit"
    ]
    assert len(held) > 180 and 0.90 < np.mean(held) < 0.99


def squares(concentration, response, start, **fixed):
    """Return the least sum of squares that scipy's trust region reaches from `start`.

    `fixed` holds the EC50.
    """

    def curve(x, bottom, top, log_ec50, slope):
        return bottom + (top - bottom) / (
            1 + np.exp(np.log(10) * slope * (log_ec50 - np.log10(np.maximum(x, 1e-30))))
        )

    if fixed:

        def residual(free):
            return curve(concentration, free[0], free[1], fixed["log_ec50"], free[2]) - response

        return (
            2
            * least_squares(
                residual,
                [0, 1, start[1]],
                bounds=([-np.inf, -np.inf, HILLS[0]], [np.inf, np.inf, HILLS[-1]]),
            ).cost
        )
    bounds = ([-np.inf, -np.inf, -np.inf, HILLS[0]], [np.inf, np.inf, np.inf, HILLS[-1]])
    values, _ = curve_fit(curve, concentration, response, [0, 1, *start], bounds=bounds)
    return np.square(curve(concentration, *values) - response).sum(), values


@pytest.mark.parametrize("seed", range(4))
def test_optimum_and_interval_are_those_of_scipy_from_many_starts(seed):
    response = simulated(seed, noise=0.15)
    found = fit(CONCENTRATION, response)
    starts = [(middle, slope) for middle in (-2, -1, 0) for slope in (0.7, 1.5, 3)]
    best, values = min(
        (squares(CONCENTRATION, response, start) for start in starts), key=lambda one: one[0]
    )
    assert [found["bottom"], found["top"], np.log10(found["ec50"]), found["hill"]] == pytest.approx(
        values, abs=2e-3
    )
    # the ends are excluded at 95 %, and two steps of the grid further in are not
    limit = best * (1 + f_distribution.ppf(0.95, 1, len(response) - 4) / (len(response) - 4))
    for end, out in (("low", -1), ("high", 1)):
        inside, outside = (
            min(
                squares(
                    CONCENTRATION, response, (0, slope), log_ec50=np.log10(found[end]) + out * far
                )
                for slope in (0.7, 1.5, 3)
            )
            for far in (-2 * STEP, STEP)
        )
        assert inside <= limit * 1.01 and outside > limit


def test_no_interval_reaches_a_decade_beyond_the_doses():
    found = [
        fit(CONCENTRATION, simulated(seed, ec50=12, slope=1, noise=0.03)) for seed in range(30)
    ]
    assert {one["status"] for one in found} == {"fit", NO_FIT["high"]}
    ends = [one["high"] for one in found if one["status"] == "fit"]
    assert 5 * DOSES.max() < max(ends) <= 10 * DOSES.max() * 10**STEP


def test_every_reason_for_no_fit():
    narrow = np.repeat([1, 1.2, 1.44], 4)
    generator = np.random.default_rng(0)
    cases = {
        "flat": (CONCENTRATION, generator.normal(size=len(CONCENTRATION))),
        "few": (np.repeat([0.0, 0.1, 1.0], 9), generator.normal(size=27)),
        "low": (CONCENTRATION, simulated(0, ec50=1e-4)),
        "high": (CONCENTRATION, simulated(0, ec50=40, slope=1)),
        "open": (narrow, narrow + generator.normal(0, 0.03, 12)),
    }  # a line over a narrow range fits a curve with any middle
    assert set(cases) == set(NO_FIT)
    for reason, data in cases.items():
        found = fit(*data)
        assert (
            found["status"] == NO_FIT[reason] and np.isnan([found[name] for name in NUMBERS]).all()
        ), reason
    assert fit(DOSES[:4], np.arange(4.0))["status"] == NO_FIT["few"]  # as many wells as parameters
    assert fit(CONCENTRATION, np.ones(len(CONCENTRATION)))["status"] == NO_FIT["flat"]


# --------------------------------------------------------------------------- potency


def plates_of(compound, features, seed, effect=0.0, ec50=0.3, plates=("P1", "P2", "P3"), slope=1.5):
    """Return wells of one compound at eight doses per plate, with six controls.

    Noise around each plate's own offset, and an effect.
    """
    generator = np.random.default_rng(seed)
    rows, shift = [], []
    for plate in plates:
        rows += [(plate, "DMSO", 0.0, "", "negcon")] * 6 + [
            (plate, compound, dose, "", "trt") for dose in DOSES
        ]
        shift += [0.0] * 6 + [1 / (1 + (ec50 / dose) ** slope) for dose in DOSES]
    offset = np.repeat(generator.normal(0, 3, (len(plates), features)), 14, axis=0)
    direction = generator.normal(size=features)
    values = (
        offset
        + generator.normal(size=(len(rows), features))
        + effect * np.outer(shift, direction / np.linalg.norm(direction))
    )
    return well_table(rows, values)


def effects_by_hand(wells, itself=False):
    """Return what `effects` does, in loops.

    `itself` keeps a well among those that say in which direction its compound acts.
    """
    columns = feature_columns(wells)
    moved = []
    for _, well in wells.iterrows():
        control = wells[
            (wells["Metadata_Plate"] == well["Metadata_Plate"])
            & (wells["Metadata_control_type"] == "negcon")
        ]
        moved.append([well[name] - np.median(control[name]) for name in columns])
    moved, dose = np.array(moved, dtype=float), wells["Metadata_Concentration"].to_numpy()
    found = []
    for i in range(len(wells)):
        top = [j for j in range(len(wells)) if dose[j] in DOSES[-2:] and (itself or j != i)]
        axis = np.median(moved[top], axis=0)
        found.append(moved[i] @ axis / np.sqrt(axis @ axis))
    return dose, np.array(found)


def test_effects_agree_with_loops():
    wells = plates_of("a", 5, 0, effect=4)
    others = [
        plates_of("b", 5, 1).query("Metadata_control_type == 'trt'"),
        plates_of("b", 5, 2, plates=("P4",)),
    ]
    dose, effect = effects(pd.concat([wells, *others], ignore_index=True), "a")
    expected = effects_by_hand(wells)
    np.testing.assert_array_equal(dose, expected[0])
    np.testing.assert_allclose(effect, expected[1])


def test_noise_has_no_potency_because_a_well_does_not_judge_itself():
    """In 100 dimensions noise points along a median that it is part of.

    Left in, each such compound would respond.
    """
    noise = [plates_of("a", 100, seed) for seed in range(50)]
    statuses = Counter(fit(*effects(wells, "a"))["status"] for wells in noise)
    assert statuses[NO_FIT["flat"]] >= 45 and statuses["fit"] == 0
    biased = Counter(fit(*effects_by_hand(wells, itself=True))["status"] for wells in noise[:5])
    assert biased[NO_FIT["flat"]] == 0


@pytest.fixture(scope="module")
def screen():
    """Return a strong and a weaker compound and one of noise, on plates of their own."""
    parts = [
        plates_of("strong", 20, 1, 12, 0.1, ("P1", "P2", "P3")),
        plates_of("weak", 20, 2, 8, 0.9, ("P4", "P5", "P6")),
        plates_of("noise", 20, 3, 0, plates=("P7", "P8", "P9")),
    ]
    return pd.concat(parts, ignore_index=True)


def test_potency_of_planted_compounds(screen):
    table = potency(screen).set_index("compound")
    assert table.index.tolist() == ["noise", "strong", "weak"] and table["status"].tolist() == [
        NO_FIT["flat"],
        "fit",
        "fit",
    ]
    for compound, ec50 in (("strong", 0.1), ("weak", 0.9)):
        assert table.loc[compound, "low"] <= ec50 <= table.loc[compound, "high"]
    for compound in table.index:
        expected = fit(*effects(screen, compound))
        assert table.loc[compound, NUMBERS].tolist() == pytest.approx(
            [expected[name] for name in NUMBERS], nan_ok=True
        )


def test_potency_reads_no_mechanism(screen):
    treated = screen["Metadata_control_type"] == "trt"
    annotated = screen.assign(
        Metadata_MoA=np.where(
            treated & (screen["Metadata_Concentration"] > 0.5), screen["Metadata_Compound"], ""
        )
    )
    scrambled = annotated.assign(
        Metadata_MoA=np.random.default_rng(0).permutation(annotated["Metadata_MoA"])
    )
    expected = potency(screen)
    for table in (annotated, scrambled):
        pd.testing.assert_frame_equal(potency(table), expected, check_exact=True)


def test_positive_controls_and_undosed_wells_do_not_count(screen):
    """Wells of the same compound, far away.

    As positive control, at dose 0, and at no known dose.
    """
    others = (
        screen[screen["Metadata_Compound"] == "strong"]
        .head(3)
        .assign(
            Metadata_control_type=["poscon", "trt", "trt"],
            Metadata_Concentration=[1.0, 0.0, np.nan],
        )
    )
    others[feature_columns(others)] += 1000
    alone = others.assign(Metadata_Compound="only as control", Metadata_control_type="poscon")
    pd.testing.assert_frame_equal(
        potency(pd.concat([screen, others, alone], ignore_index=True)),
        potency(screen),
        check_exact=True,
    )
    assert (
        potency(screen[screen["Metadata_control_type"] == "negcon"]).columns.tolist()
        == potency(screen).columns.tolist()
    )


def test_plates_without_controls_are_named(screen):
    bare = screen[
        (screen["Metadata_control_type"] == "trt") | ~screen["Metadata_Plate"].isin(["P2", "P5"])
    ]
    with pytest.raises(InputError) as error:
        potency(bare)
    assert error.value.problems == ["P2", "P5"]


def test_two_doses_are_too_few(screen):
    few = screen[
        (screen["Metadata_Concentration"] == 0) | screen["Metadata_Concentration"].isin(DOSES[-2:])
    ]
    assert set(potency(few)["status"]) == {NO_FIT["few"]}


@pytest.mark.parametrize("falls", [False, True])
def test_an_effect_that_falls_again_has_no_plateau(falls):
    doses = np.repeat(DOSES, 3)
    rows = [("P1", "DMSO", 0.0, "", "negcon")] * 16 + [("P1", "a", d, "", "trt") for d in doses]
    rng = np.random.default_rng(0)
    wells = well_table(rows, rng.normal(scale=0.3, size=(len(rows), 5)))
    wells["Metadata_Well"] = [f"{'ABCD'[i % 4]}{i // 4 + 1:02d}" for i in range(len(wells))]
    effect = 8 * hill(doses, 0, 1, -1.5, 3) - falls * np.log10(doses / DOSES[0]).clip(1.5) * 2
    wells.loc[16:, feature_columns(wells)[0]] += effect
    (found,) = potency(wells).itertuples()
    assert found.status == "fit" and found.caution == CAUTIONS["falls"] * falls


@pytest.mark.parametrize(("gradient", "single"), [(0, False), (0, True), (3, True), (3, False)])
def test_a_caution_where_an_interval_cannot_be_trusted(gradient, single):
    doses = np.repeat(DOSES[:6], 1 if single else 2)
    rows = [("P1", "DMSO", 0.0, "", "negcon")] * 16
    rows += [("P1", name, dose, "", "trt") for name in ("a", "b") for dose in doses]
    wells = well_table(rows, np.random.default_rng(0).normal(size=(len(rows), 5)))
    place = np.arange(len(wells))
    wells["Metadata_Well"] = [f"{'ABCD'[i % 4]}{i // 4 + 1:02d}" for i in place]
    first = feature_columns(wells)[0]
    wells[first] += gradient * (place % 4)
    expected = [CAUTIONS["single"]] * single + [CAUTIONS["place"]] * (gradient > 0)
    found = potency(wells)
    assert set(found["caution"]) == {"; ".join(expected)} and len(found) == 2
    assert set(found["status"]) <= {"fit", *NO_FIT.values()}
