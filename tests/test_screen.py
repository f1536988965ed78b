import gzip
import shutil

import pandas as pd
import pytest
from helpers import tiny_rows, write_screen
from hypothesis import given
from hypothesis import strategies as st

from mcnn_core.errors import InputError
from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.readers.incomplete import fetched
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.spelling import well as _well
from mcnn_core.screen import (
    concentration_key,
    load_screen,
    save_screen,
    summary,
    treatment_key,
)
from mcnn_core.surrogate import training_fields


def refused(call, *arguments, **named) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments, **named)
    return "\n".join([error.value.what, *error.value.problems])


def changed(folder, **cells) -> str:
    """Set cells of a tiny screen and return how its table is refused.

    The cells are given as column=(row, value).
    """
    rows = tiny_rows()
    write_screen(folder, rows)
    for column, (row, value) in cells.items():
        if column not in rows:
            rows[column] = ""
        rows.loc[row, column] = value
    rows.to_csv(folder / "screen.csv", index=False)
    return refused(read_loaddata, folder / "screen.csv")


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("0.300000", "0.3"),
        (0.1 + 0.2, "0.3"),
        ("1000.000000", "1000"),
        (3e-6, "0.000003"),
        ("0", "0"),
        ("-0.0", "0"),
        ("", ""),
        (float("nan"), ""),
        (" 1.5 ", "1.5"),
        ("1e3", "1000"),
        (100000, "100000"),
    ],
)
def test_concentrations_share_one_decimal_key(value, key):
    assert concentration_key(value) == key


@pytest.mark.parametrize("value", ["-1", "inf", "a lot", "1e999999999", "0,3", -0.1])
def test_a_concentration_that_is_no_dose_is_refused(value):
    assert "micromolar" in refused(concentration_key, value)


@given(st.floats(0, 1e9))
def test_concentration_key_is_stable_and_close(value):
    key = concentration_key(value)
    assert concentration_key(key) == concentration_key(float(key)) == key
    assert float(key) == pytest.approx(value, rel=5e-6)
    assert "e" not in key.lower() and not (key.endswith("0") and "." in key)


@given(
    st.lists(
        st.tuples(st.text(alphabet="ab| .03", max_size=9), st.sampled_from(["", "0.3", "3", "0"])),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_treatments_never_share_a_name(pairs):
    (first, second) = (treatment_key(*pair) for pair in pairs)
    assert first != second


def test_treatment_names():
    assert treatment_key("taxol", 0.3) == "taxol | 0.3"
    assert treatment_key("DMSO", 0) == treatment_key("dmso", "") == "DMSO"
    assert treatment_key("mevinolin/lovastatin", "1.500") == "mevinolin/lovastatin | 1.5"
    assert treatment_key("siRNA", float("nan")) == "siRNA"


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("B2", "B02"),
        ("b02", "B02"),
        ("A003", "A03"),
        ("AF48", "AF48"),
        ("p24", "P24"),
        ("B00", ""),
        ("B49", ""),
        ("AG01", ""),
        ("02B", ""),
        ("", ""),
        ("B", ""),
    ],
)
def test_wells_are_a_letter_and_two_digits(text, well):
    assert _well(text) == well


# ------------------------------------------------------------------- the real metadata


@pytest.fixture(scope="module")
def metadata(shared_data):
    return shared_data / "bbbc021" / "metadata"


@pytest.mark.parametrize(("taxol", "wells"), [("ljosa", 302), ("all", 632)])
def test_bbbc021_counts(bbbc021, taxol, wells):
    screen = bbbc021(taxol)
    counts = summary(screen.table)
    assert counts == {
        "n_fields": 13_200,
        "n_plates": 55,
        "n_wells": 3_300,
        "n_batches": 10,
        "n_compounds": 113,
        "n_treatments": 906,
        "n_annotated": 103,
        "n_annotated_compounds": 38,
        "n_mechanisms": 12,
        "n_annotated_wells": wells,
        "n_annotated_fields": 4 * wells,
        "n_negative_wells": 330,
    }
    assert (screen.name, screen.simulated, screen.channels) == (
        "BBBC021",
        False,
        ("DAPI", "Actin", "Tubulin"),
    )


