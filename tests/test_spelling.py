"""What a table says is read as programs and people spell it."""

from pathlib import Path

import pandas as pd
import pytest

from mcnn_core.readers import spelling
from mcnn_core.readers.cells import filled, tidied
from mcnn_core.readers.spelling import canonical

FILE = Path("plates.csv")


def taken(**columns):
    """Return the rows under their known names, and the codes of what was said."""
    rows, problems = canonical(FILE, pd.DataFrame(columns, index=range(1, 3), dtype=str))
    return rows, [one.code for one in problems]


@pytest.mark.parametrize(
    "text",
    [
        "B02",
        "b2",
        "B002",
        "B-02",
        "B_02",
        "B.2",
        "B:2",
        "(B,2)",
        "R02C02",
        "r2c2",
        "R2-C2",
        "B - 02",
        "B 2",
        "Row 2 Column 2",
        "row B, col 2",
        "Well B02",
        " b02 ",
    ],
)
def test_wells_of_every_microscope(text):
    assert spelling.well(text) == "B02"


@pytest.mark.parametrize("text", ["2B", "B0", "B49", "AG1", "R33C1", "A1.5", "A1,2", "", "rest"])
def test_what_is_no_well(text):
    assert spelling.well(text) == ""


def test_wells_of_1536():
    assert spelling.well("Aa01") == "AA01" and spelling.well("R32C48") == "AF48"


@pytest.mark.parametrize("text", ["1", "01.0", "F001", "s1", "f01", "Site 1", "site_1", "#1"])
def test_sites(text):
    assert spelling.number(text) == "1"


@pytest.mark.parametrize("text", ["1.5", "one", "-1", "1a", "1 of 9"])
def test_what_is_no_site(text):
    assert spelling.number(text) == text


@pytest.mark.parametrize(
    ("text", "dose"),
    [
        ("0.3", "0.3"),
        ("300 nM", "0.3"),
        ("300nM", "0.3"),
        ("0.3 \u00b5M", "0.3"),
        ("0.3 \u03bcM", "0.3"),
        ("0,3 uM", "0.3"),
        ("3e-7 M", "0.3"),
        ("0.0003 mM", "0.3"),
        ("300000 pM", "0.3"),
        ("0.3 umol/L", "0.3"),
        ("0.3 micromolar", "0.3"),
        ("1,000.5", "1000.5"),
        ("1,000", "1,000"),
        ("-3 nM", "-3 nM"),
        ("1 mg", "1 mg"),
        ("high", "high"),
        ("1e999999999", "1e999999999"),
    ],
)
def test_doses(text, dose):
    assert spelling.micromolar(text) == dose


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NegCon", "negcon"),
        ("negative control", "negcon"),
        ("Negative", "negcon"),
        ("ctl_vehicle", "negcon"),
        ("poscon_cp", "poscon"),
        ("poscon_diverse", "poscon"),
        ("Positive Control", "poscon"),
        ("trt_cp", "trt"),
        ("Sample", "trt"),
        ("other", "other"),
    ],
)
def test_control_types(text, kind):
    assert spelling.control_type(text) == kind


@pytest.mark.parametrize(
    "text",
    ["DMSO 0.1%", "dmso", "0.1 % DMSO", "DMSO (0.5%)", "DMSO_0.1", "DMSO control", "DMSO 0,1 %"],
)
def test_the_vehicle_and_its_share(text):
    assert spelling.vehicle(text) == "DMSO"


def test_what_looks_like_a_control_is_known():
    assert spelling.like_a_control("DMSO-d6 high") and spelling.like_a_control("Untreated")
    assert not spelling.like_a_control("taxol") and spelling.vehicle("DMSO2") != "taxol"


@pytest.mark.parametrize(
    "text",
    ["NA", "n/a", "#N/A", "NaN", "nan", "None", "NULL", "-", "\\N", "n.d.", "not determined"],
)
def test_missing_in_every_column_but_the_file_names(text):
    rows, codes = taken(
        Metadata_MoA=[text, "a"], Metadata_Batch=[text, text], FileName_A=[text] * 2
    )
    assert rows["Metadata_MoA"].tolist() == ["", "a"] and set(rows["FileName_A"]) == {text}
    assert codes == ["values-missing"]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("metadata_COMPOUND", "Metadata_Compound"),
        ("pert_iname", "Metadata_Compound"),
        ("Metadata_moa", "Metadata_MoA"),
        ("Mechanism of action", "Metadata_MoA"),
        ("Metadata_Assay_Plate_Barcode", "Metadata_Plate"),
        ("Image_Metadata_well_position", "Metadata_Well"),
    ],
)
def test_columns_are_known_by_any_spelling(name, column):
    cells = ["B02", "B03"]
    rows, codes = taken(**{name: cells})
    assert rows[column].tolist() == cells and codes == ["column-taken"]


