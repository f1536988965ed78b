"""The steps that notebooks and study share, and whole roads through them.

And the notebooks' own code on unusual screens.
"""

import dataclasses
import shutil
import statistics
from collections import defaultdict

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, tiny_rows, well_table, write_screen

from mcnn_book import results, screens, sheets, words
from mcnn_book.pictures import clear_rows
from mcnn_book.results import mechanism_results
from mcnn_book.simulate import bbbc021 as simulated
from mcnn_book.simulate import cells
from mcnn_core import profiles as profiles_module
from mcnn_core import surrogate, training
from mcnn_core.analysis import methods as methods_module
from mcnn_core.analysis.methods import evaluate
from mcnn_core.errors import InputError
from mcnn_core.features import embed
from mcnn_core.machine.files import read_json, write_table
from mcnn_core.model import CONFIGS
from mcnn_core.preprocessing import preprocess
from mcnn_core.profiles import (
    feature_columns,
    feature_frame,
    feature_matrix,
    profile,
    treatment_profiles,
)
from mcnn_core.readers.images import check_headers
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.screen import in_words
from mcnn_core.store import Store
from mcnn_core.surrogate import default_columns, surrogate_classes
from mcnn_core.training import RECIPES, load_model, train
from tools import book

RECIPE = dataclasses.replace(RECIPES["default"], epochs=2, batch=16)
SIZE = {"height": 64, "width": 96}


def road(screen, folder, recipe):
    """Take a screen to the features of its fields, as the notebooks do."""
    store = preprocess(screen, folder / "store", workers=1, progress=False)
    labels = surrogate_classes(
        screen.table, default_columns(screen.table), surrogate.training_fields(screen.table)
    )["label"].to_numpy()
    train(store, labels, SMALL, recipe, folder / "model", progress=False)
    features = feature_frame(
        screen.table,
        embed(load_model(folder / "model"), store, range(len(labels)), progress=False),
        labels >= 0,
    )
    return store, labels, features


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    return screens.open_screen(
        "simulated", "", tmp_path_factory.mktemp("screen"), seed=5, layout="tiny", **SIZE, workers=1
    )


@pytest.fixture(scope="module")
def run(screen, tmp_path_factory):
    """Return the tiny screen with everything up to its predictions."""
    folder = tmp_path_factory.mktemp("run")
    store, labels, features = road(screen, folder, RECIPE)
    predictions = methods_module.compare_methods(
        features,
        labels,
        store,
        SMALL,
        RECIPE,
        folder / "supervised",
        progress=False,
    )
    treatments = profile(features)[1]
    comparison = methods_module.comparison(predictions, treatments)
    return {
        "folder": folder,
        "store": store,
        "labels": labels,
        "features": features,
        "predictions": predictions,
        "treatments": treatments,
        "comparison": comparison,
        "numbers": mechanism_results(comparison),
    }


# ---------------------------------------------------------------------------- screens


def test_open_screen_simulates(screen):
    assert (
        screen.simulated
        and screen.name == "the simulated screen (seed 5)"
        and len(screen.table) == 128
    )
    assert screens.pixel_size(screen, 64) == cells.pixel_size(64)
    assert (screen.root / "truth.csv").exists()


@pytest.mark.parametrize(
    ("name", "layout", "said"),
    [
        ("bbbc022", "tiny", "the path of a LoadData .csv"),
        ("simulated", "huge", "one of default, tiny"),
    ],
)
def test_open_screen_refuses(tmp_path, name, layout, said):
    with pytest.raises(InputError, match=said):
        screens.open_screen(name, "", tmp_path, layout=layout)
    assert not list(tmp_path.iterdir())


def test_open_screen_reads_what_is_there(tmp_path):
    path = write_screen(tmp_path)
    loaded = screens.open_screen(str(path), "", tmp_path)
    pd.testing.assert_frame_equal(loaded.table, read_loaddata(path).table)
    assert (
        screens.pixel_size(loaded, 1024) is None and screens.control_statistics(loaded, 12) is None
    )


