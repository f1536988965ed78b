"""Which treatments become classes.

By what lies far from everything taken and near its own replicates, and by no annotation.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, well_table
from scipy.spatial.distance import cosine

from mcnn_book.screens import open_screen
from mcnn_book.study import choosing
from mcnn_book.study.choosing import (
    COLUMNS,
    GROUPINGS,
    Plan,
    choose,
    compare_choices,
    distinctness,
    first_choices,
    graded,
    grouped,
    numbered,
    set_aside,
    train_rounds,
)
from mcnn_core import training
from mcnn_core.errors import InputError
from mcnn_core.preprocessing import Conversion, preprocess
from mcnn_core.profiles import feature_columns
from mcnn_core.screen import load_screen, save_screen
from mcnn_core.training import RECIPES, load_model

PLATES = ["P1", "P2", "P3"]
FEATURES = 20
RECIPE = replace(RECIPES["default"], batch=8, precision="float32", seed=1)
PLAN = Plan(first=4, add=2, steps=(2, 2, 3))


def axis(number):
    return 8.0 * np.eye(FEATURES)[number]


def planted(effects, seed=0, plates=PLATES, controls=4):
    """Return per plate one well of each (compound, dose), and controls.

    A well lies at its effect (or at a list of effects, one per plate).
    """
    rng, rows, values = np.random.default_rng(seed), [], []
    home = 4 * np.ones(FEATURES)
    for number, plate in enumerate(plates):
        rows += [(plate, "DMSO", 0.0, "", "negcon")] * controls
        values += list(home + 0.3 * rng.normal(size=(controls, FEATURES)))
        for (compound, dose), effect in effects.items():
            effect = effect[number] if isinstance(effect, list) else effect
            rows.append((plate, compound, dose, f"mechanism of {compound[0]}", "trt"))
            values.append(home + 0.3 * rng.normal(size=FEATURES) + effect)
    return well_table(rows, np.array(values))


@pytest.fixture
def wells():
    """Two phenotypes, one of them at two doses and of two compounds.

    One that differs from well to well; and two without any.
    """
    return planted(
        {
            ("a", 1.0): 3 * axis(0),
            ("a", 2.0): 3 * axis(0),
            ("also a", 1.0): 3 * axis(0),
            ("b", 1.0): 2 * axis(1),
            ("erratic", 1.0): [3 * axis(2), 3 * axis(3), 3 * axis(4)],
            ("idle", 1.0): 0 * axis(0),
            ("lazy", 1.0): 0 * axis(0),
        }
    )


# -------------------------------------------------------------------------- the criterion


def test_the_distinct_treatments_are_chosen_and_neither_doubles_nor_noise(wells):
    found = choose(wells, [], 2)
    assert found.columns.tolist() == COLUMNS
    assert [name.split(" | ")[0] in ("a", "also a") for name in found["treatment"]] == [True, False]
    assert found["treatment"][1] == "b | 1" and (found["distinctness"] > 0.9).all()
    alone = distinctness(wells).set_index("treatment")["distinctness"]
    assert (
        alone[["a | 1", "a | 2", "also a | 1"]].min() > 0.9
        and alone[["idle | 1", "lazy | 1"]].max() < 0
    )
    assert alone["erratic | 1"] < 0  # far from the controls, and farther from its own replicates


def test_what_was_taken_makes_its_doubles_indistinct(wells):
    found = distinctness(wells, ["a | 1"]).set_index("treatment")
    assert "a | 1" not in found.index and found.index[0] == "b | 1"
    assert (found.loc[["a | 2", "also a | 1"], "nearest"] == "a | 1").all() and found.loc[
        ["a | 2", "also a | 1"], "distinctness"
    ].max() < 0.5
    assert found.loc["idle | 1", "nearest"] == "negative controls"
    assert choose(wells, ["a | 1"], 1)["treatment"].tolist() == ["b | 1"]


def test_distinctness_is_what_its_definition_says(wells):
    x, names = feature_columns(wells), wells["Metadata_Treatment"]
    references = [
        part[x].median()
        for _, part in wells[wells["Metadata_control_type"] == "negcon"].groupby("Metadata_Plate")
    ]
    references.append(wells.loc[names == "b | 1", x].median())
    found = distinctness(wells, ["b | 1"]).set_index("treatment")
    for name in ("a | 2", "erratic | 1", "idle | 1"):
        own, other = [], []
        for place in np.flatnonzero(names == name):
            rest = wells.index[(names == name)].difference([place])
            own.append(cosine(wells.loc[place, x].astype(float), wells.loc[rest, x].median()))
            other.append(
                min(
                    cosine(wells.loc[place, x].astype(float), reference) for reference in references
                )
            )
        own, other = np.array(own), np.array(other)
        assert found.loc[name, ["own", "other", "distinctness"]].tolist() == pytest.approx(
            [own.mean(), other.mean(), ((other - own) / np.maximum(own, other)).mean()]
        )
        assert found.loc[name, "wells"] == 3


def test_later_choices_are_scored_against_earlier_ones(wells):
    found = choose(wells, ["lazy | 1"], 4)
    for n in range(4):
        first = distinctness(wells, ["lazy | 1", *found["treatment"][:n]]).head(1)
        pd.testing.assert_frame_equal(
            found.iloc[[n]].reset_index(drop=True), first, check_dtype=False
        )


def test_no_annotation_is_read(wells):
    expected = choose(wells, ["b | 1"], 4)
    shuffled = wells.assign(
        Metadata_MoA=np.random.default_rng(0).permutation(wells["Metadata_MoA"])
    )
    for other in (shuffled, wells.assign(Metadata_MoA=""), wells.drop(columns="Metadata_MoA")):
        pd.testing.assert_frame_equal(choose(other, ["b | 1"], 4), expected, check_exact=True)


def test_the_order_of_the_wells_does_not_matter_and_names_break_ties(wells):
    expected = choose(wells, [], 6)
    pd.testing.assert_frame_equal(choose(wells, [], 6), expected, check_exact=True)
    pd.testing.assert_frame_equal(choose(wells.sample(frac=1, random_state=1), [], 6), expected)
    twins = [wells]
    for name in ("z", "c"):  # the same wells under other names, so exactly as distinct
        twins.append(
            wells[wells["Metadata_Treatment"] == "b | 1"].assign(
                Metadata_Treatment=f"{name} | 1",
                Metadata_Well=lambda part, name=name: name + part["Metadata_Well"],
            )
        )
    twins = pd.concat(twins, ignore_index=True)
    ranked = distinctness(twins)["treatment"].tolist()
    assert [name for name in ranked if name in ("z | 1", "b | 1", "c | 1")] == [
        "b | 1",
        "c | 1",
        "z | 1",
    ]
    first = [
        name for name in choose(twins, [], 7)["treatment"] if name in ("z | 1", "b | 1", "c | 1")
    ]
    assert first[0] == "b | 1"


def test_positive_controls_are_neither_candidates_nor_references(wells):
    more = wells.assign(
        Metadata_control_type=wells["Metadata_control_type"].mask(
            wells["Metadata_Compound"] == "also a", "poscon"
        )
    )
    assert "also a | 1" not in set(distinctness(more)["treatment"])
    without = distinctness(wells[wells["Metadata_Compound"] != "also a"])
    pd.testing.assert_frame_equal(distinctness(more), without)


def test_a_treatment_of_one_well_cannot_be_scored(wells):
    fewer = wells[(wells["Metadata_Treatment"] != "b | 1") | (wells["Metadata_Plate"] == "P1")]
    found = distinctness(fewer)
    assert (
        found["treatment"].iloc[-1] == "b | 1"
        and np.isnan(found["distinctness"].iloc[-1])
        and found["distinctness"][:-1].notna().all()
    )
    assert len(choose(fewer, [], 6)) == 6
    with pytest.raises(InputError, match="7 treatments were to become classes, but only 6"):
        choose(fewer, [], 7)


def test_what_cannot_be_chosen_is_said(wells):
    with pytest.raises(InputError, match="8 treatments were to become classes, but only 7"):
        choose(wells, [], 8)
    with pytest.raises(InputError, match="needs wells") as error:
        distinctness(wells, ["b | 1", "nothing | 3", "gone | 1"])
    assert error.value.problems == ["gone | 1", "nothing | 3"]
    uncontrolled = wells[wells["Metadata_control_type"] != "negcon"]
    with pytest.raises(InputError, match="negative controls are needed, or a class"):
        distinctness(uncontrolled)
    assert len(distinctness(uncontrolled, ["idle | 1"])) == 6
    with pytest.raises(InputError, match="No treatment is left"):
        choose(
            wells,
            sorted(set(wells.loc[wells["Metadata_control_type"] == "trt", "Metadata_Treatment"])),
            1,
        )


def test_first_choices_of_any_screen(wells):
    scored, chosen = first_choices(wells, 3)
    pd.testing.assert_frame_equal(scored, distinctness(wells))
    pd.testing.assert_frame_equal(chosen, choose(wells, [], 3))
    assert first_choices(wells, 100)[1]["treatment"].nunique() == 7  # no more than there are
    uncontrolled, single = (
        wells[wells["Metadata_control_type"] != "negcon"],
        wells[wells["Metadata_Plate"] == "P1"],
    )
    unnamed = wells.assign(
        Metadata_Treatment=wells["Metadata_Treatment"].where(
            wells["Metadata_control_type"] != "trt", ""
        )
    )
    for other in (uncontrolled, single, unnamed):
        assert all(
            table.empty and table.columns.tolist() == COLUMNS for table in first_choices(other, 3)
        )


# -------------------------------------------------------------------------- rounds of training


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a tiny simulated screen, read and pre-processed."""
    folder = tmp_path_factory.mktemp("tiny")
    screen = open_screen("simulated", "", folder, 3, "tiny", 64, 96, workers=1)
    save_screen(screen, folder)
    return load_screen(folder).table, preprocess(
        screen, folder / "store", Conversion(multiple=16), progress=False
    )