@pytest.mark.parametrize(
    ("name", "dose"),
    [
        ("Metadata_Concentration_uM", "300"),
        ("Metadata_Dose_nM", "300 nM"),
        ("Dose (nM)", "300 nM"),
        ("Metadata_concentration [mM]", "300 mM"),
        ("Metadata_conc_in_M", "300 M"),
        ("Metadata_mmoles_per_liter", "300"),
    ],
)
def test_a_column_of_doses_names_its_unit(name, dose):
    assert taken(**{name: ["300", ""]})[0]["Metadata_Concentration"].tolist() == [dose, ""]


@pytest.mark.parametrize(
    ("columns", "doses"),
    [
        ({"Conc": ["300", "1"], "Unit": ["nM", "uM"]}, ["300 nM", "1 uM"]),
        ({"Dose": ["3", "1"], "Dose_Units": ["nM", ""]}, ["3 nM", "1"]),
        ({"Conc": ["3", "1"], "Unit": ["ug/ml", "uM"]}, ["3 ug/ml", "1 uM"]),
        ({"Conc": ["3", "1"], "Unit": ["north", "uM"]}, ["3", "1"]),
        ({"Compound": ["taxol 0.3 uM", "DMSO"]}, ["0.3 uM", ""]),
        ({"Compound": ["taxol (3nM)", "vinblastine_1 \u00b5M"]}, ["3nM", "1 \u00b5M"]),
    ],
)
def test_doses_have_the_unit_beside_them(columns, doses):
    assert taken(**columns)[0]["Metadata_Concentration"].tolist() == doses


@pytest.mark.parametrize("name", ["Concentration (%)", "\u00b5g/ml", "nM", "log10 M", "% v/v"])
def test_what_is_no_molar_dose_is_not_taken_for_one(name):
    rows, codes = taken(Metadata_Compound=["a", "a"], **{name: ["0.1", "0.2"]})
    assert "Metadata_Concentration" not in rows and codes == ["dose-not-taken"]


def test_control_types_that_are_not_all_known_are_named():
    assert taken(Well_Type=["poscon", "blank"])[1] == ["control-type-not-taken"]
    assert taken(Well_Type=["neutral control", "sample"])[1] == ["column-taken"]
    assert taken(Content=["taxol", "aspirin"])[1] == []


def test_of_two_columns_the_known_name_or_the_earlier_spelling_is_taken():
    rows, codes = taken(Metadata_broad_sample=["x", "y"], Metadata_pert_iname=["a", "b"])
    assert rows["Metadata_Compound"].tolist() == ["a", "b"] and codes == ["column-taken"]
    rows, codes = taken(Metadata_Compound=["a", "b"], Metadata_pert_iname=["x", "y"])
    assert rows["Metadata_Compound"].tolist() == ["a", "b"] and codes == ["column-left"]
    assert "column-twice" in taken(moa=["a", "b"], MOA=["x", "y"])[1]


def test_a_dose_that_is_not_taken_is_a_warning_with_what_it_pools():
    rows, problems = canonical(
        FILE,
        pd.DataFrame({"Metadata_Compound": ["a", "a"], "Metadata_Dose_mg": ["1", "2"]}, dtype=str),
    )
    assert "Metadata_Concentration" not in rows and problems[0].severity == "warning"
    assert "2 doses of 1 compound are pooled" in problems[0]


@pytest.mark.parametrize(
    ("row", "column", "wells"),
    [
        (["2", "3"], ["2", "3"], ["B02", "C03"]),
        (["B", "c"], ["2", "03"], ["B02", "C03"]),
        (["0", "1"], ["0", "1"], ["A01", "B02"]),
        (["2.0", "27.0"], ["2.0", "3.0"], ["B02", "AA03"]),
    ],
)
def test_a_well_is_made_of_row_and_column(row, column, wells):
    made = taken(Metadata_Row=row, Metadata_Col=column)[0]["Metadata_Well"]
    assert [spelling.well(text) for text in made] == wells


def test_a_share_of_the_vehicle_is_no_dose_and_control_is_what_its_compound_is():
    rows = pd.DataFrame(
        {
            "Metadata_Compound": ["DMSO", "a"],
            "Metadata_Concentration": ["0.1 %", "3"],
            "Metadata_control_type": ["control", "control"],
        }
    )
    facts = tidied(filled(rows))
    assert facts["Metadata_Concentration"].tolist() == ["", "3"]
    assert facts["Metadata_control_type"].tolist() == ["negcon", "control"]
