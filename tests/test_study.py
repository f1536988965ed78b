"""`make study`: what a record holds, that it is made once, and how the book reads it back."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, tiny_rows, write_screen

from mcnn_book import workspace
from mcnn_book.__main__ import main
from mcnn_book.screens import open_screen
from mcnn_book.study import choosing, recorded, study
from mcnn_core import training
from mcnn_core.machine.files import MARKER, read_json
from mcnn_core.model import CONFIGS
from mcnn_core.store import Store
from mcnn_core.surrogate import training_fields
from mcnn_core.training import RECIPES

FACTS = {
    "command",
    "seeds",
    "seconds",
    "commit",
    "processor",
    "version.python",
    "version.torch",
    "runs",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Make a repository root of this test's own, and short trainings of a small network."""
    short = dataclasses.replace(RECIPES["default"], epochs=1, batch=16)
    for module in (workspace, recorded):
        monkeypatch.setattr(module, "find_root", lambda: tmp_path)
    monkeypatch.setitem(training.RECIPES, "default", short)
    monkeypatch.setitem(CONFIGS, "default", SMALL)
    monkeypatch.setattr(study, "CELLS", short)
    monkeypatch.setattr(
        study,
        "open_screen",
        lambda name, data, out, seed: open_screen(name, data, out, seed, "tiny", 64, 96, workers=1),
    )
    return tmp_path


def record(root, name):
    return read_json(root / "book" / "recorded" / f"{name}.json")


def test_names_and_seeds_of_the_studies(tmp_path):
    planned = study.studies(tmp_path, "")
    compared = [seeds for name, (seeds, _) in planned.items() if name.startswith("simulated-")]
    assert compared == [[seed] for seed in range(101, 109)]
    both = [seeds for name, (seeds, _) in planned.items() if name.startswith("published-")]
    assert both == [[104], [105], [106]]
    assert [(name, seeds) for name, (seeds, _) in planned.items() if name.startswith("whole-")] == [
        ("whole-101", [101]),
        ("whole-102", [102]),
        ("whole-103", [103]),
    ]
    assert planned["held-out"][0] == [0]
    weeks = [seeds for name, (seeds, _) in planned.items() if name.startswith("unseen-weeks-")]
    assert weeks == [[101], [102], [103]]
    lit = {name: seeds for name, (seeds, _) in planned.items() if name.startswith("illumination-")}
    assert lit == {f"illumination-{seed}": [seed] for seed in (0, 101, 102, 103)}
    assert [seeds for name, (seeds, _) in planned.items() if name.startswith("choosing-")] == [
        [104],
        [105],
        [106],
    ]
    assert [name for name in planned if name.startswith("variant-")] == [
        "variant-default-default",
        "variant-default-no-norm-default",
        "variant-default-three-scales-default",
        "variant-published-gap-default",
        "variant-published-published",
    ]
    assert [
        (name, seeds) for name, (seeds, _) in study.studies(tmp_path, "some/real-cells.csv").items()
    ] == [("real-cells", [101, 102, 103])]


@pytest.mark.parametrize("name", ["bench", "faults", "simulated-101", "held-out"])
def test_a_screen_with_the_name_of_one_of_the_books_records_is_refused(root, name):
    with pytest.raises(
        SystemExit,
        match=f"the book has a record {name}.json of its own; give the table another name",
    ):
        main(["study", "--screen", f"somewhere/{name}.csv"])


