"""New plates placed by the network of an earlier report."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import tiny_rows, well_table, write_screen

from mcnn_book.__main__ import main
from mcnn_book.placing import moved, movement, place
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.features import embed_screen
from mcnn_core.machine.files import write_table
from mcnn_core.model import CONFIGS
from mcnn_core.preprocessing import Conversion, preprocess
from mcnn_core.profiles import (
    feature_columns,
    feature_frame,
    profile,
    treatment_profiles,
)
from mcnn_core.readers.features import read_features
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.training import RECIPES, load_model, train

WELLS = ("B02", "B03", "B04", "B05")


def screen_of(folder, first, seed, **changes):
    """Write a screen of two plates, numbered from `first`, and return the path of its table."""
    rows = tiny_rows(plates=2, wells=WELLS, **changes)
    number = {f"P{k}": f"P{k + first - 1}" for k in (1, 2)}
    rows["Metadata_Plate"] = rows["Metadata_Plate"].map(number)
    rows.loc[rows["Metadata_Well"] == "B05", "Metadata_MoA"] = "actin"
    return write_screen(folder, rows, (64, 64), seed)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the folder of a report, as far as new plates need it, with a network of one epoch."""
    folder = tmp_path_factory.mktemp("report")
    screen = read_loaddata(screen_of(folder / "plates", 1, 0))
    store = preprocess(screen, folder / "store", Conversion(bin=2), progress=False)
    labels = pd.factorize(screen.table["Metadata_Treatment"])[0]
    recipe = replace(RECIPES["default"], epochs=1, batch=8)
    model = folder / "whole" / "model"
    train(store, labels, CONFIGS["default"], recipe, model, progress=False)
    found = embed_screen(load_model(model), store, folder / "whole" / "activations", progress=False)
    features = feature_frame(screen.table, found, labels >= 0)
    write_table(folder / "whole" / "features.parquet", features)
    return folder


def test_new_plates_lie_on_the_old_axes(report, tmp_path, capsys):
    table, out = screen_of(tmp_path / "new", 3, 1), tmp_path / "out"
    main(["place", "--screen", str(table), "--report", str(report), "--out", str(out)])
    wells = pd.read_parquet(out / "profiles_well.parquet")
    assert wells.groupby("Metadata_New")["Metadata_Plate"].unique().map(list).to_dict() == {
        False: ["P1", "P2"],
        True: ["P3", "P4"],
    }
    before, _ = profile(pd.read_parquet(report / "whole" / "features.parquet"))
    old = wells[~wells["Metadata_New"]].reset_index(drop=True)
    columns = feature_columns(before)
    np.testing.assert_allclose(old[columns], before[columns], rtol=0, atol=1e-9)
    assert pd.read_csv(out / "similarity.csv")["plate"].unique().tolist() == ["P3", "P4"]
    features, _ = read_features(out / "features.parquet")  # as FEATURES= does
    assert len(features) == 16 and len(feature_columns(features)) == 128
    found = pd.read_csv(out / "moved.csv", keep_default_na=False)
    assert len(found) == 3 and (found["moved"] > 0).all()  # on the new plates too
    assert "3 old treatments, 3 of them also on the new plates" in capsys.readouterr().out


def test_what_does_not_fit_is_named_at_once(report, tmp_path):
    same = read_loaddata(screen_of(tmp_path / "same", 2, 1, channels=("DNA",)))
    with pytest.raises(InputError) as error:
        place(same, report, tmp_path / "out")
    assert "plate 'P2' is one of the old ones" in error.value.problems[0]
    assert "expected channels" in error.value.problems[1]
    with pytest.raises(MissingStageError, match="no finished report or book"):
        place(same, tmp_path, tmp_path / "out")
    rows = tiny_rows(plates=1).assign(Metadata_Plate="P9")
    large = read_loaddata(write_screen(tmp_path / "large", rows, (128, 128)))
    with pytest.raises(InputError, match=r"32 x 32 pixels \(bin 2\), the new ones have 64 x 64"):
        place(large, report, tmp_path / "out2")


def test_an_answer_that_a_new_plate_changes_is_counted():
    """The old neighbour of a is b, of its mechanism; on a new plate lies c, nearer to a."""
    rows = [("P1", name, 1.0, moa, "trt") for name, moa in (("a", "x"), ("b", "x"), ("d", "y"))]
    rows += [("P2", name, 1.0, "y", "trt") for name in "cd"]
    values = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0.1, 0], [0, 1, 1]])
    wells = well_table(rows, values)
    before, after = treatment_profiles(wells[:3]), treatment_profiles(wells)
    assert movement(moved(before, before)) == {
        "treatments": 3,
        "replicated": 0,
        "asked": 2,  # no other compound has the mechanism of d
        "changed": 0,
        "right_before": 2,
        "right_after": 2,
    }
    found = moved(before, after)
    assert found.loc["a | 1", ["before", "after", "neighbour"]].tolist() == ["x", "y", "c | 1"]
    assert (found["moved"] > 0).tolist() == [False, False, True]  # d is on both plates
    assert movement(found)["changed"] >= 1 and movement(found)["replicated"] == 1
    plain = before.assign(Metadata_MoA="")
    assert movement(moved(plain, plain))["asked"] == 0