def test_bbbc021_quirks(bbbc021):
    table = bbbc021("ljosa").table
    assert table.groupby("Metadata_Plate")["Metadata_Well"].nunique().eq(60).all()
    assert table["Metadata_Site"].value_counts().to_dict() == dict.fromkeys((1, 2, 3, 4), 3_300)
    negative = table[table["Metadata_control_type"] == "negcon"]
    assert set(negative["Metadata_Well"]) == {"B02", "C02", "D02", "E11", "F11", "G11"}
    assert set(negative["Metadata_Treatment"]) == {"DMSO"} and set(negative["Metadata_MoA"]) == {""}
    moa = (
        table[table["Metadata_MoA"] != ""]
        .drop_duplicates("Metadata_Treatment")
        .set_index("Metadata_Treatment")["Metadata_MoA"]
    )
    assert (
        moa["cyclohexamide | 15"] == "Protein synthesis"
        and moa["mevinolin/lovastatin | 1.5"] == "Cholesterol-lowering"
    )
    assert moa.value_counts().to_dict() == {
        "Microtubule destabilizers": 14,
        "Aurora kinase inhibitors": 12,
        "Eg5 inhibitors": 12,
        "Microtubule stabilizers": 9,
        "DNA damage": 9,
        "Epithelial": 8,
        "Protein synthesis": 8,
        "DNA replication": 8,
        "Protein degradation": 7,
        "Cholesterol-lowering": 6,
        "Actin disruptors": 5,
        "Kinase inhibitors": 5,
    }
    taxol = table[table["Metadata_Treatment"] == "taxol | 0.3"]
    kept = taxol[taxol["Metadata_MoA"] != ""]
    assert len(taxol) == 1_332 and len(kept) == 12
    assert (
        set(kept["Metadata_Well"]) == {"D05"}
        and set(kept["Metadata_Batch"]) == {"Week1"}
        and set(kept["Metadata_control_type"]) == {"trt"}
    )
    assert set(taxol.drop(kept.index)["Metadata_control_type"]) == {"poscon"}
    sizes = table[table["Metadata_MoA"] != ""].groupby("Metadata_Treatment").size()
    assert sizes.value_counts().to_dict() == {12: 96, 8: 7}
    assert (
        table[table["Metadata_MoA"] != ""]
        .groupby("Metadata_Treatment")["Metadata_Batch"]
        .nunique()
        .eq(1)
        .all()
    )


def test_all_taxol_wells_are_treatments_if_asked(bbbc021):
    table = bbbc021("all").table
    assert "poscon" not in set(table["Metadata_control_type"])
    chosen = table[training_fields(table)]
    assert len(chosen) == 2_528 and (chosen["Metadata_Treatment"] == "taxol | 0.3").sum() == 1_332
    assert training_fields(bbbc021("ljosa").table).sum() == 1_208


def test_bbbc021_errors_name_rows_of_both_tables(metadata, tmp_path):
    with gzip.open(metadata / "BBBC021_v1_image.csv.gz", "rt") as text:
        lines = text.read().splitlines()[:9]
    lines[3] = lines[3].replace("G10_s3_w4", "G10_s3_w2")
    lines[4] = lines[4].replace(",0.003000", ",-3")
    (tmp_path / "BBBC021_v1_image.csv").write_text("\n".join(lines))
    (tmp_path / "BBBC021_v1_moa.csv").write_bytes(
        b"compound,concentration,moa\r5-fluorouracil,0.003,A\r5-fluorouracil,0.0030,B\r"
        b"cycloheximide,15,C\rx,much,D"
    )
    said = refused(read_bbbc021, tmp_path)
    for part in (
        "image.csv, line 4, FileName_Actin",
        "image.csv, line 5, Metadata_Concentration: '-3'",
        "moa.csv, line 2, treatment",
        "moa.csv, line 3, treatment",
        "moa.csv, line 4, treatment: 'cycloheximide | 15' does not occur in the image table",
        "moa.csv, line 5, concentration: 'much'",
    ):
        assert part in said
    (tmp_path / "BBBC021_v1_moa.csv").write_text("compound,dose\na,1\n")
    assert "column concentration is missing" in refused(read_bbbc021, tmp_path)


def test_bbbc021_needs_its_tables_and_a_known_filter(tmp_path):
    assert "BBBC021_v1_image.csv is missing" in refused(read_bbbc021, tmp_path)
    assert "expected 'ljosa' or 'all'" in refused(read_bbbc021, tmp_path, taxol="some")


# ----------------------------------------------------------------------------- LoadData


def test_loaddata_reads_a_plain_table(tmp_path):
    screen = read_loaddata(write_screen(tmp_path))
    assert (screen.name, screen.channels, screen.root) == (
        "screen",
        ("DNA", "Actin"),
        tmp_path.resolve(),
    )
    row = screen.table.iloc[2].to_dict()
    assert row == {
        "Metadata_Plate": "P1",
        "Metadata_Well": "C03",
        "Metadata_Site": 1,
        "Metadata_Compound": "drug C03",
        "Metadata_Concentration": 0.3,
        "Metadata_Treatment": "drug C03 | 0.3",
        "Metadata_MoA": "tubulin",
        "Metadata_Replicate": 1,
        "Metadata_Batch": "",
        "Metadata_control_type": "trt",
        "FileName_DNA": "C03_s1_DNA.tif",
        "PathName_DNA": "images/P1",
        "FileName_Actin": "C03_s1_Actin.tif",
        "PathName_Actin": "images/P1",
    }
    assert list(screen.table["Metadata_control_type"][:2]) == ["negcon", "negcon"]


