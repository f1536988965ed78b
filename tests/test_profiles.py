import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import median_abs_deviation

from mcnn_book.interchange import to_anndata
from mcnn_book.results import variance_shares
from mcnn_core.errors import InputError
from mcnn_core.machine.files import write_table
from mcnn_core.profiles import (
    aggregate,
    centre,
    centre_cautiously,
    feature_columns,
    feature_matrix,
    treatment_profiles,
    well_profiles,
    whiten,
)

FEATURES = ["MCNN_001", "MCNN_002", "MCNN_003"]


def test_shares_of_the_variance_equal_eta_squared_and_chance():
    generator = np.random.default_rng(0)
    wells = pd.DataFrame(generator.normal(size=(24, 3)), columns=FEATURES)
    wells["Metadata_Plate"] = np.repeat(["P1", "P2"], 12)
    wells["Metadata_Batch"] = "one"
    wells["Metadata_Well"] = [f"{row}{column:02d}" for row in "AB" for column in range(1, 7)] * 2
    wells["Metadata_Treatment"] = np.resize(["DMSO", "a", "b", ""], 24)
    wells["Metadata_control_type"] = np.where(
        wells["Metadata_Treatment"] == "DMSO", "negcon", "trt"
    )
    wells.loc[wells["Metadata_Plate"] == "P2", FEATURES] += 100
    found = variance_shares(wells).set_index("grouping")
    assert list(found.index) == ["treatment", "plate", "row of the plate", "column of the plate"]
    assert found.loc["plate", "share"] > 0.99 and found.loc["plate", "control share"] > 0.99
    assert found.loc["plate", "by chance"] == pytest.approx(1 / 23)
    assert found.loc["plate", "control chance"] == pytest.approx(1 / 5)
    assert found.loc["treatment", "groups"] == 3 and np.isnan(
        found.loc["treatment", "control share"]
    )
    named = wells[wells["Metadata_Treatment"] != ""]
    centred = named[FEATURES] - named[FEATURES].mean()
    between = centred.groupby(named["Metadata_Treatment"]).transform("mean")
    expected = (between**2).sum().sum() / (centred**2).sum().sum()
    assert found.loc["treatment", "share"] == pytest.approx(expected)


def test_shares_of_the_variance_need_groups():
    wells = pd.DataFrame({"Metadata_Plate": "P", "Metadata_Well": ["A01", "A02"],
                          "Metadata_Treatment": ["a", "b"], "Metadata_control_type": "trt",
                          "MCNN_001": [1.0, 2.0]})  # fmt: skip
    assert variance_shares(wells).empty


@pytest.fixture
def fields():
    """Two plates, two batches: DMSO, one compound on both plates, one well without a compound."""
    generator = np.random.default_rng(3)
    rows = []
    for plate, batch in (("P1", "Week1"), ("P2", "Week2")):
        wells = {
            "B02": "DMSO",
            "C02": "DMSO",
            "D02": "DMSO",
            "B03": "drug | 0.3",
            "C03": "drug | 0.3",
            "G11": "",
        }
        for well, treatment in wells.items():
            for site in range(1, 5):
                compound = treatment.split(" | ")[0]
                rows.append(
                    (
                        plate,
                        well,
                        site,
                        compound,
                        0.3 if compound == "drug" else np.nan,
                        treatment,
                        "MoA" if compound == "drug" else "",
                        batch,
                        "negcon" if compound == "DMSO" else "trt",
                    )
                )
    names = ["Plate", "Well", "Site", "Compound", "Concentration", "Treatment", "MoA"]
    names += ["Batch", "control_type"]
    frame = pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in names])
    values = generator.normal(5, 2, (len(frame), 3)).astype(np.float32)
    return pd.concat([frame, pd.DataFrame(values, columns=FEATURES)], axis=1)