def test_open_screen_leaves_out_plates_of_bbbc021_that_are_not_there(screen, tmp_path, capsys):
    for path in screen.root.glob("BBBC021*.csv"):
        shutil.copy(path, tmp_path)
    with pytest.raises(
        InputError, match="holds no image of BBBC021: fetch plates with make data SCREEN=bbbc021"
    ):
        screens.open_screen("bbbc021", tmp_path, tmp_path)
    plates = sorted(set(screen.table["Metadata_Plate"]))
    place = screen.table.loc[screen.table["Metadata_Plate"] == plates[1], "PathName_DAPI"].iloc[0]
    shutil.copytree(screen.root / place, tmp_path / place)
    part = screens.open_screen("bbbc021", tmp_path, tmp_path)
    assert set(part.table["Metadata_Plate"]) == {plates[1]} and check_headers(part) == (64, 96)
    others = [plate for plate in plates if plate != plates[1]]
    assert (
        capsys.readouterr().out
        == f"{len(others)} plates of BBBC021 are not in {tmp_path} and are left out: "
        f"{', '.join(others)}\n"
    )
    assert screens.pixel_size(part, 1024, bin=2) == 2 * cells.MICROSCOPE_PIXEL
    whole = screens.open_screen("bbbc021", screen.root, tmp_path)
    assert len(whole.table) == len(screen.table) and not capsys.readouterr().out


def test_training_fields_are_annotated_treatments_else_all(screen):
    table = screen.table
    chosen = table[surrogate.training_fields(table)]
    assert set(chosen["Metadata_control_type"]) == {"trt"} and (chosen["Metadata_MoA"] != "").all()
    assert 0 < len(chosen) < (table["Metadata_control_type"] == "trt").sum()
    bare = table.assign(Metadata_MoA="")
    np.testing.assert_array_equal(
        surrogate.training_fields(bare), table["Metadata_control_type"] == "trt"
    )


def test_negative_controls_train_only_where_asked(screen):
    table = screen.table.copy()
    table.loc[table.index[table["Metadata_MoA"] != ""][0], "Metadata_control_type"] = "poscon"
    kinds = table["Metadata_control_type"]
    assert set(kinds) == {"negcon", "poscon", "trt"}
    annotated = (kinds == "trt") & (table["Metadata_MoA"] != "")
    np.testing.assert_array_equal(surrogate.training_fields(table), annotated)
    np.testing.assert_array_equal(
        surrogate.training_fields(table, controls=True), annotated | (kinds == "negcon")
    )
    np.testing.assert_array_equal(
        surrogate.training_fields(table.assign(Metadata_MoA=""), controls=True), kinds != "poscon"
    )
    without = table[kinds != "negcon"]
    np.testing.assert_array_equal(
        surrogate.training_fields(without, controls=True), annotated[without.index]
    )


def test_controls_are_one_more_class_and_shorten_the_recipe(screen):
    table, plain = screen.table, dataclasses.replace(RECIPES["default"], epochs=100)
    control = (table["Metadata_control_type"] == "negcon").to_numpy()
    first = surrogate_classes(table, default_columns(table), surrogate.training_fields(table))
    first = first["label"].to_numpy()
    labels, recipe = training.with_controls(first, plain, table)
    assert set(labels[control]) == {first.max() + 1}
    np.testing.assert_array_equal(labels[~control], first[~control])
    assert recipe.epochs == round(25 * (first >= 0).sum() / (labels >= 0).sum()) < 25
    assert dataclasses.replace(recipe, epochs=100) == plain
    assert training.with_controls(first, training.shortened(plain, 0), table)[1].epochs == 1
    labels, recipe = training.with_controls(first[~control], plain, table[~control])
    np.testing.assert_array_equal(labels, first[~control])
    assert recipe.epochs == 25