def test_the_working_folder_is_one_of_its_own(root, monkeypatch):
    monkeypatch.setattr(study, "studies", lambda work, screen: {"one": ([1], lambda seed: {})})
    (root / "mine").mkdir()
    (root / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(
        SystemExit, match=r"holds 'notes\.txt' and was not made by this program as a study"
    ):
        main(["study", "--out", str(root / "mine")])
    main(["study"])
    assert (root / "_build" / "study" / MARKER).exists() and (
        root / "_build" / MARKER
    ).exists()  # or make book would refuse it


def test_a_record_says_what_it_comes_from_and_is_made_once(root, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        study,
        "studies",
        lambda work, screen: {
            "one": ([3, 4], lambda seed: asked.append(seed) or {"value": seed * 2}),
            "two": ([5], lambda seed: asked.append(seed) or {}),
        },
    )
    main(["study", "--only", "one"])
    made = record(root, "one")
    assert (
        set(made) >= FACTS
        and made["command"] == "make study"
        and made["seeds"] == [3, 4]
        and made["seconds"] >= 0
    )
    assert made["runs"] == {"3": {"value": 6}, "4": {"value": 8}} and asked == [3, 4]
    main(["study"])
    assert asked == [3, 4, 5] and "one: recorded already in one.json" in capsys.readouterr().out
    assert (
        recorded.records("t", root / "book" / "recorded")
        == recorded.records("two")
        == {"two": record(root, "two")}
    )


def test_a_study_that_fails_leaves_no_record(root, monkeypatch):
    monkeypatch.setattr(
        study, "studies", lambda work, screen: {"one": ([1, 2], lambda seed: 1 / (2 - seed))}
    )
    with pytest.raises(ZeroDivisionError):
        main(["study"])
    assert not list(root.rglob("*.json"))


def test_simulated_comparison(root):
    main(["study", "--only", "simulated-101", "--out", str(root / "work")])
    made = record(root, "simulated-101")
    run = made["runs"]["101"]
    assert run["screen"]["n_fields"] == 128 and run["recipe"]["seed"] == 101
    table = recorded.recorded_comparison(recorded.records("simulated-"))
    assert {
        "trained",
        "untrained",
        "handcrafted_whitened",
        "supervised",
        "chance",
        "week only",
    } <= set(table["method"])
    assert table["recorded"].all() and set(table["seed"].dropna()) == {101}
    for row in table[table["method"].isin(study.WATCHED)].itertuples():
        parts = [one for one in run["mechanisms"] if one["method"] == row.method]
        parts = [one for one in parts if one["protocol"] == row.protocol]
        assert sum(one["asked"] for one in parts) == row.n
        assert sum(one["right"] for one in parts) == round(row.overall * row.n)
    learned = table[table["method"] == "trained"]
    assert (learned["low"] <= learned["overall"]).all() and (
        learned["overall"] <= learned["high"]
    ).all()
    assert table.loc[table["method"] == "chance", "low"].isna().all()


def test_a_screen_is_recorded_under_its_name(root):
    rows = tiny_rows(plates=2, wells=("B02", "B03", "B04", "B05", "B06"))
    rows.loc[rows["Metadata_Well"].isin(["B05", "B06"]), "Metadata_MoA"] = "actin"
    path = write_screen(root, rows, shape=(64, 64)).rename(root / "my cells.csv")
    main(["study", "--screen", str(path), "--out", str(root / "work")])
    made = record(root, "my cells")
    assert made["command"] == "make study SCREEN=my cells.csv" and list(made["runs"]) == [
        "101",
        "102",
        "103",
    ]
    table = recorded.recorded_comparison({"my cells": made})
    assert set(table["protocol"]) == {"NSC"} and set(table["seed"].dropna()) == {101, 102, 103}
    # what does not learn does not depend on the seed of the network
    assert table[table["method"] == "handcrafted"]["overall"].nunique() == 1


def test_the_whole_screen_is_analysed_and_graded(root, monkeypatch):
    """And nothing but the grades changes when the truth is gone: the tables agree to the bit."""
    found, real, labels, trained = [], study.discover, [], study.features_of
    monkeypatch.setattr(
        study,
        "discover",
        lambda wells, treatments: found.append(real(wells, treatments)) or found[-1],
    )
    monkeypatch.setattr(
        study,
        "features_of",
        lambda table, store, given, *rest: (
            labels.append((table, given)) or trained(table, store, given, *rest)
        ),
    )
    main(["study", "--only", "whole-102", "--out", str(root / "work")])
    made = record(root, "whole-102")
    run = made["runs"]["102"]
    assert (
        set(made) >= FACTS
        and made["seeds"] == [102]
        and run["screen"]["n_fields"] == 128
        and run["recipe"]["seed"] == 102
    )
    grades = run["grades"]
    assert (
        grades["potency.graded"] == 8
        and grades["clusters.hidden"] == 1
        and list(run["clusters"]) == ["Protein synthesis"]
    )
    assert (
        0 <= grades["potency.no_fit"] <= 1
        and grades["suspects.suspects"] > 0
        and grades["clusters.called"] == found[0]["novel"]["novel"].sum()
    )
    assert (
        found[0]["similarity"].columns[-1] == "like negative control"
        and len(found[0]["similarity"]) == 64
    )
    assert (root / "work" / "seed-102" / "whole-102" / "activations" / "part_00000000.npy").exists()

    table, classes = labels[0]
    np.testing.assert_array_equal(classes >= 0, training_fields(table, controls=True))

    truth = root / "work" / "seed-102" / "screen" / "truth.csv"
    truth.unlink()
    again = study.whole_screen(root / "work" / "seed-102", 102)
    for name, table in found[0].items():
        pd.testing.assert_frame_equal(found[1][name], table, check_exact=True)
    assert again["screen"] == run["screen"] and again["recipe"] == run["recipe"]
    changed = {key for key, value in again["grades"].items() if value != grades[key]} - {
        "clusters.hidden",
        "clusters.recovered",
    }
    assert (
        "potency.graded" in changed
        and {again["grades"][key] for key in changed} == {"not available"}
        and again["clusters"] == {}
    )


def test_fields_that_are_left_out_are_in_no_class(root):
    table, store = study.prepared("simulated", root / "work", 3)
    control = (table["Metadata_control_type"] == "negcon").to_numpy()
    assert (study.labelled(table)[control] == -1).all()
    left_out = (table["Metadata_Plate"] == table["Metadata_Plate"].iloc[0]).to_numpy()
    assert (study.labelled(table, left_out)[left_out] == -1).all()
    assert store.shape[0] == len(table)


def test_the_light_of_a_plate_is_divided_out_for_comparison(root):
    main(["study", "--only", "illumination-101", "--out", str(root / "work")])
    run = record(root, "illumination-101")["runs"]["101"]
    assert run["none"]["nsc"]["n"] == run["plate"]["nsc"]["n"] > 0
    stores = [Store.open(root / "work" / "seed-101" / name) for name in ("store", "store-plate")]
    assert (stores[0].pixels != stores[1].pixels).any()


def test_variants_say_their_size_and_cost(root):
    main(["study", "--only", "variant-default-three-scales", "--out", str(root / "work")])
    run = record(root, "variant-default-three-scales-default")["runs"]["0"]
    assert (
        run["network"] == "default-three-scales"
        and run["parameters"] > 0
        and run["training_seconds"] > 0
    )
    assert (
        np.isfinite(run["loss"])
        and 0 <= run["accuracy"] <= 1
        and 0 <= run["nsc"]["low"] <= run["nsc"]["overall"] <= run["nsc"]["high"] <= 1
    )


def test_held_out_compounds_are_in_no_training(root, monkeypatch):
    trained_on = []
    work = root / "work" / "tuned"

    def features_of(table, store, labels, *rest):
        trained_on.append((table, labels))
        return real(table, store, labels, *rest)

    real = study.features_of
    monkeypatch.setattr(study, "features_of", features_of)
    found = study.held_out_compounds(work, 0)
    table = trained_on[0][0]
    annotated = set(table.loc[training_fields(table), "Metadata_Compound"])
    seen = [set(table.loc[labels >= 0, "Metadata_Compound"]) for table, labels in trained_on]
    left_out = [annotated - one for one in seen]
    assert (
        found["folds"] == len(seen) == 4
        and sum(map(len, left_out)) == len(annotated)
        and set().union(*left_out) == annotated
    )
    known = table.loc[
        training_fields(table), ["Metadata_Treatment", "Metadata_Compound", "Metadata_MoA"]
    ].drop_duplicates()
    compounds = known.groupby("Metadata_MoA")["Metadata_Compound"].transform("nunique")
    # Each treatment that can be asked is asked once.
    assert found["nsc"]["n"] == (compounds > 1).sum()


def test_unseen_weeks_are_in_no_training(root, monkeypatch):
    trained_on = []

    def features_of(table, store, labels, *rest):
        trained_on.append((table["Metadata_Batch"], labels))
        return real(table, store, labels, *rest)

    real = study.features_of
    monkeypatch.setattr(study, "features_of", features_of)
    main(["study", "--only", "unseen-weeks-101", "--out", str(root / "work")])
    run = record(root, "unseen-weeks-101")["runs"]["101"]
    weeks = set(trained_on[0][0])
    left_out = [weeks - set(week[labels >= 0]) for week, labels in trained_on]
    assert sum(map(len, left_out)) == len(weeks) and set().union(*left_out) == weeks
    assert run["folds"] == len(left_out) and run["nsc"]["n"] > 0
    assert 0 <= run["old"]["changed"] <= run["old"]["asked"] <= run["old"]["treatments"]


def test_ways_of_choosing_classes_are_compared(root, monkeypatch):
    monkeypatch.setattr(study, "PLAN", choosing.Plan(first=4, add=2, steps=(1, 2)))
    main(["study", "--only", "choosing-105", "--out", str(root / "work")])
    run = record(root, "choosing-105")["runs"]["105"]
    assert run["recipe"]["seed"] == 105 and run["plan"] == {"first": 4, "add": 2, "steps": [1, 2]}
    assert (
        run["classes"]["chosen"] == run["classes"]["random 1"] == 6 == len(run["chosen"])
        and len(run["classes"]) == 7
    )
    assert set(run["taught"]) == {"chosen", "random 1", "random 2", "every treatment", "annotated"}
    table = recorded.recorded_choices(recorded.records("choosing-"))
    assert (
        set(table["way"]) == set(run["classes"])
        and set(table["seed"]) == {105}
        and {"all", "set aside"} <= set(table["part"])
    )
    assert (
        table[["overall", "low", "high", "average_precision", "chance"]]
        .apply(lambda one: one.between(0, 1))
        .all(axis=None)
    )
    gains = recorded.choice_gains(table)
    everything = table[(table["protocol"] == "NSC") & (table["part"] == "all")].set_index("way")[
        "overall"
    ]
    expected = everything["chosen"] - (everything["random 1"] + everything["random 2"]) / 2
    assert (
        gains["nsc.random.lowest"] == gains["nsc.random.highest"] == pytest.approx(100 * expected)
    )
    counts = recorded.choice_counts(recorded.records("choosing-"))
    assert counts["asked.all"] == str(
        int(table.query("protocol == 'NSC' and part == 'all'")["n"].iloc[0])
    )
    assert counts["classes.every_well"] == str(run["classes"]["every well"])
    twice = {
        "a": {"runs": {"1": {**run, "classes": {"every well": 3, "every compound": 2}}}},
        "b": {"runs": {"2": {**run, "classes": {"every well": 5, "every compound": 2}}}},
    }
    assert (
        recorded.choice_counts(twice)["classes.every_well"] == "3 to 5"
        and recorded.choice_counts(twice)["classes.every_compound"] == "2"
    )
    assert set(recorded.choice_counts({}).values()) == {"not available"}
    assert set(recorded.choice_gains(recorded.recorded_choices({})).values()) == {"not available"}


def test_gains_are_those_of_the_worst_and_the_best_seed():
    values = {
        1: {
            "chosen": 0.5,
            "random 1": 0.3,
            "random 2": 0.5,
            "every treatment": 0.6,
            "annotated": 0.5,
        },
        2: {
            "chosen": 0.4,
            "random 1": 0.4,
            "random 2": 0.6,
            "every treatment": 0.1,
            "annotated": 0.1,
        },
    }
    rows = [
        (seed, way, protocol, part, value + (protocol == "NSCB") * (way == "chosen"), value / 2)
        for seed, ways in values.items()
        for way, value in ways.items()
        for protocol in ("NSC", "NSCB")
        for part in ("all", "set aside")
    ]
    found = recorded.choice_gains(
        pd.DataFrame(
            rows, columns=["seed", "way", "protocol", "part", "overall", "average_precision"]
        )
    )
    assert found["nsc.random.lowest"] == pytest.approx(-10) and found[
        "nsc.random.highest"
    ] == pytest.approx(10)
    assert found["nscb.random.lowest"] == pytest.approx(90) and found[
        "aside.every_treatment.highest"
    ] == pytest.approx(30)
    assert found["aside_precision.annotated.highest"] == pytest.approx(0.15) and len(found) == 24


def test_nothing_recorded_is_an_empty_table(root):
    assert recorded.records("simulated-") == {}
    table = recorded.recorded_comparison({})
    assert table.empty and {
        "method",
        "protocol",
        "seed",
        "overall",
        "n",
        "low",
        "high",
        "recorded",
    } <= set(table)
    assert isinstance(table, pd.DataFrame)


def test_margins_compare_with_the_best_handcrafted_row_of_each_seed():
    rows = [
        ("trained", 1, 0.8),
        ("trained_whitened", 1, 0.9),
        ("handcrafted", 1, 0.3),
        ("handcrafted_whitened", 1, 0.7),
        ("trained", 2, 0.6),
        ("trained_whitened", 2, 0.6),
        ("handcrafted", 2, 0.62),
        ("handcrafted_whitened", 2, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "overall"]).assign(protocol="NSC")
    found = recorded.margins(pd.concat([table, table.assign(protocol="NSCB", overall=0.1)]))
    half = 12.7062 * 0.11  # Student's t of one degree of freedom, and the standard error
    expected = {"trained": 0.7, "trained_whitened": 0.75, "lead_smallest": -0.02}
    expected |= {"lead_largest": 0.2, "lead": 0.09, "lead_low": 0.09 - half}
    assert found == pytest.approx(expected | {"lead_high": 0.09 + half}, abs=1e-4)
    assert set(recorded.margins(table.head(4)).values()) == {"not available"}


GRADES = {
    "potency.median_error": [0.1, 0.3, 0.2],
    "potency.coverage": [0.8, 1, 0.9],
    "suspects.rank": [1, "not available", 2],
    "clusters.recovered": [0, 2, 1],
    "suspects.suspect": ["a 1 µM", "b 2 µM", "a 1 µM"],
}


def test_grades_of_all_seeds_in_one_table():
    records = {
        f"whole-{seed}": {
            "runs": {str(seed): {"grades": {key: values[place] for key, values in GRADES.items()}}}
        }
        for place, seed in enumerate((101, 102, 103))
    }
    table = recorded.recorded_grades(records)
    assert (
        table.columns.tolist() == ["101", "102", "103"]
        and {key: row.tolist() for key, row in table.iterrows()} == GRADES
    )
    assert recorded.recorded_grades({}).empty


def test_ranges_of_grades_say_where_a_seed_has_none():
    table = pd.DataFrame(GRADES, index=["101", "102", "103"]).T
    found = recorded.worst_and_best(table)
    assert list(found.index) == recorded.RANGES and list(found) == ["lowest", "highest"]
    known = {
        "potency.median_error.lowest": 0.1,
        "potency.median_error.highest": 0.3,
        "potency.coverage.lowest": 0.8,
        "potency.coverage.highest": 1,
        "clusters.recovered.lowest": 0,
        "clusters.recovered.highest": 2,
    }
    assert {".".join(key): value for key, value in found.stack().dropna().items()} == known
    assert recorded.worst_and_best(table[["101"]]).loc["suspects.rank", "highest"] == 1
    assert recorded.worst_and_best(recorded.recorded_grades({})).isna().all(axis=None)


@pytest.mark.parametrize("name, classes", [("kimorph-101", 8), ("kimorph96-101", 16)])
def test_kimorph_is_analysed_and_graded(root, name, classes):
    main(["study", "--only", name, "--out", str(root / "work")])
    run = record(root, name)["runs"]["101"]
    assert (
        run["classes"] == classes
        and run["recipe"]["seed"] == 101
        and run["screen"]["n_fields"] == 96
    )
    grades = run["grades"]
    assert (
        set(recorded.KIMORPH_RANGES) <= set(grades)
        and grades["groups.groups"] == 4
        and len(run["groups"]) == 4
    )
    assert (
        len(run["comparison"]) == 12
        and set(run["permuted"]) == {"classic", "elim"}
        and run["permuted"]["elim"]["clusters"] == 20 * grades["clusters.clusters"]
    )
    ends = recorded.worst_and_best(
        recorded.recorded_grades(recorded.records(name)), recorded.KIMORPH_RANGES
    )
    assert ends.loc["random.trained"].tolist() == [grades["random.trained"]] * 2


def test_kimorph_without_a_record_is_not_available():
    table = recorded.worst_and_best(recorded.recorded_grades({}), recorded.KIMORPH_RANGES)
    assert len(table) == len(recorded.KIMORPH_RANGES) and table.isna().all(axis=None)
