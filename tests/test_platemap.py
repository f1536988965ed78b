"""Plate maps as laboratories keep them: lists and drawn plates, in sheets, with merged cells."""

import openpyxl
import pytest

from mcnn_core.errors import InputError
from mcnn_core.readers.platemap import read_platemap
from mcnn_core.readers.spelling import micromolar

LIST = [
    ["Well", "Compound", "Dose (uM)"],
    ["B02", "DMSO", None],
    ["B03", "taxol", 0.3],
    ["C02", "taxol", 1],
]
DRAWN = [[None, 2, 3], ["B", "DMSO", "taxol"], ["C", "taxol", None]]
DOSES = [[None, 2, 3], ["B", None, 0.3], ["C", 1, None]]
EXPECTED = {"B02": ("DMSO", ""), "B03": ("taxol", "0.3"), "C02": ("taxol", "1")}
WITHOUT_DOSES = {well: (compound, "") for well, (compound, _) in EXPECTED.items()}


def workbook(folder, merged=(), **sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title.replace("_", " "))
        for row in rows:
            sheet.append(row)
        for cells in merged:
            sheet.merge_cells(cells)
    book.save(folder / "map.xlsx")
    return folder / "map.xlsx"


def text(folder, *lines):
    (folder / "map.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "map.csv"


def held(path):
    """Return compound and dose by plate and well; no error is right."""
    rows, problems = read_platemap(path)
    assert not [one for one in problems if one.severity == "error"]
    by = [name for name in ("Metadata_Plate", "Metadata_Well") if name in rows]
    rows = rows.assign(**{"Metadata_Concentration": rows.get("Metadata_Concentration", "")})
    columns = [*by, "Metadata_Compound", "Metadata_Concentration"]
    return {
        " ".join(place): (compound, micromolar(dose))
        for *place, compound, dose in rows[columns].itertuples(index=False)
    }


@pytest.mark.parametrize(
    ("merged", "sheets"),
    [
        (["A1:C1"], {"map": [["Plate map of June"], [], *LIST]}),
        (["B3:B4"], {"map": [*LIST[:3], ["C02", None, 1]]}),
        ([], {"map": LIST, "results": [["Well", "Cells", "Area"], *[["B02", 1, 2]] * 9]}),
        ([], {"map": LIST, "notes": [["a", "b", "c", "d"]] * 9}),
        ([], {"Compound": DRAWN, "Concentration_(uM)": DOSES}),
        ([], {"map": [["Compound"], *DRAWN, [], ["Dose (uM)"], *DOSES]}),
        ([], {"map": [["Layout"], *DRAWN, [], ["Dose (uM)"], *DOSES]}),
    ],
)
def test_a_workbook_is_read_as_a_reader_sees_it(tmp_path, merged, sheets):
    assert held(workbook(tmp_path, merged, **sheets)) == EXPECTED


@pytest.mark.parametrize("rows", [LIST, DRAWN, [["Plate P1"], *LIST]])
def test_a_sheet_may_be_that_of_a_plate(tmp_path, rows):
    names = {"taxol": "vinblastine", "Plate P1": "Plate P2"}
    other = [[names.get(cell, cell) for cell in row] for row in rows]
    found = held(workbook(tmp_path, P1=rows, P2=other))
    assert set(found) == {f"{p} {w}" for p in ("P1", "P2") for w in EXPECTED}
    assert found["P1 B03"][0] == "taxol" and found["P2 B03"][0] == "vinblastine"


def test_merged_cells_of_a_drawn_plate_all_hold_the_same(tmp_path):
    rows = [[None, 1, 2, 3], ["B", "a", None, "b"], ["C", None, None, "b"]]
    found = held(workbook(tmp_path, ["B2:C3"], map=rows))
    assert {well for well, (name, _) in found.items() if name == "a"} == {
        "B01",
        "B02",
        "C01",
        "C02",
    }


@pytest.mark.parametrize(
    "lines",
    [
        (",2,3", "B,DMSO,taxol", "C,taxol,"),
        ("Plate 7,02,03", "b,DMSO,taxol", "c,taxol,"),
        ("<>,1.0,2.0,3.0,sum", "A,,,,0", "B,,DMSO,taxol,2", "C,,taxol,,1"),
        ("Plate map of June", "", "Row,1,2,3", "B,,DMSO,taxol", ",,,", "C,,taxol,"),
    ],
)
def test_drawn_plates(tmp_path, lines):
    assert held(text(tmp_path, *lines)) == WITHOUT_DOSES


def test_drawn_plates_may_stand_side_by_side_and_name_their_plates(tmp_path):
    lines = ("Compound,2,3,,Dose uM,1,2,3", "B,DMSO,taxol,,B,,,0.3", "C,taxol,,,C,,1,")
    assert held(text(tmp_path, *lines)) == EXPECTED
    lines = ("Plate: P1", ",2,3", "B,DMSO,taxol", "", "Plate: P2", ",2,3", "B,DMSO,b")
    assert held(text(tmp_path, *lines))["P2 B03"] == ("b", "")


def test_a_formula_without_a_value_is_no_empty_cell(tmp_path):
    with pytest.raises(InputError, match="sheet 'map' has formulas without their values"):
        read_platemap(workbook(tmp_path, map=[*LIST, ["C03", "=B3"]]))


def test_a_drawn_plate_of_384_wells_may_name_doses_in_its_cells(tmp_path):
    rows = [
        ",".join([letter, *(f"c{column} {column} nM" for column in range(1, 25))])
        for letter in "ABCDEFGHIJKLMNOP"
    ]
    found = held(text(tmp_path, "," + ",".join(map(str, range(1, 25))), *rows))
    assert len(found) == 384 and found["P24"] == ("c24", "0.024")


def test_a_list_is_no_drawing_and_a_well_twice_in_two_spellings_is_one(tmp_path):
    lines = ("Row,Column,Compound,Dose", "B,2,DMSO,", "B,3,taxol,0.3", "C,2,taxol,1")
    assert held(text(tmp_path, *lines, "B,2,dmso,", "c,02,taxol,1.0")) == EXPECTED


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("Well,Cells", "B02,7"), "line 1: expected a column of compounds, got Metadata_Cells"),
        (("Well,Compound", "B02,a", "B02,b"), "line 3: well B02 is named twice"),
        (
            ("Well,Compound,Dose", "B02,a,10 ug/ml", "B03,a,1"),
            "line 2, Metadata_Concentration: '10 ug/ml' is",
        ),
        ((",1,2", "B,a,b", "", ",1,2", "B,c,d"), "line 4: expected drawn plates to be named"),
    ],
)
def test_what_has_no_one_meaning_is_an_error_of_the_map(tmp_path, lines, said):
    _, problems = read_platemap(text(tmp_path, *lines))
    assert said in "\n".join(one for one in problems if one.severity == "error")