def test_examples_show_each_mechanism_once_and_a_control(screen):
    shown = sheets.examples(screen.table)
    moa = shown["Metadata_MoA"]
    assert (
        sorted(moa[moa != ""]) == sorted(set(screen.table["Metadata_MoA"]) - {""})
        and list(shown["Metadata_control_type"])[-1] == "negcon"
    )
    for row in shown[moa != ""].itertuples():
        same = screen.table[
            (screen.table["Metadata_MoA"] == row.Metadata_MoA)
            & (screen.table["Metadata_control_type"] == "trt")
        ]
        assert (
            row.Metadata_Concentration == same["Metadata_Concentration"].max()
            or same["Metadata_Compound"].nunique() > 1
        )
    few = sheets.examples(screen.table.assign(Metadata_MoA=""), most=4)
    assert len(few) == 4 and few["Metadata_Treatment"].is_unique


def test_stretched_fills_eight_bits_per_channel(screen):
    field = screens.stretched(screen, 3)
    assert field.dtype == np.uint8 and field.shape == (64, 96, 3)
    assert (field.min((0, 1)) == 0).all() and (field.max((0, 1)) == 255).all()


def test_normalisations_follow_the_controls(screen):
    table = screen.table
    assert profiles_module.possible_normalisations(table) == ["none", "centre", "whiten"]
    control = table["Metadata_control_type"] == "negcon"
    one_plate = table[~control | (table["Metadata_Plate"] == table["Metadata_Plate"].iloc[0])]
    assert profiles_module.possible_normalisations(one_plate) == ["none", "whiten"]
    assert profiles_module.possible_normalisations(table[~control]) == ["none"]


def test_nesting_counts_batches_of_compounds(screen):
    counts = words.nesting(screen.table)
    batches = defaultdict(set)
    for compound, batch in zip(
        screen.table["Metadata_Compound"], screen.table["Metadata_Batch"], strict=True
    ):
        batches[compound].add(batch)
    sizes = [len(found) for found in batches.values()]
    assert counts == {
        "compounds_in_one_batch": sizes.count(1),
        "compounds_in_more": len(sizes) - sizes.count(1),
    }
    assert set(words.nesting(screen.table.assign(Metadata_Batch="")).values()) == {"not available"}


def test_control_statistics_measure_simulated_controls(screen):
    found = screens.control_statistics(screen, 64, most=4)
    assert found["n_fields"] == 4 and found["nuclei_per_mm2"] > 0
    uncontrolled = dataclasses.replace(
        screen, table=screen.table[screen.table["Metadata_control_type"] == "trt"]
    )
    assert screens.control_statistics(uncontrolled, 64) is None


# -------------------------------------------------------------------------- the road


def test_comparison_has_every_method(run):
    methods = {
        f"{name}{suffix}"
        for name in ("trained", "untrained", "intensity", "handcrafted", "supervised")
        for suffix in ("", "_centred", "_whitened")
    }
    assert set(run["predictions"]["method"]) == methods and set(run["predictions"]["seed"]) == {0}
    assert set(run["comparison"]["method"]) == methods | {"chance", "label frequency", "week only"}
    assert (
        run["comparison"]
        .groupby("method")["protocol"]
        .apply(list)
        .map(tuple)
        .isin([("NSC", "NSCB"), ("NSC",)])
        .all()
    )
    trained = evaluate(run["treatments"], "trained", 0)
    again = run["predictions"][run["predictions"]["method"] == "trained"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, trained)


