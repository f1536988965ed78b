"""Tables with a row per image, and rows that are copies."""

import pandas as pd
import pytest
from helpers import tiny_rows, write_screen

from mcnn_book.check.examine import check
from mcnn_core.readers.images import read_field
from mcnn_core.readers.loaddata import examine_loaddata, read_loaddata


@pytest.fixture
def wide(tmp_path):
    """Write a screen of two channels, and return its rows."""
    rows = tiny_rows(channels=("DNA", "Actin"))
    write_screen(tmp_path, rows)
    return rows


def per_image(rows, channel="Channel", name="FileName", folder="PathName"):
    """Return a row per image of a table that has one per field."""
    plain = rows.drop(columns=[one for one in rows if "Name_" in one])
    parts = [
        plain.assign(
            **{channel: one, name: rows[f"FileName_{one}"], folder: rows[f"PathName_{one}"]}
        )
        for one in ("DNA", "Actin")
    ]
    return pd.concat(parts).sort_index(kind="stable")


@pytest.mark.parametrize(
    "names",
    [
        ("Channel", "FileName", "PathName"),
        ("Metadata_ChannelName", "FileName_Image", "PathName_Image"),
        ("Stain", "image", "folder"),
        ("wavelength", "Image_FileName_Orig", "Image_PathName_Orig"),
    ],
)
def test_a_row_per_image_is_read_as_a_row_per_field(tmp_path, wide, names):
    long = per_image(wide, *names)
    long["ExposureTime"] = range(len(long))
    long.to_csv(tmp_path / "long.csv", index=False)
    screen, one = read_loaddata(tmp_path / "long.csv"), read_loaddata(tmp_path / "screen.csv")
    assert screen.channels == one.channels and len(screen.table) == len(wide)
    assert all((read_field(screen, k) == read_field(one, k)).all() for k in range(len(wide)))
    said = "\n".join(check(str(tmp_path / "long.csv")).problems)
    assert "names the channel of each row" in said and "not copied" in said


def test_pages_and_planes_of_a_row_per_image(tmp_path, wide):
    fields = wide["Metadata_Plate"] + wide["Metadata_Well"] + wide["Metadata_Site"] + ".tif"
    long = per_image(wide).assign(FileName=fields, PathName="")
    long["Page"] = long["Channel"].map({"DNA": "1", "Actin": "0"})
    screen, _, _ = examine_loaddata(_written(tmp_path, long))
    assert len(screen.table) == len(wide) and set(screen.table["Frame_DNA"]) == {"1"}
    planes = pd.concat([per_image(wide).assign(Z=str(z)) for z in (1, 2)])
    planes["FileName"] = planes["Z"] + planes["FileName"]
    _, problems, _ = examine_loaddata(_written(tmp_path, planes))
    assert [one.code for one in problems if one.severity == "error"] == ["planes-open"]


def _written(folder, rows):
    rows.to_csv(folder / "other.csv", index=False)
    return folder / "other.csv"


def test_a_field_that_lacks_a_channel_is_named_once(tmp_path, wide):
    long = per_image(wide).iloc[1:]
    _, problems, _ = examine_loaddata(_written(tmp_path, long))
    errors = [(one.code, one.row, one.column) for one in problems if one.severity == "error"]
    assert errors == [("cell-empty", 2, "FileName_DNA")]


def test_copies_of_rows_count_once(tmp_path, wide):
    path = _written(tmp_path, pd.concat([wide, wide.iloc[:2]]))
    codes = check(str(path)).by_code()
    assert codes["row-twice"] == 1 and not {"field-twice", "file-shared"} & {*codes}
    assert len(read_loaddata(path).table) == len(wide)
    nearly = pd.concat([wide, wide.iloc[:1].assign(Metadata_Replicate="2")])
    codes = check(str(_written(tmp_path, nearly))).frame().query("severity == 'error'")["code"]
    assert "field-twice" in set(codes) and "file-shared" not in set(codes)
