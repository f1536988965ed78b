"""The recorded runs: complete, consistent, and repeated rightly by the book's page of results."""

import re

import pandas as pd
import pytest

from mcnn_book.study.recorded import (
    COLUMNS,
    WHOLE_SCREEN,
    Measure,
    beside_whitened,
    place_numbers,
    recorded_choices,
    recorded_comparison,
    recorded_grades,
    recorded_places,
    records,
    verdicts,
)
from mcnn_book.study.recorded import (
    KIMORPH as KIMORPH_MEASURES,
)
from mcnn_book.study.study import CHOICE_SEEDS, COMPARED_SEEDS, FRESH_SEEDS, PLAN
from mcnn_book.workspace import find_root
from mcnn_core.analysis import methods

FRESH = records("simulated-")
CELLS = records("real-cells")
WHOLE, KIMORPH = records("whole-"), records("kimorph-")
CHOICES = records("choosing-")


def nsc(records, method, protocol="NSC"):
    table = recorded_comparison(records)
    return table[(table["method"] == method) & (table["protocol"] == protocol)].set_index("seed")[
        "overall"
    ]


def test_aims_have_verdicts_in_words():
    measures = {
        "found": Measure("found", ".0f", "all of", "all"),
        "all": Measure("planted ones", ".0f"),
        "error": Measure("error", ".2f", "at most", 0.35),
        "share": Measure("share", ".0%", "above", 0.5),
    }
    found = pd.DataFrame(
        {"101": {"found": 2, "all": 3, "error": 0.3, "share": 0.5, "more": 1}, "102": {"found": 3}}
    )
    found.loc["all", "102"] = 3
    said = verdicts(found, measures)
    assert said.loc["found"].tolist() == ["2", "3", "all of the planted ones", "met on 1 of 2"]
    assert said.loc["error"].tolist() == ["0.30", "", "at most 0.35", "met"]
    assert said.loc["share"].tolist() == ["50%", "", "above 50%", "missed"]
    assert said.loc["planted ones", ["aim", "verdict"]].tolist() == ["", ""]
    assert verdicts(found[[]], measures).empty


@pytest.mark.parametrize(("measures", "runs"), [(WHOLE_SCREEN, WHOLE), (KIMORPH_MEASURES, KIMORPH)])
def test_every_measure_was_recorded_and_has_words_of_its_own(measures, runs):
    found = recorded_grades(runs)
    assert set(measures) <= set(found.index)
    assert len(verdicts(found, measures)) == len(measures)


def test_the_network_is_set_beside_whitened_features():
    said = beside_whitened(recorded_comparison(FRESH))
    trained, whitened = nsc(FRESH, "trained"), nsc(FRESH, "handcrafted_whitened")
    assert said["seeds"] == str(len(trained))
    assert said["trained"] == f"{trained.min() * 100:.0f} to {trained.max() * 100:.0f} %"
    assert said["whitened"].startswith(f"{whitened.min() * 100:.0f}")
    claimed = nsc(FRESH, "trained_whitened")
    assert said["claimed"] == f"{claimed.min() * 100:.0f} to {claimed.max() * 100:.0f} %"
    assert set(beside_whitened(recorded_comparison({})).values()) == {"not available"}


def test_recorded_comparisons_have_the_columns_of_new_ones():
    assert methods.COLUMNS == COLUMNS


def test_every_record_says_where_it_comes_from():
    for name, record in (
        FRESH | CELLS | WHOLE | KIMORPH | CHOICES | records("held-out") | records("variant-")
    ).items():
        assert record["command"].startswith("make study"), name
        assert len(record["commit"]) == 40 and record["processor"] and record["seconds"] > 0, name
        assert sorted(record["runs"]) == sorted(map(str, record["seeds"])), name


def test_the_fresh_seeds_were_run_at_one_frozen_commit_with_one_recipe():
    assert set(FRESH) == {f"simulated-{seed}" for seed in COMPARED_SEEDS}
    assert len({record["commit"] for record in FRESH.values()}) == 1
    recipes = [
        {**run["recipe"], "seed": 0} for record in FRESH.values() for run in record["runs"].values()
    ]
    assert all(recipe == recipes[0] for recipe in recipes)


@pytest.mark.parametrize("records, answerable", [(FRESH, 92), (CELLS, 92)])
def test_counts_are_whole_treatments(records, answerable):
    table = recorded_comparison(records).dropna(subset=["low"])
    right = table["overall"] * table["n"]
    assert ((right - right.round()).abs() < 1e-9).all()
    assert set(table.loc[table["protocol"] == "NSC", "n"]) == {103}
    assert set(table.loc[table["protocol"] == "NSCB", "n"]) == {answerable}


def test_the_page_of_results_repeats_the_record_of_the_real_cells():
    block = re.search(
        r"<!-- real-pixels:begin.*?-->(.*?)<!-- real-pixels:end -->",
        (find_root() / "book/results.md").read_text(encoding="utf-8"),
        re.S,
    )[1]
    for method, label in (
        ("trained", "trained network"),
        ("trained_whitened", "trained, whitened"),
        ("handcrafted_whitened", "handcrafted, whitened"),
        ("handcrafted", "handcrafted"),
        ("untrained", "untrained network"),
    ):
        row = re.search(rf"\| {label} \| ([^|]*) \| ([^|]*) \|", block)
        for text, protocol, n in zip(row.groups(), ("NSC", "NSCB"), (103, 92), strict=True):
            expected = (nsc(CELLS, method, protocol).sort_index() * n).round().astype(int)
            assert [int(number) for number in text.split(",")] == list(expected), (label, protocol)