def test_medians_agree_with_numpy_and_metadata_travels(fields):
    wells = well_profiles(fields.sample(frac=1, random_state=0))
    assert feature_columns(wells) == FEATURES and len(wells) == 12
    assert "Metadata_Site" not in wells and {
        "Metadata_MoA",
        "Metadata_Batch",
        "Metadata_Compound",
    } <= set(wells)
    for _, well in wells.iterrows():
        inside = (fields.Metadata_Plate == well.Metadata_Plate) & (
            fields.Metadata_Well == well.Metadata_Well
        )
        expected = np.median(fields.loc[inside, FEATURES].to_numpy(float), axis=0)
        np.testing.assert_array_equal(well[FEATURES].to_numpy(float), expected)
        assert well.Metadata_Treatment == fields.loc[inside, "Metadata_Treatment"].iloc[0]


def test_treatments_pool_replicates_and_keep_controls_per_plate(fields):
    wells = well_profiles(fields)
    treatments = treatment_profiles(wells)
    assert treatments.Metadata_Treatment.tolist() == ["", "", "DMSO", "DMSO", "drug | 0.3"]
    drug = treatments.iloc[4]
    assert (drug.Metadata_Compound, drug.Metadata_Concentration, drug.Metadata_MoA) == (
        "drug",
        0.3,
        "MoA",
    )
    assert drug.Metadata_Batch == "Week1;Week2" and drug.Metadata_Plate == ""
    assert treatments.Metadata_Batch.tolist()[:4] == ["Week1", "Week2"] * 2
    assert treatments.Metadata_Plate.tolist()[2:4] == ["P1", "P2"]
    expected = wells.loc[wells.Metadata_Compound == "drug", FEATURES].median()
    np.testing.assert_array_equal(drug[FEATURES].to_numpy(float), expected)
    assert (
        treatments.loc[treatments.Metadata_Compound == "DMSO", "Metadata_Concentration"]
        .isna()
        .all()
    )


def test_positive_controls_that_repeat_a_treatment_are_left_out(fields):
    wells = well_profiles(fields)
    wells.loc[1, ["Metadata_Treatment", "Metadata_Compound", "Metadata_control_type"]] = [
        "drug | 0.3",
        "drug",
        "poscon",
    ]
    wells.loc[2, ["Metadata_Treatment", "Metadata_Compound", "Metadata_control_type"]] = [
        "only | 1",
        "only",
        "poscon",
    ]
    treatments = treatment_profiles(wells).set_index("Metadata_Treatment")
    expected = wells.loc[
        (wells.Metadata_Compound == "drug") & (wells.Metadata_control_type == "trt"), FEATURES
    ].median()
    np.testing.assert_array_equal(treatments.loc["drug | 0.3", FEATURES].to_numpy(float), expected)
    assert "only | 1" in treatments.index


def test_missing_values_are_refused_by_name(fields):
    fields.loc[2, "MCNN_002"] = np.nan
    fields.loc[5, ["MCNN_001", "MCNN_003"]] = np.inf
    with pytest.raises(InputError) as error:
        well_profiles(fields)
    assert error.value.problems == ["DMSO P1 B02 3: MCNN_002", "DMSO P1 C02 2: MCNN_001, MCNN_003"]
    with pytest.raises(InputError, match="numeric"):
        feature_matrix(fields.assign(Note="x"))
    with pytest.raises(InputError, match="0 features"):
        aggregate(fields.drop(columns=FEATURES), ["Metadata_Plate"])


def test_centring_subtracts_the_plates_control_median(fields):
    wells = well_profiles(fields)
    centred = centre(wells)
    controls = centred[centred.Metadata_control_type == "negcon"]
    np.testing.assert_allclose(controls.groupby("Metadata_Plate")[FEATURES].median(), 0, atol=1e-12)
    difference = wells[FEATURES] - centred[FEATURES]
    assert (difference.groupby(wells.Metadata_Plate).std() < 1e-12).all(axis=None)
    fields.loc[fields.Metadata_Plate == "P2", "Metadata_control_type"] = "trt"
    with pytest.raises(InputError) as error:
        centre(well_profiles(fields))
    assert error.value.problems == ["P2"]
    with pytest.raises(InputError, match="negcon"):
        whiten(wells.assign(Metadata_control_type="trt"))


