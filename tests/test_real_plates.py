"""Real plates that others described: what normalising does, and that the record says the same."""

import gzip

import numpy as np
import pandas as pd
import pytest

from mcnn_book import real_plates
from mcnn_book.real_plates import SCALINGS, grid, jumpmoa, lincs, ljosa_wells, scaled
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns

WAY = ["scaling", "features", "whitening", "protocol"]


@pytest.fixture(scope="module")
def ways(shared_data):
    return grid(ljosa_wells(shared_data)).set_index(WAY)


@pytest.fixture(scope="module")
def recorded():
    return real_plates.read_tables()


def test_accuracies_of_the_real_bbbc021(ways):
    raw = ways.loc[("percentiles of the plate", "all features", "as they are", "NSC")]
    best = ways.loc[("mean of the plate, SD of the screen", "all features", "whitened", "NSC")]
    assert [f"{one:.1%}" for one in raw[["overall", "class_median"]]] == ["78.6%", "92.9%"]
    assert [f"{one:.1%}" for one in best[["overall", "class_median"]]] == ["90.3%", "100.0%"]
    assert len(ways) == 48 and set(ways["n"]) == {103, 92}
    found = real_plates.grid_numbers(ways.reset_index())
    assert found["n_ways"] == 24 and found["n_above"] == 11
    assert found["whitened_plate"]["highest"] < -15 < 0 < found["whitened_screen"]["lowest"]


def test_the_record_is_what_comes_out_again(ways, recorded):
    columns = ["overall", "class_median", "n", "low", "high"]
    noted = recorded["grid"].set_index(WAY).loc[ways.index, columns]
    np.testing.assert_allclose(noted, ways[columns], atol=1e-6)


def test_few_compounds_of_the_jumpmoa_plate_act(shared_data, recorded, tmp_path):
    noted = recorded["jumpmoa"].set_index("acquisition")
    share = noted["active"] / noted["treatments"]
    assert share.min() == pytest.approx(0.10, abs=0.01) and share.max() < 0.5
    assert noted["nsc"].between(0.04, 0.10).all() and (noted["chance"] < 0.012).all()
    path = next(shared_data.rglob("jumpmoa_*40X*.csv.gz"))
    (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))  # as it is fetched
    found = jumpmoa(tmp_path).set_index("acquisition")
    columns = ["treatments", "active", "consistent", "nsc", "chance"]
    np.testing.assert_allclose(found[columns], noted.loc[found.index, columns], atol=1e-6)


def test_potencies_of_single_wells_have_a_caution(shared_data):
    potency, effects, _ = lincs(shared_data)
    controls = effects.set_index(["wells", "grouping"]).loc[("negative controls", "row")]
    assert controls["share"] > 4 * controls["by chance"] and controls["p_value"] < 0.01
    assert potency["caution"].str.contains("controls differ with their place").all()
    assert potency["caution"].str.startswith("one well per dose").sum() >= 56
    both = (potency["status"] == "fit") & (potency["status corrected"] == "fit")
    assert (potency["status"] == "fit").sum() == 8 and both.sum() == 5


def test_the_record_holds_what_the_prose_says(recorded):
    found = real_plates.ljosa_numbers(recorded) | real_plates.lincs_numbers(recorded)
    assert found["right"]["aurora"] == "12 of 12" and found["colchicine"] == "DNA replication"
    assert found["suspects"].startswith("vincristine") and "camptothecin" in found["suspects"]
    assert found["ljosa"]["one_place"] == 1 and found["n_compounds"] == 38
    assert (found["fits_before"], found["fits_after"], found["fits_both"]) == (8, 7, 5)
    assert real_plates.jumpmoa_numbers(recorded["jumpmoa"])["n_acquisitions"] == 5


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_scale_is_that_of_the_controls(scaling):
    generator = np.random.default_rng(0)
    wells = pd.DataFrame(generator.normal(5, 2, (60, 3)), columns=["Cells_A", "Cells_B", "Cells_C"])
    wells["Cells_C"] = 1.0  # cannot be divided
    wells["Metadata_Plate"] = np.repeat(["P1", "P2"], 30)
    wells["Metadata_control_type"] = np.tile(["negcon"] * 20 + ["trt"] * 10, 2)
    moved = wells.assign(Cells_A=wells["Cells_A"] * 10 + 3)
    one, other = scaled(wells, scaling), scaled(moved, scaling)
    assert feature_columns(one) == ["Cells_A", "Cells_B"]
    shift = (
        0
        if scaling != "SD of the screen"
        else 3 / moved.loc[wells["Metadata_control_type"] == "negcon", "Cells_A"].std()
    )
    np.testing.assert_allclose(other["Cells_A"], one["Cells_A"] + shift)


def test_a_folder_without_the_tables_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no BBBC021_v1_image"):
        real_plates.read_tables(str(tmp_path))