def test_numbers_follow_from_the_predictions_on_disk(run, tmp_path):
    write_table(tmp_path / "predictions.csv", run["predictions"])
    answers = defaultdict(lambda: defaultdict(list))
    for row in pd.read_csv(tmp_path / "predictions.csv").to_dict("records"):
        answers[row["protocol"].lower(), row["method"]][row["MoA"]].append(
            row["MoA"] == row["predicted"]
        )
    assert ("nsc", "trained") in answers
    for (protocol, method), by_class in answers.items():
        right = [answer for part in by_class.values() for answer in part]
        expected = {
            "overall": sum(right) / len(right),
            "n": len(right),
            "class_median": statistics.median(sum(part) / len(part) for part in by_class.values()),
        }
        for kind, value in expected.items():
            assert (
                run["numbers"][f"{protocol}.{kind}.{method}"]
                == run["numbers"][f"{protocol}.{kind}.{method}.seed0"]
                == pytest.approx(value)
            )


def test_floors_follow_from_the_table_alone(run):
    table = run["treatments"]
    known = table[
        (table["Metadata_MoA"] != "") & (table["Metadata_control_type"] == "trt")
    ].to_dict("records")
    guesses = []
    for query in known:
        allowed = [
            one["Metadata_MoA"]
            for one in known
            if one["Metadata_Compound"] != query["Metadata_Compound"]
        ]
        if query["Metadata_MoA"] in allowed:
            guesses.append(allowed.count(query["Metadata_MoA"]) / len(allowed))
    assert run["numbers"]["nsc.overall.chance"] == pytest.approx(sum(guesses) / len(guesses))
    assert run["numbers"]["nsc.n.chance"] == len(guesses) == run["numbers"]["nsc.n.trained"]


def test_nothing_to_predict_is_said(run):
    """Without mechanisms, or with one compound for each, keys are there and say so."""
    for moa in ("", run["features"]["Metadata_Compound"]):
        features = run["features"].assign(Metadata_MoA=moa)
        predictions = methods_module.compare_methods(
            features,
            run["labels"],
            run["store"],
            SMALL,
            RECIPE,
            run["folder"] / "none",
        )
        comparison = methods_module.comparison(predictions, profile(features)[1])
        numbers = mechanism_results(comparison)
        assert predictions.empty and comparison.empty and not (run["folder"] / "none").exists()
        assert numbers.pop("answered").startswith("neither") and set(numbers.values()) == {
            "not available",
            False,
        }
        assert set(numbers) < set(run["numbers"])


def test_supervision_learns_every_mechanism_of_a_screen_of_treatments_only(run, monkeypatch):
    """Without a control no field lacks a mechanism, and the first must not be taken for "none"."""
    table, store = run["features"], run["store"]
    rows = np.flatnonzero(run["labels"] >= 0)
    part = dataclasses.replace(store, pixels=store.pixels[rows])
    seen = []
    monkeypatch.setattr(methods_module, "train", lambda store, labels, *rest: seen.append(labels))
    monkeypatch.setattr(
        methods_module,
        "load_model",
        lambda folder: training.untrained_model(part, seen[0], SMALL),
    )
    methods_module.compare_methods(
        table.iloc[rows].reset_index(drop=True),
        run["labels"][rows],
        part,
        SMALL,
        RECIPE,
        run["folder"] / "none",
        progress=False,
    )
    assert set(seen[0]) == set(range(table["Metadata_MoA"].iloc[rows].nunique()))


def test_overview_shows_classes_and_treatments(run):
    groups, profiles, distances, names = sheets.overview(
        run["store"], run["features"], run["labels"], run["treatments"]
    )
    assert len(names) == len(profiles) == len(distances) == min(16, len(run["treatments"]))
    trained = run["treatments"][run["treatments"]["Metadata_Training"]]
    groups, profiles, distances, names = sheets.overview(
        run["store"], run["features"], run["labels"], trained
    )
    for name, fields in groups.items():
        rows = np.flatnonzero(
            (run["features"]["Metadata_Treatment"] == name) & (run["labels"] >= 0)
        )
        shown = clear_rows(run["store"].pixels, rows)[:2]
        np.testing.assert_array_equal(fields, run["store"].pixels[shown])
    assert len(groups) == 3 and names[0] in groups and names[-1] in groups
    np.testing.assert_array_equal(profiles[0], feature_matrix(trained.iloc[:1])[0])


