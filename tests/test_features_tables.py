"""Features that someone already has, read from tables of every kind and compared on one road."""

import numpy as np
import pandas as pd
import pytest

from mcnn_book.sets import compared_sets, open_sets, set_profiles
from mcnn_core.analysis.mechanisms import nearest_neighbours, scores
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, feature_matrix, profile
from mcnn_core.readers.bbbc021 import examine_bbbc021
from mcnn_core.readers.features import read_features

NAMES = [f"Cells_Feature_{number}" for number in range(6)]


@pytest.fixture
def table():
    """Two plates of six wells and two fields each: DMSO and five compounds of two mechanisms."""
    rng, rows = np.random.default_rng(0), []
    for plate in ("P1", "P2"):
        for number, compound in enumerate(["DMSO", "a", "b", "c", "d", "e"]):
            moa = "" if compound == "DMSO" else "xy"[number % 2]
            for site in (1, 2):
                rows.append((plate, f"B{number + 2:02d}", site, compound, 1.0, moa, "W1"))
    names = ("Plate", "Well", "Site", "Compound", "Concentration", "MoA", "Batch")
    frame = pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in names])
    kind = frame["Metadata_MoA"].map({"": 0, "x": 1, "y": 2})
    values = 4 * np.eye(6)[kind] + rng.normal(size=(len(frame), 6))
    return frame.join(pd.DataFrame(values.round(6), columns=NAMES))


