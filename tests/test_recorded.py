"""The recorded runs: complete, consistent, and the numbers that README repeats from them."""

import re

import pytest

from mcnn_core.study import FRESH_SEEDS, recorded, recorded_comparison, recorded_grades
from mcnn_core.workspace import find_root

FRESH = recorded("simulated-")
CELLS = recorded("real-cells")
WHOLE, KIMORPH = recorded("whole-"), recorded("kimorph-")


def nsc(records, method, protocol="NSC"):
    table = recorded_comparison(records)
    return table[(table["method"] == method) & (table["protocol"] == protocol)].set_index("seed")["overall"]


def test_every_record_says_where_it_comes_from():
    for name, record in (FRESH | CELLS | WHOLE | KIMORPH | recorded("held-out") | recorded("variant-")).items():
        assert record["command"].startswith("make study"), name
        assert len(record["commit"]) == 40 and record["processor"] and record["seconds"] > 0, name
        assert sorted(record["runs"]) == sorted(map(str, record["seeds"])), name


def test_the_fresh_seeds_were_run_at_one_frozen_commit_with_one_recipe():
    assert set(FRESH) == {f"simulated-{seed}" for seed in FRESH_SEEDS}
    assert len({record["commit"] for record in FRESH.values()}) == 1
    recipes = [{**run["recipe"], "seed": 0} for record in FRESH.values() for run in record["runs"].values()]
    assert all(recipe == recipes[0] for recipe in recipes)


@pytest.mark.parametrize("records, answerable", [(FRESH, 92), (CELLS, 92)])
def test_counts_are_whole_treatments(records, answerable):
    table = recorded_comparison(records).dropna(subset=["low"])
    right = table["overall"] * table["n"]
    assert ((right - right.round()).abs() < 1e-9).all()
    assert set(table.loc[table["protocol"] == "NSC", "n"]) == {103}
    assert set(table.loc[table["protocol"] == "NSCB", "n"]) == {answerable}


def test_readme_repeats_the_record_of_the_real_cells():
    block = re.search(r"<!-- real-pixels:begin.*?-->(.*?)<!-- real-pixels:end -->", (find_root() / "README.md").read_text(encoding="utf-8"), re.S)[1]
    for method, label in (("trained", "trained network"), ("handcrafted_whitened", "handcrafted, whitened"),
                          ("handcrafted", "handcrafted"), ("untrained", "untrained network")):
        row = re.search(rf"\| {label} \| ([^|]*) \| ([^|]*) \|", block)
        for text, protocol, n in zip(row.groups(), ("NSC", "NSCB"), (103, 92)):
            expected = (nsc(CELLS, method, protocol).sort_index() * n).round().astype(int)
            assert [int(number) for number in text.split(",")] == list(expected), (label, protocol)


GRADES = {
    "whole-screen": ["potency.median_error", "potency.coverage", "potency.no_fit", "potency.median_width", "suspects.rank", "clusters.recovered",
                     "novel.precision.clusters", "novel.precision.nearest_neighbour", "novel.precision.isolation_forest"],
    "kimorph": ["random.trained", "random.handcrafted_whitened", "random.handcrafted", "random.untrained", "groups.possible", "groups.possible_recovered",
                "groups.terms_found", "permuted.elim.share"]}


@pytest.mark.parametrize("name, records", [("whole-screen", WHOLE), ("kimorph", KIMORPH)])
def test_the_readme_repeats_the_grades_of_the_fresh_seeds(name, records):
    part = (find_root() / "README.md").read_text(encoding="utf-8").split(f"<!-- {name}:begin")[1].split(f"<!-- {name}:end")[0]
    told = [line.split("|")[2:5] for line in part.splitlines() if re.search(r"\| [0-9]", line)]
    found = recorded_grades(records)[[str(seed) for seed in FRESH_SEEDS]]
    assert len(told) == len(GRADES[name])
    for key, numbers in zip(GRADES[name], told, strict=True):
        assert [float(number) for number in numbers] == pytest.approx(found.loc[key].astype(float).tolist(), abs=5.1e-4), key


@pytest.mark.parametrize("name, records", [("whole", WHOLE), ("kimorph", KIMORPH)])
def test_the_discoveries_were_recorded_at_one_commit_with_one_recipe(name, records):
    assert set(records) == {f"{name}-{seed}" for seed in FRESH_SEEDS}
    assert len({record["commit"] for record in records.values()}) == 1
    recipes = [{**run["recipe"], "seed": 0} for record in records.values() for run in record["runs"].values()]
    assert all(recipe == recipes[0] for recipe in recipes)