def test_cautious_centring_trusts_a_plate_by_its_control_wells(fields):
    fields = fields[(fields.Metadata_Plate != "P2") | (fields.Metadata_control_type != "negcon")]
    controls = fields[fields.Metadata_control_type == "negcon"]
    means = controls.groupby(["Metadata_Plate", "Metadata_Well"])[FEATURES].mean()
    shift = fields[FEATURES] - centre_cautiously(fields)[FEATURES]
    for plate, part in shift.groupby(fields["Metadata_Plate"]):
        own = means.loc[plate] if plate != "P2" else means[:0]
        expected = (own.sum() + 3 * means.mean()) / (len(own) + 3)
        np.testing.assert_allclose(part, np.tile(expected, (len(part), 1)))


def test_whitening_gives_controls_unit_covariance():
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(400, 4)) @ generator.normal(size=(4, 4)) + 7
    frame = pd.DataFrame(mixed, columns=list("abcd"))
    frame.insert(0, "Metadata_control_type", np.where(np.arange(400) < 300, "negcon", "trt"))
    white = feature_matrix(whiten(frame, regularisation=1e-12))[:300]
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-6)
    few = pd.concat([frame.iloc[:3], frame.iloc[300:]])
    assert np.abs(feature_matrix(whiten(few))).max() < 1e4
    with pytest.raises(InputError, match="differ"):
        whiten(frame.assign(a=1, b=1, c=1, d=1))


@pytest.mark.parametrize("normalise", [centre, centre_cautiously, whiten])
def test_normalisations_are_label_free_and_never_mutate(fields, normalise):
    wells = well_profiles(fields)
    before = wells.copy()
    result = normalise(wells)
    pd.testing.assert_frame_equal(wells, before)
    assert feature_columns(result) == FEATURES
    unlabelled = normalise(wells.assign(Metadata_MoA="", Metadata_Compound=""))
    pd.testing.assert_frame_equal(result[FEATURES], unlabelled[FEATURES])
    treated = wells.Metadata_control_type == "trt"  # and independent of the treated wells
    moved = wells.assign(**{name: wells[name].where(~treated, 99) for name in FEATURES})
    pd.testing.assert_frame_equal(normalise(moved)[FEATURES][~treated], result[FEATURES][~treated])


def test_pycytominer_reads_and_aggregates_the_file(fields, tmp_path):
    pycytominer = pytest.importorskip("pycytominer")
    write_table(tmp_path / "features.parquet", fields)
    theirs = pycytominer.aggregate(
        pd.read_parquet(tmp_path / "features.parquet"),
        strata=["Metadata_Plate", "Metadata_Well"],
        features=FEATURES,
        operation="median",
    )
    ours = well_profiles(fields)
    keys = ["Metadata_Plate", "Metadata_Well"]
    merged = ours.merge(theirs, on=keys, suffixes=("", "_theirs"))
    assert len(merged) == 12
    np.testing.assert_allclose(
        merged[FEATURES], merged[[f"{name}_theirs" for name in FEATURES]], rtol=1e-6
    )
    normalised = pycytominer.normalize(
        ours,
        features=FEATURES,
        meta_features=keys,
        samples="Metadata_control_type == 'negcon'",
        method="mad_robustize",
        mad_robustize_epsilon=0,
    )
    controls = ours.loc[ours.Metadata_control_type == "negcon", FEATURES]
    scale = median_abs_deviation(controls, scale="normal")
    np.testing.assert_allclose(
        normalised[FEATURES], (ours[FEATURES] - controls.median()) / scale, rtol=1e-5
    )