def test_samples_show_each_compound_once(run):
    trained = run["treatments"][run["treatments"]["Metadata_Training"]]
    groups, titles = sheets.samples(run["features"], run["labels"], trained)
    *shown, control = (run["features"].iloc[rows] for rows in groups)
    compounds = [part["Metadata_Compound"].iloc[0] for part in shown]
    assert compounds == list(dict.fromkeys(trained["Metadata_Compound"]))
    assert all((run["labels"][rows] >= 0).all() for rows in groups[:-1])
    assert (control["Metadata_control_type"] == "negcon").all()
    first = shown[0].iloc[0]
    assert titles[0] == f"{in_words(first['Metadata_Treatment'])}\n{first['Metadata_MoA']}"


def test_replicate_distances_part_all_pairs(run):
    wells = profile(run["features"])[0]
    pairs = sheets.replicate_distances(wells)
    sizes = wells["Metadata_Treatment"].value_counts()
    assert len(pairs["same treatment"]) == (sizes * (sizes - 1) // 2).sum()
    assert sum(map(len, pairs.values())) == len(wells) * (len(wells) - 1) // 2
    assert not len(
        sheets.replicate_distances(wells.assign(Metadata_Treatment=""))["same treatment"]
    )


def test_no_analysis_reads_the_truth(tmp_path):
    """Two equal simulations, the truth deleted from one.

    Pixels, labels, features and predictions agree to the bit.
    """
    found = []
    for name in ("with", "without"):
        one = screens.open_screen(
            "simulated", "", tmp_path / name, seed=9, layout="tiny", **SIZE, workers=1
        )
        truth = one.root / "truth.csv"
        assert truth.exists()
        if name == "without":
            truth.unlink()
        store, labels, features = road(one, tmp_path / name, dataclasses.replace(RECIPE, epochs=1))
        treatments = profile(features)[1]
        found.append(
            (
                store.pixels,
                labels,
                feature_matrix(features),
                feature_matrix(treatments),
                evaluate(treatments, "trained", 0),
            )
        )
    (*arrays, predictions), (*others, same) = found
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)
    pd.testing.assert_frame_equal(predictions, same, check_exact=True)
    assert len(feature_columns(features)) == SMALL.hidden


# ------------------------------------------------------------------ notebooks as they are


def run_notebooks(build, names):
    """Run the code of notebooks in this process; return each one's variables.

    They have the parameters that a build gives them.
    """
    given, left = build.parameters(), {}
    with matplotlib.rc_context({"backend": "agg"}):
        for name in names:
            left[name] = {}
            for cell in book.code_cells(book.read_source(name)):
                exec(compile(cell.source, name, "exec"), left[name])
                if "parameters" in book.tags(cell):
                    left[name] |= given[name]
            for number in plt.get_fignums():
                plt.figure(number).draw_without_rendering()
            plt.close("all")
    return left


def test_paper_profile_runs_the_published_network_on_full_fields(tmp_path, monkeypatch):
    """Profile `paper` as it stands, through every notebook, on little.

    But with eight fields, of two treatments and two controls, and one step.
    """
    facts = simulated.LAYOUTS["default"].compounds.set_index("compound", drop=False)
    two = facts.loc[["taxol", "epothilone B"]].assign(
        week=1, layout=1, replicates=1, row=["D", "E"]
    )
    monkeypatch.setitem(
        simulated.LAYOUTS,
        "tiny",
        simulated.Layout(two.reset_index(drop=True), columns=(4,), controls=1, sites=2),
    )
    build = book.Build(
        profile="paper",
        out=tmp_path,
        params="layout=tiny max_steps=1 batch=2 inside=1 supervised=False",
    )
    left = run_notebooks(build, [name for name in book.notebook_names() if name < "09"])
    model, recipe = load_model(tmp_path / "model"), left["05_training"]["chosen"]
    assert model.config == CONFIGS["published"] and model.spec[-2:] == (1024, 1280)
    assert recipe == dataclasses.replace(RECIPES["published"], epochs=27, batch=2, max_steps=1)
    assert Store.open(tmp_path / "store").shape == (8, 1024, 1280, 3)
    # A batch of two, of four training fields.
    assert read_json(tmp_path / "results" / "05_training.json")["training.epochs"] == 1
    assert read_json(tmp_path / "results" / "08_mechanisms.json")["mechanisms.nsc.n.untrained"] == 2