GRADES = {
    "whole-screen": [
        "potency.median_error",
        "potency.coverage",
        "potency.no_fit",
        "potency.median_width",
        "suspects.rank",
        "clusters.recovered",
        "novel.precision.clusters",
        "novel.precision.nearest_neighbour",
        "novel.precision.isolation_forest",
    ],
    "kimorph": [
        "random.trained",
        "random.handcrafted_whitened",
        "random.handcrafted",
        "random.untrained",
        "groups.possible",
        "groups.possible_recovered",
        "groups.terms_found",
        "permuted.elim.share",
    ],
}


@pytest.mark.parametrize("name, records", [("whole-screen", WHOLE), ("kimorph", KIMORPH)])
def test_the_page_of_results_repeats_the_grades_of_the_fresh_seeds(name, records):
    part = (
        (find_root() / "book/results.md")
        .read_text(encoding="utf-8")
        .split(f"<!-- {name}:begin")[1]
        .split(f"<!-- {name}:end")[0]
    )
    told = [line.split("|")[2:5] for line in part.splitlines() if re.search(r"\| [0-9]", line)]
    found = recorded_grades(records)[[str(seed) for seed in FRESH_SEEDS]]
    assert len(told) == len(GRADES[name])
    for key, numbers in zip(GRADES[name], told, strict=True):
        assert [float(number) for number in numbers] == pytest.approx(
            found.loc[key].astype(float).tolist(), abs=5.1e-4
        ), key


@pytest.mark.parametrize("name, records", [("whole", WHOLE), ("kimorph", KIMORPH)])
def test_the_discoveries_were_recorded_at_one_commit_with_one_recipe(name, records):
    assert set(records) == {f"{name}-{seed}" for seed in FRESH_SEEDS}
    assert len({record["commit"] for record in records.values()}) == 1
    recipes = [
        {**run["recipe"], "seed": 0}
        for record in records.values()
        for run in record["runs"].values()
    ]
    assert all(recipe == recipes[0] for recipe in recipes)


def test_the_choices_were_recorded_at_one_commit_with_the_plan_of_the_book():
    assert set(CHOICES) == {f"choosing-{seed}" for seed in CHOICE_SEEDS}
    assert len({record["commit"] for record in CHOICES.values()}) == 1
    for record in CHOICES.values():
        for seed, run in record["runs"].items():
            assert run["plan"] == {
                "first": PLAN.first,
                "add": PLAN.add,
                "steps": list(PLAN.steps),
            } and run["recipe"]["seed"] == int(seed)
            assert (
                run["classes"]["chosen"]
                == run["classes"]["random 1"]
                == run["classes"]["random 2"]
                == len(set(run["chosen"]))
            )
    table = recorded_choices(CHOICES)
    asked = table[table["part"].isin(["all", "set aside"])].groupby(["seed", "protocol", "part"])[
        "n"
    ]
    assert (asked.nunique() == 1).all()  # every way answers the same questions
    right = table["overall"] * table["n"]
    assert ((right - right.round()).abs() < 1e-9).all() and set(
        table.loc[(table["protocol"] == "NSC") & (table["part"] == "all"), "n"]
    ) == {103}


def test_the_page_of_results_repeats_the_choices():
    part = (
        (find_root() / "book/results.md")
        .read_text(encoding="utf-8")
        .split("<!-- choosing:begin")[1]
        .split("<!-- choosing:end")[0]
    )
    table = recorded_choices(CHOICES)
    table = table[table["protocol"] == "NSC"].pivot(
        index="way", columns=["part", "seed"], values="overall"
    )
    rows = {
        cells[1].strip(): cells[2:8]
        for cells in (line.split("|") for line in part.splitlines())
        if len(cells) == 9 and "%" in cells[2]
    }
    assert list(rows) == list(recorded_choices(CHOICES)["way"].unique())
    for way, cells in rows.items():
        expected = [
            table.loc[way, (part, seed)] for part in ("all", "set aside") for seed in CHOICE_SEEDS
        ]
        assert [cell.strip() for cell in cells] == [f"{value:.1%}" for value in expected], way


def test_what_a_planted_effect_of_place_costs_and_what_its_correction_restores():
    kinds = [(False, False, 60), (False, True, 58), (True, False, 30), (True, True, 50)]
    effect = {"features": "trained", "NSCB": 9, "share": 0.4, "chance": 0.1, "p": 0.001}
    rows = [{"planted": one, "corrected": two, "NSC": nsc, **effect} for one, two, nsc in kinds]
    white = {"planted": True, "corrected": False, "NSC": 65, "features": "trained_whitened"}
    rows.append(effect | white)
    table = recorded_places({"place-0": {"runs": {"0": {"places": rows}}}})
    found = place_numbers(table)
    assert (found["cost"], found["restored"], found["harm"], found["share"]) == (30, 20, -2, 0.4)
    assert found["whitening"] == 65 - 30
    assert set(place_numbers(recorded_places({})).values()) == {"not available"}