def write(table, path):
    """Write a table in the kind that its ending names."""
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".h5ad":
        anndata = pytest.importorskip("anndata")
        index = pd.Index([f"row {row}" for row in table.index], dtype=object)
        described = table.drop(columns=NAMES).set_axis(index)
        described = described.astype(
            {name: object for name in described if described[name].dtype == "str"}
        )
        features = table[NAMES].set_axis(index).set_axis(pd.Index(NAMES, dtype=object), axis=1)
        anndata.AnnData(features, obs=described).write_h5ad(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.h5ad"])
def test_every_kind_of_file_gives_the_same(table, tmp_path, name):
    frame, _ = read_features(write(table, tmp_path / name))
    assert feature_columns(frame) == NAMES
    np.testing.assert_allclose(feature_matrix(frame), table[NAMES])
    described = [column for column in table if column not in NAMES]
    pd.testing.assert_frame_equal(
        frame[described], table[described], check_dtype=False, check_column_type=False
    )
    assert (frame["Metadata_control_type"] == "negcon").sum() == 4
    assert frame["Metadata_Training"].all() and frame["Metadata_Treatment"].nunique() == 6


def test_whole_numbers_and_single_precision_are_features_too(table, tmp_path):
    counted = table.assign(Cells_Count=range(len(table)))
    counted[NAMES] = counted[NAMES].astype("float32")
    frame, _ = read_features(write(counted, tmp_path / "a.parquet"))
    assert feature_columns(frame) == [*NAMES, "Cells_Count"]
    assert set(frame.dtypes[feature_columns(frame)]) == {np.dtype(float)}


def test_wells_in_the_spellings_of_other_programs(table, tmp_path):
    wells = table[table["Metadata_Site"] == 1].drop(columns=["Metadata_Site", "Metadata_Batch"])
    spelt = {
        "Metadata_Plate": "Assay_Plate_Barcode",
        "Metadata_Well": "well_position",
        "Metadata_Compound": "pert_iname",
        "Metadata_Concentration": "Dose_nM",
        "Metadata_MoA": "moa",
    }
    other = wells.rename(columns=spelt).assign(Metadata_Count_Cells=7, ImageNumber=range(12))
    other["Dose_nM"] *= 1000
    for name in ("a.csv", "a.parquet"):
        frame, notes = read_features(write(other, tmp_path / name))
        assert feature_columns(frame) == NAMES and len(frame) == 12
        assert set(frame["Metadata_Treatment"]) >= {"a | 1"} and "DMSO" in set(
            frame["Metadata_Compound"]
        )
        assert "Assay_Plate_Barcode taken as Metadata_Plate" in " ".join(map(str, notes))


def test_missing_values_are_named(table, tmp_path):
    """A row with few features, a feature with a gap, and one with a word in it are left out."""
    broken = table.astype(dict.fromkeys(NAMES, object))
    broken.loc[3, NAMES[:4]] = "nan"
    broken.loc[[5, 7], NAMES[4]] = ["", "NA"]
    broken.loc[8, NAMES[5]] = "failed"
    frame, notes = read_features(write(broken, tmp_path / "a.csv"))
    said = "\n".join(map(str, notes))
    assert feature_columns(frame) == NAMES[:4] and len(frame) == 23
    assert "fewer than 50% of the features have a value: the row is left out" in said
    assert (
        f"1 of 5 features have missing values and are left out, with the number of rows: "
        f"{NAMES[4]} 2" in said
    )
    assert (
        f"{NAMES[5]} is no feature: 1 of its cells are no numbers, the first 'failed' in line "
        "10" in said
    )
    assert [note.row for note in notes if note.code == "row-left-out"] == [5]


def test_infinite_values_are_missing_ones(table, tmp_path):
    table.loc[0, NAMES[0]] = np.inf
    frame, notes = read_features(write(table, tmp_path / "a.parquet"))
    assert feature_columns(frame) == NAMES[1:] and f"{NAMES[0]} 1" in str(notes[-1])


def test_the_table_of_a_screen_says_what_its_wells_are(table, tmp_path):
    screen, _ = read_features(write(table, tmp_path / "screen.csv"))
    screen = screen.drop(columns=NAMES)
    only = table.drop_duplicates(["Metadata_Plate", "Metadata_Well"])
    only = only[["Metadata_Plate", "Metadata_Well", *NAMES]].iloc[::-1]
    frame, _ = read_features(write(only, tmp_path / "a.csv"), screen)
    assert frame["Metadata_Compound"].tolist() == ["e", "d", "c", "b", "a", "DMSO"] * 2
    np.testing.assert_allclose(feature_matrix(frame), only[NAMES])
    only.iloc[2, 1] = "H11"
    with pytest.raises(InputError, match="1 of 12 rows are of no well of the screen") as raised:
        read_features(write(only, tmp_path / "a.csv"), screen)
    assert raised.value.problems[0] == "P2 H11"
    with pytest.raises(InputError, match=r"none of its wells is one of the screen's.*'P1'.*'Q'"):
        read_features(write(only.assign(Metadata_Plate="Q"), tmp_path / "a.csv"), screen)
    with pytest.raises(InputError, match="expected a plate and a well in every row"):
        read_features(write(only[NAMES], tmp_path / "a.csv"), screen)


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda t: t.drop(columns=NAMES),
            "expected rows and numeric columns of features, got none",
        ),
        (lambda t: t[:0], "expected rows and numeric columns of features, got none"),
        (lambda t: t.assign(Metadata_Well="Z99"), "24 problems"),
        (lambda t: t.assign(Metadata_Plate=""), "24 problems"),
        (
            lambda t: t.rename(columns={"Metadata_Plate": "Plate"}).assign(plate="P9"),
            "both mean Metadata_Plate and differ",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(table, tmp_path, change, said):
    with pytest.raises(InputError) as raised:
        read_features(write(change(table), tmp_path / "a.csv"))
    assert said in str(raised.value) and "a.csv" in str(raised.value)


def test_lines_of_another_length_are_refused(table, tmp_path):
    path = write(table, tmp_path / "a.csv")
    path.write_text(path.read_text() + "P3,B02,1\n")
    with pytest.raises(InputError, match=r"a\.csv, line 26: fewer cells than the 13"):
        read_features(path)


def test_a_file_that_is_no_anndata_is_refused(tmp_path):
    pytest.importorskip("anndata")
    (tmp_path / "a.h5ad").write_bytes(b"no")
    with pytest.raises(InputError, match=r"is not a readable \.h5ad file"):
        read_features(tmp_path / "a.h5ad")


def test_sets_of_one_name_or_none_are_refused(table, tmp_path):
    (tmp_path / "b").mkdir()
    one, two = write(table, tmp_path / "a.csv"), write(table, tmp_path / "b/a.csv.gz")
    for paths in (f"{one},{two}", "", " , "):
        with pytest.raises(InputError, match="files of different names"):
            open_sets(paths)


def test_sets_stand_beside_each_other_and_ours_first(table, tmp_path):
    noise = table.copy()
    noise[NAMES] = np.random.default_rng(1).normal(size=(24, 6))
    paths = [write(table, tmp_path / "good.parquet"), write(noise, tmp_path / "noise.csv")]
    sets, read = open_sets(",".join(map(str, paths)))
    assert list(sets) == ["good", "noise"]
    assert read["note"][0] == "24 rows of 12 wells, 6 features"
    sets, _ = open_sets(str(paths[1]), sets["good"].filter(regex="^Metadata_"), sets["good"])
    assert list(sets) == ["trained", "noise"]
    predictions, compared = compared_sets(set_profiles(sets))
    nsc = compared[compared["protocol"] == "NSC"].set_index("method")
    assert nsc.loc["trained", "overall"] == 1 and nsc.loc["noise", "overall"] < 1
    assert {"trained_whitened", "noise_centred", "chance"} <= set(nsc.index)
    fewer = sets | {"noise": sets["noise"][sets["noise"]["Metadata_Compound"] != "e"]}
    assert {"chance, trained", "chance, noise"} <= set(
        compared_sets(set_profiles(fewer))[1]["method"]
    )
    _, treatments = profile(sets["trained"], units_differ=False)
    expected = scores(nearest_neighbours(treatments))
    assert nsc.loc["trained", "n"] == expected["n"]
    assert set(predictions["method"]) == {
        f"{name}{way}" for name in sets for way in ("", "_centred", "_whitened")
    }


def test_a_file_with_the_name_of_a_network_is_scaled_like_any_other(table, tmp_path):
    paths = [write(table, tmp_path / name) for name in ("trained.csv", "one.csv")]
    ours = open_sets(str(paths[1]))[0]["one"]
    sets, _ = open_sets(",".join(map(str, paths)), ours.filter(regex="^Metadata_"), ours)
    assert list(sets) == ["trained", "trained (file)", "one"]
    wells = {name: found[0][1] for name, found in set_profiles(sets).items()}
    pd.testing.assert_frame_equal(wells["trained (file)"], wells["one"])
    assert not wells["trained"].equals(wells["one"])


def test_no_mechanism_gives_tables_without_rows(table, tmp_path):
    plain = write(table.drop(columns="Metadata_MoA"), tmp_path / "a.csv")
    assert all(len(found) == 0 for found in compared_sets(set_profiles(open_sets(str(plain))[0])))


def test_real_wells_take_their_treatments_from_the_tables_of_bbbc021(shared_data):
    """Ljosa's 632 wells know their plate and well alone."""
    folder = shared_data / "bbbc021"
    screen, problems, _ = examine_bbbc021(folder / "metadata")
    assert not problems
    path = folder / "profiles" / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz"
    frame, _ = read_features(path, screen.table)
    assert len(frame) == 632 and frame["Metadata_Plate"].nunique() == 55
    assert (frame["Metadata_control_type"] == "negcon").sum() == 330
    _, compared = compared_sets(set_profiles({"ljosa": frame}))
    scored = compared[compared["low"].notna()].set_index(["method", "protocol"])
    assert set(scored.loc[(slice(None), "NSC"), "n"]) == {103}
    assert set(scored.loc[(slice(None), "NSCB"), "n"]) == {92}
    assert scored["overall"].between(0.4, 0.95).all()


@pytest.mark.parametrize("name, n", [("lincs_SQ00015054", 1), ("jumpmoa_Yokogawa_US_40X", 1)])
def test_real_plates_of_other_laboratories_are_read(shared_data, name, n):
    path = shared_data / "profiles" / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"shared data absent: {path}")
    frame, _ = read_features(path)
    assert frame["Metadata_Plate"].nunique() == n and len(frame) > 300
    assert len(feature_columns(frame)) > 200 and (frame["Metadata_control_type"] == "negcon").any()