def test_anndata_round_trip(tmp_path):
    import anndata

    wells = pd.DataFrame(
        {
            "Metadata_Plate": ["P1", "P1", "P2"],
            "Metadata_Well": ["B02", "B03", "B02"],
            "Metadata_Treatment": ["DMSO", "<b> | 0.3", ""],
            "Metadata_Compound": ["DMSO", "<b>", ""],
            "Metadata_Concentration": [0.0, 0.3, np.nan],
            "Metadata_Replicate": [1, 2, 1],
            "Metadata_Training": [False, True, True],
            "Metadata_Note": ["=cmd()", "\u05d0\u202e", ""],
            "MCNN_001": [1.5, -2.0, 0.25],
            "MCNN_002": [0.0, 1e-9, 3.0],
        }
    )
    wells.to_parquet(tmp_path / "wells.parquet")  # whose texts come back as another kind of string
    to_anndata(
        pd.read_parquet(tmp_path / "wells.parquet"), {"commit": "abc", "version.torch": "2"}
    ).write_h5ad(tmp_path / "x.h5ad")
    read = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert read.obs_names.tolist() == [
        "P1_B02",
        "P1_B03",
        "P2_B02",
    ] and read.var_names.tolist() == ["MCNN_001", "MCNN_002"]
    assert read.X.dtype == np.float64 and np.array_equal(
        read.X, wells[["MCNN_001", "MCNN_002"]].to_numpy()
    )
    assert dict(read.uns["provenance"]) == {"commit": "abc", "version.torch": "2"}
    assert list(read.obs) == [name for name in wells if name.startswith("Metadata_")]
    for name in read.obs:
        assert (
            read.obs[name].astype(wells[name].dtype).tolist() == wells[name].tolist()
            or name == "Metadata_Concentration"
        )
    assert np.isnan(read.obs["Metadata_Concentration"].iloc[2]) and read.obs[
        "Metadata_Concentration"
    ].tolist()[:2] == [0.0, 0.3]


def test_anndata_of_fields_and_of_treatments():
    fields = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": "B02",
            "Metadata_Site": [1, 2],
            "MCNN_001": np.float32([1, 2]),
        }
    )
    assert (
        to_anndata(fields).obs_names.tolist() == ["P_B02_1", "P_B02_2"]
        and to_anndata(fields).X.dtype == np.float32
    )
    treatments = pd.DataFrame(
        {
            "Metadata_Treatment": ["DMSO", "DMSO", "a | 1"],
            "Metadata_Plate": ["P1", "P2", ""],
            "Metadata_Well": "",
            "MCNN_001": [1.0, 2, 3],
        }
    )
    assert to_anndata(treatments).obs_names.tolist() == ["DMSO_P1", "DMSO_P2", "a | 1"]
    with pytest.raises(InputError, match="must differ in plate") as raised:
        to_anndata(treatments.assign(Metadata_Plate=""))
    assert raised.value.problems == ["DMSO"]
    slashed = to_anndata(fields.assign(**{"Metadata_a/b": ["x", "y"]}))
    assert slashed.obs["Metadata_a_b"].tolist() == ["x", "y"] and slashed.uns["renamed"] == {
        "Metadata_a_b": "Metadata_a/b"
    }
    with pytest.raises(InputError, match="more than a slash") as raised:
        to_anndata(fields.assign(**{"Metadata_a/b": 1, "Metadata_a_b": 1}))
    assert raised.value.problems == ["column 'Metadata_a_b' and 'Metadata_a/b'"]
    with pytest.raises(InputError, match="finite"):
        to_anndata(fields.assign(MCNN_001=[1, np.nan]))


def test_anndata_absent_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InputError, match=r"pip install 'mcnn-core\[anndata\]'"):
        to_anndata(pd.DataFrame({"Metadata_Well": ["B02"], "MCNN_001": [1.0]}))