def test_groups_and_their_numbers(tiny):
    table, _ = tiny
    tested = (table["Metadata_control_type"] == "trt").to_numpy()
    for name, columns in GROUPINGS.items():
        groups = grouped(table, name)
        assert (groups[~tested] == "").all() and (groups[tested] != "").all()
        assert groups[tested].nunique() == table[tested].groupby(columns).ngroups
    groups = grouped(table, "treatment")
    names = sorted(set(groups) - {""})
    before, after = numbered(groups, names[:3]), numbered(groups, [*names[:3], names[5]])
    assert set(before) == {-1, 0, 1, 2} and (after[before >= 0] == before[before >= 0]).all()
    assert (groups[after == 3] == names[5]).all() and (after[~tested] == -1).all()


def test_rounds_go_on_with_the_weights_and_the_classes_of_the_one_before(tiny, tmp_path):
    table, store = tiny
    groups, seen = grouped(table, "treatment"), []
    names = sorted(set(groups) - {""})

    def add(model, classes):
        seen.append((model.spec[1], list(classes)))
        return names[len(classes) : len(classes) + 2]

    given = (table, store, groups, names[:4], add, PLAN, SMALL, RECIPE, tmp_path)
    model, classes = train_rounds(*given)
    assert classes == names[:8] and model.spec[1] == 8 and seen == [(4, names[:4]), (6, names[:6])]
    folders = sorted(tmp_path.iterdir())
    assert [path.name[:7] for path in folders] == ["round-1", "round-2", "round-3"]
    assert [load_model(path).spec[1] for path in folders] == [4, 6, 8]
    for path in folders:
        # Every round ends its own cycle.
        assert pd.read_csv(path / "history.csv")["learning_rate"].iloc[-1] < 1e-5
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("epoch_*"))]
    again, _ = train_rounds(*given)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("epoch_*"))] == times
    assert all(
        (one == other).all()
        for one, other in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def compared(tiny, tmp_path_factory):
    """Return the answers and the classes of all ways, and the labels that each training had."""
    trained, real = [], training.train

    def seen(store, labels, *rest, **more):
        trained.append(labels)
        return real(store, labels, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "train", seen)
        found = compare_choices(*tiny, PLAN, SMALL, RECIPE, tmp_path_factory.mktemp("compared"))
    return *found, trained


def test_ways_of_choosing_are_asked_alike_and_what_is_set_aside_is_never_a_class(tiny, compared):
    table, _ = tiny
    answers, classes, trained = compared
    ways = [
        "chosen",
        "random 1",
        "random 2",
        "every well",
        "every treatment",
        "every compound",
        "annotated",
    ]
    assert (
        list(classes) == ways
        and list(answers["way"].unique()) == ways
        and len(trained) == len(PLAN.steps) * len(ways)
    )
    aside = set(set_aside(table, RECIPE.seed))
    assert len(aside) == round(
        table.loc[table["Metadata_control_type"] == "trt", "Metadata_Compound"].nunique() / 3
    )
    assert not any(
        table.loc[labels >= 0, "Metadata_Compound"].isin(aside).any() for labels in trained
    )
    assert [len(classes[way]) for way in ways[:3]] == [8, 8, 8] and len(set(classes["chosen"])) == 8
    assert (
        classes["chosen"][:4] == classes["random 1"][:4] == classes["random 2"][:4]
        and classes["random 1"] != classes["random 2"]
    )
    asked = [
        answers.loc[answers["way"] == way, ["protocol", "treatment"]].to_numpy().tolist()
        for way in ways
    ]
    assert all(one == asked[0] for one in asked)
    assert set(answers.loc[answers["part"] == "set aside", "compound"]) == aside & set(
        answers["compound"]
    )
    for way in ways[:3]:
        own = answers[(answers["way"] == way) & (answers["part"] == "a class")]
        assert set(own["treatment"]) == set(classes[way]) & set(answers["treatment"])
    assert "no class" not in set(answers.loc[answers["way"].str.startswith("every"), "part"])
    scored = graded(answers).set_index(["way", "protocol", "part"])
    everything = answers[(answers["way"] == "chosen") & (answers["protocol"] == "NSC")]
    assert scored.loc[("chosen", "NSC", "all"), "overall"] == pytest.approx(
        (everything["MoA"] == everything["predicted"]).mean()
    )
    assert scored.loc[("chosen", "NSC", "all"), "average_precision"] == pytest.approx(
        everything["average_precision"].mean()
    )


def test_a_plan_for_a_larger_screen_is_refused(tiny, tmp_path):
    table, store = tiny
    with pytest.raises(InputError, match="The plan needs 72 treatments, but the screen has 15"):
        compare_choices(table, store, Plan(), SMALL, RECIPE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_an_annotation_says_changes_no_class(tiny, compared, tmp_path):
    """Mechanisms are dealt anew; which treatments have one stays, for one way is to take those."""
    table, store = tiny
    _, expected, _ = compared
    known = table["Metadata_MoA"] != ""
    other = {
        name: f"mechanism {number % 2}"
        for number, name in enumerate(sorted(set(table.loc[known, "Metadata_Compound"])))
    }
    dealt = table.assign(Metadata_MoA=table["Metadata_Compound"].map(other).where(known, ""))
    answers, found = compare_choices(dealt, store, PLAN, SMALL, RECIPE, tmp_path)
    assert found == expected and set(answers["MoA"]) <= set(other.values())