def test_loaddata_accepts_prefixes_gzip_cr_blank_lines_and_travelling_columns(tmp_path):
    rows = tiny_rows().assign(
        Metadata_Gene="βcatenin/🧬",
        Count_Cells="7",
        Metadata_Replicate="2",
        Metadata_control_type="",
    )
    rows["Metadata_Well"] = rows["Metadata_Well"].str.lower().str.replace("0", "")
    write_screen(tmp_path, rows)
    text = rows.rename(
        columns=lambda name: name if name.startswith("Count") else f"Image_{name}"
    ).to_csv(index=False, lineterminator="\r")
    with gzip.open(tmp_path / "other.csv.gz", "wt", encoding="utf-8-sig", newline="") as file:
        file.write(text + "\r\r")
    screen = read_loaddata(tmp_path / "other.csv.gz")
    assert screen.name == "other" and len(screen.table) == len(rows)
    assert set(screen.table["Metadata_Well"]) == {"B02", "C03"} and set(
        screen.table["Metadata_Gene"]
    ) == {"βcatenin/🧬"}
    assert list(screen.table.columns[-2:]) == ["Metadata_Gene", "Count_Cells"] and set(
        screen.table["Metadata_Replicate"]
    ) == {2}


def test_only_required_columns_are_enough(tmp_path):
    rows = tiny_rows(channels=("only channel",)).drop(
        columns=["Metadata_Compound", "Metadata_Concentration", "Metadata_MoA"]
    )
    table = read_loaddata(write_screen(tmp_path, rows)).table
    assert (
        set(table["Metadata_Compound"]) == set(table["Metadata_Treatment"]) == {""}
        and table["Metadata_Concentration"].isna().all()
    )
    assert set(table["Metadata_control_type"]) == {"trt"} and summary(table)["n_annotated"] == 0


def test_absolute_paths_stay_inside_the_root(tmp_path):
    images, tables = tmp_path / "images", tmp_path / "tables"
    rows = tiny_rows()
    for channel in ("DNA", "Actin"):
        rows[f"PathName_{channel}"] = str(tmp_path) + "/" + rows[f"PathName_{channel}"]
    write_screen(tmp_path, rows)
    tables.mkdir()
    rows.to_csv(tables / "screen.csv", index=False)
    said = refused(read_loaddata, tables / "screen.csv")
    assert said.count("lies outside the data root") == 16
    screen = read_loaddata(tables / "screen.csv", root=images)
    assert set(screen.table["PathName_DNA"]) == {"P1", "P2"} and screen.root == images.resolve()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"Metadata_Plate": (0, " ")}, "line 2, Metadata_Plate: ' ' is empty"),
        ({"Metadata_Well": (1, "2B")}, "line 3, Metadata_Well: '2B' is not a well"),
        ({"Metadata_Site": (2, "one")}, "line 4, Metadata_Site: 'one' is not a whole number"),
        ({"Metadata_Site": (2, "1.5")}, "line 4, Metadata_Site: '1.5' is not a whole number"),
        (
            {"Metadata_Concentration": (0, "high")},
            "line 2, Metadata_Concentration: 'high' is not a number",
        ),
        (
            {"Metadata_Concentration": (0, "-0.3")},
            "line 2, Metadata_Concentration: '-0.3' is not a number of micromolar, 0 or more",
        ),
        ({"Metadata_Replicate": (0, "a")}, "line 2, Metadata_Replicate: 'a' is not a whole number"),
        (
            {"Metadata_control_type": (3, "control")},
            "line 5, Metadata_control_type: 'control' is not one of negcon, poscon, trt",
        ),
        (
            {"Metadata_MoA": (2, "actin")},
            "line 4, Metadata_MoA: 'actin' is one of several for this treatment",
        ),
        ({"Metadata_Compound": (2, "")}, "line 4, Metadata_MoA: 'tubulin' has no compound"),
        ({"FileName_DNA": (1, "")}, "line 3, FileName_DNA: '' is empty"),
        ({"FileName_DNA": (1, "gone.tif")}, "gone.tif' does not exist"),
        ({"FileName_DNA": (1, "a\0b.tif")}, "line 3, file of DNA"),
        ({"PathName_DNA": (1, "../..")}, "lies outside the data root"),
        ({"FileName_DNA": (1, "/etc/hostname")}, "'/etc/hostname' lies outside the data root"),
        ({"Metadata_Site": (1, "01.0")}, "'P1 B02 site 1' occurs more than once"),
        ({"Metadata_Well": (2, "b2")}, "'P1 B02 site 1' occurs more than once"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, cells, said):
    assert said in changed(tmp_path, **cells)