@pytest.mark.parametrize("kind", ["wells alone", "mechanisms of one compound"])
def test_unusual_screens_reach_the_end(tmp_path, kind):
    """Two plates of two channels without controls, batches or doses.

    Every chapter ends and says what is missing.
    """
    rows = tiny_rows(wells=("B02", "AF03", "C04"))
    rows["Metadata_MoA"] = rows["Metadata_Compound"].str.upper()
    rows["Metadata_Compound"] = rows["Metadata_Compound"].replace("DMSO", "other")
    rows = rows.drop(
        columns=[
            "Metadata_Concentration",
            *(["Metadata_MoA", "Metadata_Compound"] if kind == "wells alone" else []),
        ]
    )
    build = book.Build(
        screen=str(write_screen(tmp_path, rows, shape=(40, 50))),
        out=tmp_path / "out",
        params="epochs=1",
    )
    run_notebooks(build, [name for name in book.notebook_names() if name < "09"])
    results = {
        key: value
        for path in (tmp_path / "out" / "results").iterdir()
        for key, value in read_json(path).items()
    }
    assert (
        results["screen.compounds_in_one_batch"]
        == results["screen.coverage"]
        == results["mechanisms.nsc.overall.trained"]
        == "not available"
    )
    assert results["mechanisms.answered"].startswith("neither") and results[
        "surrogate.n_classes"
    ] == (6 if kind == "wells alone" else 3)
    assert (results["profiles.median_within"] == "not available") == (kind == "wells alone")
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").empty


def test_inactive_treatments_are_marked_and_left_out_of_a_second_score():
    """Two mechanisms that act and one treatment that does nothing, which is predicted wrongly."""
    rng = np.random.default_rng(0)
    kinds = [("a", 1.0, "x"), ("b", 1.0, "x"), ("c", 1.0, "y"), ("d", 1.0, "y"), ("e", 1.0, "y")]
    rows, values = [], []
    for plate in ("P1", "P2", "P3"):
        rows += [(plate, "DMSO", 0.0, "", "negcon")] * 12
        values += [rng.normal(size=8) for _ in range(12)]
        for compound, dose, moa in kinds:
            rows.append((plate, compound, dose, moa, "trt"))
            shift = 0 if compound == "e" else 9 * np.eye(8)[int(moa == "y")]
            values.append(rng.normal(size=8) + shift)
    wells = well_table(rows, np.array(values))
    treatments = treatment_profiles(wells)
    predictions = methods_module.evaluate(treatments, "trained", 0)
    compared = methods_module.comparison(predictions, treatments)
    marked, scored = results.by_activity(predictions, compared, wells)
    assert marked.set_index("compound")["active"].to_dict() == dict.fromkeys("abcd", True) | {
        "e": False
    }
    pd.testing.assert_frame_equal(marked.drop(columns="active"), predictions)
    first = scored.set_index("method").loc["trained"]
    assert (first["n"], first["n_active"], first["overall_active"]) == (5, 4, 1)
    pd.testing.assert_frame_equal(scored[compared.columns], compared)
    found = results.activity_results(scored)
    assert found["has_active"] and found["nsc.n_active.trained"] == 4
    marked, scored = results.by_activity(
        predictions, compared, wells.assign(Metadata_control_type="trt")
    )
    assert set(marked["active"]) == {""} and not results.activity_results(scored)["has_active"]
