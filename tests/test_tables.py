"""Any table file is read by its content, with a note; what is none gets one error."""

import gzip
import io

import pandas as pd
import pytest

from mcnn_core.errors import InputError
from mcnn_core.readers.tables import is_table, read_cells, table_name

ROWS = pd.DataFrame({"Plate": ["P1", "P2"], "Dose µM": ["0.3", "1"], "Name": ["a, b", "c"]})
PLAIN = ROWS.to_csv(index=False)
SEMI = "Plate;Dose µM;Name\r\nP1;0,3;a, b\r\nP2;1;c\r\n"


def read(folder, content: bytes, name: str = "table.csv"):
    (folder / name).write_bytes(content)
    rows, problems = read_cells(folder / name)
    return rows.reset_index(drop=True), [str(one).split(": ", 1)[1] for one in problems]


def parquet() -> bytes:
    file = io.BytesIO()
    ROWS.assign(**{"Dose µM": [0.3, 1]}).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PLAIN.encode(), ""),
        (PLAIN.encode("utf-8-sig"), ""),
        (gzip.compress(PLAIN.encode()), ""),
        (PLAIN.replace("\n", "\r").encode(), ""),
        (SEMI.encode(), "separated by semicolons, with decimal commas"),
        (SEMI.encode("cp1252"), "Windows-1252, separated by semicolons"),
        (SEMI.replace(";", "\t").replace("0,3", "0.3").encode("utf-16"), "UTF-16, separated by ta"),
        (PLAIN.encode("utf-16-le"), "UTF-16"),
        (("sep=;\r\n" + SEMI).encode(), "separated by semicolons"),
        (("sep=,\r\n" + PLAIN).encode(), ""),
        (("Plates of May\n\n" + PLAIN).encode(), "without line 1 above its header"),
        (("Plates\n# by hand, twice\n" + PLAIN).encode(), "without line 1, 2 above its header"),
        (b'"Plate" "Dose \xc2\xb5M" "Name"\n"P1" 0.3 "a, b"\n"P2" 1 "c"\n', "separated by spaces"),
        (PLAIN.replace("\n", ",,\n").encode(), ""),
        (b'Plate,Dose \xc2\xb5M,Name\nP1,0.3,"a, b",,\nP2,1,c,\n\n,,\n', ""),
        (ROWS.to_csv().encode(), "without column 1, which has no name"),
        (b'Plate,Dose \xc2\xb5M,Name\n1,P1,0.3,"a, b"\n2,P2,1,c\n', "without column 1"),
        (parquet(), "Parquet"),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else value,
)
def test_a_table_is_read_as_its_content_says(tmp_path, content, said):
    rows, notes = read(tmp_path, content, "table.txt")
    pd.testing.assert_frame_equal(rows, ROWS, check_dtype=False, check_column_type=False)
    assert len(notes) == bool(said) and said in "".join(notes)


def test_spaces_in_cells_separate_nothing_and_digits_stay_text(tmp_path):
    content = b'Plate,Name of it\n="007",a b c d e\n="008",f g h i j\n'
    rows, notes = read(tmp_path, content, "table.csv")
    assert rows.to_numpy().tolist() == [["007", "a b c d e"], ["008", "f g h i j"]] and not notes


def test_spaces_in_cells_separate_nothing(tmp_path):
    lines = ["Plate,Well,Compound", *["P1,B02,taxol 0.3 uM for 24 h"] * 15]
    rows, notes = read(tmp_path, "\n".join(lines).encode())
    assert list(rows) == ["Plate", "Well", "Compound"] and not notes


def test_the_first_sheet_that_holds_anything_is_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("plates")
    for row in (["Plate map"], list(ROWS), ["P1", 0.3, "a, b"], ["P2", 1.0, "c", None]):
        sheet.append(row)
    book.save(tmp_path / "plates.xlsx")
    rows, problems = read_cells(tmp_path / "plates.xlsx")
    assert rows.to_numpy().tolist() == ROWS.to_numpy().tolist() and list(rows.index) == [2, 3]
    assert "the Excel sheet 'plates' of 2, without line 1 above" in problems[0]


def test_the_largest_sheet_and_those_alike_are_the_table(tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(["made by", "me"])
    for plate in ("P1", "P2"):
        sheet = book.create_sheet(plate)
        for row in (["Plate", "Well", "Name"], [plate, "B02", "a"]):
            sheet.append(row)
    book.save(tmp_path / "plates.xlsx")
    rows, problems = read_cells(tmp_path / "plates.xlsx")
    assert rows["Plate"].tolist() == ["P1", "P2"] and "sheets 'P1' and 'P2' of 3" in problems[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (b'a,b\n1,"2', "unexpected end"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "expected CSV, Parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "save it as .xlsx or CSV"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PAR1nothing", "damaged Parquet"),
        (b"\xff\xfea", "truncated"),
        (b"a," * 6_000 + b"b\n", "at most 5,000 columns"),
        (b"PK\x03\x04no archive", "xcel workbook"),
    ],
)
def test_what_is_no_table_gets_one_error(tmp_path, content, said):
    with pytest.raises(InputError, match="not a readable table") as error:
        read(tmp_path, content)
    assert said in str(error.value) and len(error.value.problems) == 1


def test_lines_of_other_length_are_named_and_left_out(tmp_path):
    rows, problems = read(tmp_path, b"a,b\n1,2\n1,2,3\n\n1\n3,4\n")
    assert rows.to_numpy().tolist() == [["1", "2"], ["3", "4"]]
    assert [text[:4] for text in problems] == ["more", "fewe"]


def test_names_of_tables(tmp_path):
    (tmp_path / "plates").touch()
    for name in ("a.csv", "a.CSV.gz", "a.tsv", "a.parquet", "a.xlsx", tmp_path / "plates"):
        assert is_table(name)
    assert not is_table("bbbc021") and not is_table(tmp_path)
    assert table_name("x/load_data.csv.gz") == "load_data" == table_name("load_data.parquet")