def test_all_bad_rows_come_in_one_error(tmp_path):
    rows = tiny_rows()
    write_screen(tmp_path, rows)
    rows["Metadata_Concentration"] = "much"
    rows["PathName_Actin"] = "/tmp"
    rows.loc[7, ["Metadata_Site", "Metadata_Well"]] = ["1", "C3"]
    rows.to_csv(tmp_path / "screen.csv", index=False)
    with pytest.raises(InputError) as error:
        read_loaddata(tmp_path / "screen.csv")
    problems = error.value.problems
    assert sum("Metadata_Concentration" in problem for problem in problems) == 8
    assert sum("file of Actin" in problem and "DATA=" in problem for problem in problems) == 8
    assert [problem for problem in problems if "occurs more than once" in problem] == [
        f"{tmp_path / 'screen.csv'}, line {line}, plate, well and site: "
        "'P2 C03 site 1' occurs more than once"
        for line in (8, 9)
    ]


def test_wrong_columns_are_named_together(tmp_path):
    write_screen(tmp_path)
    rows = (
        tiny_rows()
        .drop(columns=["Metadata_Site", "PathName_DNA", "FileName_Actin"])
        .assign(Metadata_Treatment="x")
    )
    rows.to_csv(tmp_path / "screen.csv", index=False)
    said = refused(read_loaddata, tmp_path / "screen.csv")
    for part in (
        "Metadata_Site is missing",
        "'Actin' has PathName_Actin but no FileName_Actin",
        "Metadata_Treatment",
    ):
        assert part in said
    tiny_rows(channels=tuple("ABCDEFG")).to_csv(tmp_path / "screen.csv", index=False)
    assert "got 7" in refused(read_loaddata, tmp_path / "screen.csv")
    tiny_rows().assign(Image_Metadata_Plate="P").to_csv(tmp_path / "screen.csv", index=False)
    assert "'Metadata_Plate' occurs twice" in refused(read_loaddata, tmp_path / "screen.csv")
    tiny_rows().head(0).to_csv(tmp_path / "screen.csv", index=False)
    assert "no rows below the header" in refused(read_loaddata, tmp_path / "screen.csv")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00bad", b"a,b\n1,2,3,4\n", b'a,"b\n1'])
def test_what_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "screen.csv").write_bytes(content)
    assert "screen.csv" in refused(read_loaddata, tmp_path / "screen.csv")
    (tmp_path / "screen.csv.gz").write_bytes(b"\x1f\x8bno gzip")
    assert "not a readable text or table" in refused(read_loaddata, tmp_path / "screen.csv.gz")
    assert "not a readable text or table" in refused(read_loaddata, tmp_path / "absent.csv")


def test_a_screen_is_saved_and_loaded(tmp_path):
    screen = read_loaddata(write_screen(tmp_path))
    save_screen(screen, tmp_path / "out")
    again = load_screen(tmp_path / "out")
    pd.testing.assert_frame_equal(again.table, screen.table)
    assert (again.name, again.channels, again.root, again.simulated) == (
        screen.name,
        screen.channels,
        screen.root,
        screen.simulated,
    )
    screen.table.head(3).to_parquet(tmp_path / "out" / "fields.parquet", index=False)
    assert "expected 8 rows of fields.parquet as screen.json says, got 3" in refused(
        load_screen, tmp_path / "out"
    )


def test_a_copied_output_folder_reads_its_own_images(tmp_path):
    first, second = tmp_path / "out", tmp_path / "copy"
    (first / "screen").mkdir(parents=True)
    screen = read_loaddata(write_screen(first / "screen"))
    save_screen(screen, first)
    assert str(tmp_path) not in (first / "screen.json").read_text()
    shutil.copytree(first, second)
    assert load_screen(first).root == screen.root and load_screen(second).root == second / "screen"
    assert (first / "screen.json").read_bytes() == (second / "screen.json").read_bytes()


def test_a_partly_fetched_screen_is_the_plates_that_are_there(tmp_path):
    whole = read_loaddata(write_screen(tmp_path, tiny_rows(plates=3)))
    same, absent = fetched(whole)
    pd.testing.assert_frame_equal(same.table, whole.table)
    assert absent == []
    for path in [
        *(tmp_path / "images" / "P1").glob("*"),
        *sorted((tmp_path / "images" / "P3").glob("*"))[:-1],
    ]:
        path.unlink()
    part, absent = fetched(whole)
    assert absent == ["P1"] and list(part.table.index) == list(range(8)) and part.name == whole.name
    pd.testing.assert_frame_equal(
        part.table, whole.table[whole.table["Metadata_Plate"] != "P1"].reset_index(drop=True)
    )
    for path in (tmp_path / "images").rglob("*.tif"):
        path.unlink()
    assert "make data SCREEN=bbbc021 DATA=DIR" in refused(fetched, whole)
