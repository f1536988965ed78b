"""`make study`: what a record holds, that it is made once, and how the book reads it back."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers import tiny_rows, write_screen

from mcnn_core import study
from mcnn_core.files import read_json
from mcnn_core.pipeline import open_screen, training_fields
from mcnn_core.train import RECIPES

FACTS = {"command", "seeds", "seconds", "commit", "processor", "version.python", "version.torch", "runs"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository root of this test's own, and trainings of one epoch on tiny fields."""
    short = dataclasses.replace(RECIPES["default"], epochs=1, batch=16)
    monkeypatch.setattr(study, "find_root", lambda: tmp_path)
    monkeypatch.setitem(study.RECIPES, "default", short)
    monkeypatch.setattr(study, "CELLS", short)
    monkeypatch.setattr(study, "open_screen", lambda name, data, out, seed: open_screen(name, data, out, seed, "tiny", 64, 96, workers=1))
    return tmp_path


def record(root, name):
    return read_json(root / "book" / "recorded" / f"{name}.json")


def test_names_and_seeds_of_the_studies(tmp_path):
    planned = study.studies(tmp_path, "")
    assert [seeds for name, (seeds, _) in planned.items() if name.startswith("simulated-")] == [[101], [102], [103]]
    assert planned["held-out"][0] == [0]
    assert [name for name in planned if name.startswith("variant-")] == [
        "variant-default-default", "variant-default-no-norm-default", "variant-default-three-scales-default",
        "variant-published-gap-default", "variant-published-published"]
    assert [(name, seeds) for name, (seeds, _) in study.studies(tmp_path, "some/real-cells.csv").items()] == [("real-cells", [101, 102, 103])]


def test_a_record_says_what_it_comes_from_and_is_made_once(root, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(study, "studies", lambda work, screen: {
        "one": ([3, 4], lambda seed: asked.append(seed) or {"value": seed * 2}), "two": ([5], lambda seed: asked.append(seed) or {})})
    study.main(["--only", "one"])
    made = record(root, "one")
    assert FACTS <= set(made) and made["command"] == "make study" and made["seeds"] == [3, 4] and made["seconds"] >= 0
    assert made["runs"] == {"3": {"value": 6}, "4": {"value": 8}} and asked == [3, 4]
    study.main([])
    assert asked == [3, 4, 5] and "one: recorded already in one.json" in capsys.readouterr().out
    assert study.recorded("t", root / "book" / "recorded") == study.recorded("two") == {"two": record(root, "two")}


def test_a_study_that_fails_leaves_no_record(root, monkeypatch):
    monkeypatch.setattr(study, "studies", lambda work, screen: {"one": ([1, 2], lambda seed: 1 / (2 - seed))})
    with pytest.raises(ZeroDivisionError):
        study.main([])
    assert not list(root.rglob("*.json"))


def test_simulated_comparison(root):
    study.main(["--only", "simulated-101", "--out", str(root / "work")])
    made = record(root, "simulated-101")
    run = made["runs"]["101"]
    assert run["screen"]["n_fields"] == 128 and run["recipe"]["seed"] == 101
    table = study.recorded_comparison(study.recorded("simulated-"))
    assert {"trained", "untrained", "handcrafted_whitened", "supervised", "chance", "week only"} <= set(table["method"])
    assert table["recorded"].all() and set(table["seed"].dropna()) == {101}
    learned = table[table["method"] == "trained"]
    assert (learned["low"] <= learned["overall"]).all() and (learned["overall"] <= learned["high"]).all()
    assert table.loc[table["method"] == "chance", "low"].isna().all()


def test_a_screen_is_recorded_under_its_name(root):
    rows = tiny_rows(plates=2, wells=("B02", "B03", "B04", "B05", "B06"))
    rows.loc[rows["Metadata_Well"].isin(["B05", "B06"]), "Metadata_MoA"] = "actin"
    path = write_screen(root, rows, shape=(64, 64)).rename(root / "my cells.csv")
    study.main(["--screen", str(path), "--out", str(root / "work")])
    made = record(root, "my cells")
    assert made["command"] == "make study SCREEN=my cells.csv" and list(made["runs"]) == ["101", "102", "103"]
    table = study.recorded_comparison({"my cells": made})
    assert set(table["protocol"]) == {"NSC"} and set(table["seed"].dropna()) == {101, 102, 103}
    # what does not learn does not depend on the seed of the network
    assert table[table["method"] == "handcrafted"]["overall"].nunique() == 1


def test_variants_say_their_size_and_cost(root):
    study.main(["--only", "variant-default-three-scales", "--out", str(root / "work")])
    run = record(root, "variant-default-three-scales-default")["runs"]["0"]
    assert run["network"] == "default-three-scales" and run["parameters"] > 0 and run["training_seconds"] > 0
    assert np.isfinite(run["loss"]) and 0 <= run["accuracy"] <= 1 and 0 <= run["nsc"]["low"] <= run["nsc"]["overall"] <= run["nsc"]["high"] <= 1


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
    assert found["folds"] == len(seen) == 4 and sum(map(len, left_out)) == len(annotated) and set().union(*left_out) == annotated
    known = table.loc[training_fields(table), ["Metadata_Treatment", "Metadata_Compound", "Metadata_MoA"]].drop_duplicates()
    compounds = known.groupby("Metadata_MoA")["Metadata_Compound"].transform("nunique")
    assert found["nsc"]["n"] == (compounds > 1).sum()  # each treatment that can be asked is asked once


def test_nothing_recorded_is_an_empty_table(root):
    assert study.recorded("simulated-") == {}
    table = study.recorded_comparison({})
    assert table.empty and {"method", "protocol", "seed", "overall", "n", "low", "high", "recorded"} <= set(table)
    assert isinstance(table, pd.DataFrame)


def test_margins_compare_with_the_best_handcrafted_row_of_each_seed():
    rows = [("trained", 1, 0.8), ("handcrafted", 1, 0.3), ("handcrafted_whitened", 1, 0.7),
            ("trained", 2, 0.6), ("handcrafted", 2, 0.62), ("handcrafted_whitened", 2, 0.5)]
    table = pd.DataFrame(rows, columns=["method", "seed", "overall"]).assign(protocol="NSC")
    found = study.margins(pd.concat([table, table.assign(protocol="NSCB", overall=0.1)]))
    assert found == pytest.approx({"trained": 0.7, "lead_smallest": -0.02, "lead_largest": 0.1})
    assert set(study.margins(table.head(0)).values()) == {"not available"}
