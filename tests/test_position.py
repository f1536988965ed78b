"""Planted effects of plate, batch and place are found; made screens without any have none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mcnn_book.simulate.bbbc021 import LAYOUTS, simulate_screen
from mcnn_core.analysis.baselines import handcrafted
from mcnn_core.analysis.position import (
    batch_recognition,
    correct_position,
    places,
    position_effects,
    position_map,
    position_shares,
)
from mcnn_core.preprocessing import Conversion, preprocess
from mcnn_core.profiles import feature_frame, profile
from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.store import Store
from mcnn_core.surrogate import training_fields


def wells(plate=0.0, batch=0.0, gradient=0.0, seed=0, plates=6):
    """Make plates of 8 x 12 wells in two batches, controls in every fourth well."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(plates):
        names = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
        kind = np.where(np.arange(96) % 5 == 0, "negcon", "trt")
        x = rng.normal(size=(96, 6))
        x += plate * np.random.default_rng(100 + number).normal(size=6)
        x += batch * np.random.default_rng(200 + number % 2).normal(size=6)
        x[:, 0] += gradient * (np.arange(96) // 12)
        part = pd.DataFrame(
            {
                "Metadata_Plate": f"P{number}",
                "Metadata_Batch": f"B{number % 2}",
                "Metadata_Well": names,
                "Metadata_Treatment": [*names],
                "Metadata_control_type": kind,
            }
        )
        parts.append(part.join(pd.DataFrame(x, columns=[f"MCNN_{k:03d}" for k in range(6)])))
    return pd.concat(parts, ignore_index=True)


def test_places_of_wells():
    table = pd.DataFrame({"Metadata_Well": ["A01", "B02", "H12", "AA10", "AF48"]})
    found = places(table)
    assert found["row"].tolist() == [0, 1, 7, 26, 31]
    assert found["column"].tolist() == [0, 1, 11, 9, 47]
    assert found["edge"].tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("label, planted", [("plate", {"plate": 2.0}), ("batch", {"batch": 3.0})])
def test_plates_and_batches_are_recognised_where_they_differ(label, planted):
    with_effect = batch_recognition(wells(**planted)).loc[label]
    assert with_effect["recognised"] > 2 * with_effect["by chance"] - 0.3
    assert with_effect["p_value"] < 0.15 if label == "batch" else 0.01
    assert batch_recognition(wells()).loc[label, "p_value"] > 0.05


def test_a_gradient_over_rows_is_found_and_taken_off():
    planted = wells(gradient=1.0)
    effects = position_effects(planted)
    assert effects.loc[("negative controls", "row"), "p_value"] <= 0.001
    assert effects.loc[("all", "column"), "p_value"] > 0.01
    left = position_effects(correct_position(planted)).loc["all"]
    assert left.loc["row", "share"] < left.loc["row", "by chance"]
    assert position_effects(wells()).loc[("negative controls", "row"), "p_value"] > 0.01


def test_correction_keeps_the_plate_s_level_and_single_active_wells():
    planted = wells(plate=5.0)
    features = planted.filter(regex="^MCNN").columns
    planted.loc[40, features] += 20.0
    corrected = correct_position(planted)
    before, after = (
        one.groupby("Metadata_Plate")[list(features)].median() for one in (planted, corrected)
    )
    np.testing.assert_allclose(before, after, atol=0.5)
    moved = (corrected.loc[40, features] - planted.loc[40, features]).astype(float)
    assert moved.abs().max() < 2


def test_the_map_shows_where_wells_are_far():
    planted = wells()
    here = planted["Metadata_Well"] == "C05"
    planted.loc[here, "MCNN_000"] += 10
    table = position_map(planted)
    assert table.shape == (8, 12)
    assert table.stack().idxmax() == (2, 4)


def test_an_effect_of_place_that_was_drawn_is_found_and_taken_off(tmp_path):
    layout = replace(LAYOUTS["tiny"], controls=6, place="row")
    simulate_screen(tmp_path / "screen", 0, layout, 64, 96, workers=1, progress=False)
    screen = read_bbbc021(tmp_path / "screen", simulated=True)
    preprocess(screen, tmp_path / "store", Conversion(), progress=False)
    store, training = Store.open(tmp_path / "store"), training_fields(screen.table)
    features = feature_frame(screen.table, handcrafted(store, progress=False), training)
    found, _ = profile(features, units_differ=True)
    effects = position_effects(found).loc["negative controls"]
    assert effects.loc["row", "p_value"] < 0.01
    left = position_shares(correct_position(found))["negative controls"]
    assert left["row"] < effects.loc["row", "by chance"]
