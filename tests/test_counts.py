"""Nuclei are counted against what the simulator drew, and against real fields counted by eye."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile

from mcnn_book.results import FEW, beside_count, clearest_field, count_numbers
from mcnn_book.simulate import cells
from mcnn_core.analysis.counts import (
    NUCLEI,
    can_count_out,
    count_nuclei,
    count_table,
    nuclear_channel,
    otsu,
    with_nuclei,
    without_count,
)
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_matrix


def discs(*centres, radius=6, shape=(96, 128)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 20.0)
    for row, column in centres:
        image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = 200
    return image


def test_discs_are_counted_also_where_they_touch():
    noise = np.random.default_rng(0).normal(0, 3, (96, 128))
    apart = discs((20, 20), (20, 60), (60, 40), (70, 100))
    touching = discs((20, 20), (20, 31), (60, 40), (70, 100))
    assert count_nuclei(apart + noise) == 4
    assert count_nuclei(touching + noise) == 4


@pytest.mark.parametrize("scale", [1, 200])
def test_a_field_without_nuclei_has_none(scale):
    rng = np.random.default_rng(1)
    assert count_nuclei(np.zeros((64, 64))) == 0
    assert count_nuclei(scale * rng.normal(10, 1, (128, 160))) == 0


def test_otsu_splits_two_grey_values_between_them():
    assert 20 < otsu(discs((40, 40))) < 200
    assert np.isnan(otsu(np.ones((4, 4))))


def test_counts_follow_what_was_drawn(monkeypatch):
    """The simulator's own centres, those within the field, for forty fields of untreated cells."""
    drawn, place = [], cells._place

    def watched(rng, height, width, *rest):
        centres = place(rng, height, width, *rest)
        inside = (centres > 0).all(axis=1) & (centres < (height, width)).all(axis=1)
        drawn.append(inside.sum())
        return centres

    monkeypatch.setattr(cells, "_place", watched)
    nothing = np.zeros(len(cells.PARAMETERS))
    untreated = cells.Compound(nothing, nothing, 1.0, 1.0, 1.0)
    counted = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shift = rng.standard_normal(len(cells.PARAMETERS))
        counted.append(count_nuclei(cells.render_field(rng, untreated, 0.0, shift)[0]))
    assert np.corrcoef(drawn, counted)[0, 1] > 0.85
    assert np.mean(counted) == pytest.approx(np.mean(drawn), rel=0.2)


def test_real_fields(shared_data):
    """Three DMSO fields of BBBC021; the third is sparse."""
    files = sorted((shared_data / "bbbc021" / "fields").glob("*w1*.tif"))
    counted = [count_nuclei(tifffile.imread(path)) for path in files]
    assert counted == pytest.approx([189, 156, 65], rel=0.05)


def test_the_channel_of_nuclei_is_found_by_its_name():
    assert nuclear_channel(["Actin", "OrigDNA"]) == 1
    with pytest.raises(InputError, match="got 0 among GFP, RFP"):
        nuclear_channel(["GFP", "RFP"])


def counted_wells(count, values, control):
    n = len(count)
    wells = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Treatment": ["DMSO" if one else f"a{row}" for row, one in enumerate(control)],
            "Metadata_control_type": np.where(control, "negcon", "trt"),
            NUCLEI: np.asarray(count, float),
        }
    )
    return wells.join(pd.DataFrame(values, columns=["MCNN_001", "MCNN_002"], index=range(n)))


def test_what_density_does_to_controls_is_taken_off():
    rng = np.random.default_rng(2)
    count = rng.integers(50, 200, 60)
    control = np.arange(60) < 40
    values = np.log(count)[:, None] * [2.0, -1.0] + rng.normal(0, 0.01, (60, 2))
    values[50:] += 3
    wells = counted_wells(count, values, control)
    assert can_count_out(wells) and not can_count_out(wells[~control])
    assert not can_count_out(wells.drop(columns=NUCLEI))
    left = feature_matrix(without_count(wells))
    assert left[:50].std(axis=0).max() < 0.05
    assert left[50:].mean() - left[:50].mean() == pytest.approx(3, abs=0.05)


def test_counts_of_treatments_are_shares_of_their_plates_controls():
    wells = counted_wells([100, 50, 200, 100], np.zeros((4, 2)), np.array([1, 0, 1, 0], bool))
    wells["Metadata_Plate"], wells["Metadata_Treatment"] = list("PPQQ"), ["DMSO", "a"] * 2
    table = count_table(wells)
    assert table.loc["a", "share_of_controls"] == 0.5 and table.loc["a", "nuclei"] == 75


def test_a_well_has_the_mean_of_its_fields_and_a_screen_without_nuclei_none(capsys):
    pixels = np.zeros((3, 96, 128, 2), np.uint8)
    noise = np.random.default_rng(0).integers(0, 9, (3, 96, 128))
    for row, centres in enumerate([[(20, 20), (60, 40)], [(20, 60)], []]):
        pixels[row, ..., 1] = (discs(*centres) if centres else 20) + noise[row]
    table = pd.DataFrame({"Metadata_Plate": "P", "Metadata_Well": ["A01", "A01", "A02"]})
    found = with_nuclei(table, SimpleNamespace(pixels=pixels, channels=("Actin", "DNA")))
    assert found[NUCLEI].tolist() == [1.5, 1.5, 0.0]
    blind = SimpleNamespace(pixels=pixels, channels=("GFP", "RFP"))
    assert with_nuclei(table, blind) is table and "named like DAPI" in capsys.readouterr().out


def test_a_distance_that_is_density_alone_goes_and_another_stays():
    rng = np.random.default_rng(3)
    control, count = np.arange(80) < 60, rng.integers(80, 125, 80)
    count[60:70] = 25
    values = np.log(count / 100)[:, None] * [2.0, -1.0] + rng.normal(0, 0.1, (80, 2))
    values[70:] += 5
    wells = counted_wells(count, values, control)
    wells.loc[60:69, "Metadata_Treatment"], wells.loc[70:, "Metadata_Treatment"] = "few", "other"
    wells["Metadata_Well"] = [f"A{row:02d}" for row in range(1, 81)]
    table = beside_count(wells)
    assert list(table.index) == ["few", "other"]
    assert table.loc["few", "distance"] > 5 > 3 > table.loc["few", "distance_left"]
    assert table.loc["other", "distance_left"] > 10
    assert table.loc["few", "share_of_controls"] < FEW < table.loc["other", "share_of_controls"]
    found = count_numbers(table)
    assert (found["n_treatments"], found["n_fewer"]) == (2, 1)
    assert beside_count(wells.drop(columns=NUCLEI)).empty


def test_the_clearest_field_is_an_ordinary_one_of_the_clearest_mechanism():
    lost = pd.DataFrame(
        {"Metadata_MoA": list("aabbb"), "channel X": [0.1, 0.2, 0.9, 0.5, 0.4], "scale 1/1": 2.0},
        index=[3, 5, 7, 9, 11],
    )
    assert clearest_field(lost) == (9, "b")
    assert clearest_field(lost.head(0)) == (-1, "")
