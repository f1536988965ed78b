"""Where the images of a table lie, and what else a user says of how it is read."""

import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import tiny_rows, write_screen

from mcnn_book.check.examine import check
from mcnn_book.screens import open_screen
from mcnn_core.errors import InputError
from mcnn_core.readers.images import read_field
from mcnn_core.readers.loaddata import examine_loaddata, read_loaddata
from mcnn_core.readers.places import split
from mcnn_core.readers.reading import Reading
from mcnn_core.screen import load_screen, save_screen
from tools import book


def rewritten(folder, change, rows=None):
    """Write a screen below `folder`/here, and its table with changed paths beside it."""
    rows = tiny_rows() if rows is None else rows
    write_screen(folder / "here", rows)
    for channel in ("DNA", "Actin"):
        columns = [rows[f"{part}Name_{channel}"] for part in ("Path", "File")]
        both = list(map(change, *columns))
        rows = rows.assign(
            **{
                f"PathName_{channel}": [p for p, _ in both],
                f"FileName_{channel}": [n for _, n in both],
            }
        )
    (folder / "tables").mkdir(exist_ok=True)
    rows.to_csv(folder / "tables" / "plates.csv", index=False)
    return folder / "tables" / "plates.csv"


def reads(table, folder, **given):
    """Whether every field of a table is that of the screen in `folder`/here."""
    screen = read_loaddata(table, reading=Reading.from_text(folder / "here", **given))
    plain = read_loaddata(folder / "here" / "screen.csv")
    names = (screen.table[f"FileName_{one}"].tolist() for one in screen.channels)
    assert [*names] == [plain.table[f"FileName_{one}"].tolist() for one in plain.channels]
    return bool((read_field(screen, 5) == read_field(plain, 5)).all())


@pytest.mark.parametrize(
    "change",
    [
        lambda path, name: (path, name),
        lambda path, name: ("", f"{path}/{name}"),
        lambda path, name: (f"/home/ubuntu/bucket/projects/2021/{path}", name),
        lambda path, name: (f"/home/ubuntu/bucket/{path}/", name),
        lambda path, name: (path.replace("/", "\\"), name),
        lambda path, name: (".\\" + path.replace("/", "\\") + "\\", name),
        lambda path, name: ("D:\\screens\\old\\" + path.replace("/", "\\"), name),
        lambda path, name: ("d:/screens/" + path, name),
        lambda path, name: ("\\\\server\\share\\" + path.replace("/", "\\"), name),
        lambda path, name: ("", "D:\\screens\\" + path.replace("/", "\\") + "\\" + name),
        lambda path, name: (f"s3://bucket/cpg/{path}", name),
        lambda path, name: (f"https://bucket.s3.amazonaws.com/cpg/{path}", name),
        lambda path, name: (f"file:///C:/My%20Images/{path}", name),
        lambda path, name: (f"../../elsewhere/{path}", name),
        lambda path, name: ("D:\\Screens\\" + path.upper(), name.replace(".tif", ".TIF")),
    ],
)
def test_a_path_from_elsewhere_is_its_longest_ending(tmp_path, change):
    assert reads(rewritten(tmp_path, change), tmp_path)


def test_a_file_that_git_wrote_for_a_link_is_that_link(tmp_path):
    table = write_screen(tmp_path / "here")
    (tmp_path / "here" / "images").rename(tmp_path / "share")
    (tmp_path / "here" / "images").write_text("../share")
    screen, problems, _ = examine_loaddata(table, must_exist=True)
    assert len(screen.table) == 8 and [one.code for one in problems] == ["paths-moved"]
    (tmp_path / "here" / "images").write_text("../nowhere")
    with pytest.raises(InputError, match="does not exist"):
        read_loaddata(table)


def test_the_folders_of_data_are_joined_by_colons_and_may_hold_parts(tmp_path):
    table = rewritten(tmp_path, lambda path, name: (f"/gone/{path}", name))
    (tmp_path / "more" / "images").mkdir(parents=True)
    shutil.move(tmp_path / "here" / "images" / "P2", tmp_path / "more" / "images" / "P2")
    data = f"{tmp_path / 'here'}:{tmp_path / 'more'}"
    screen = read_loaddata(table, reading=Reading.from_text(data))
    assert len(screen.table) == 8 and screen.root == tmp_path.resolve()
    save_screen(screen, tmp_path)
    assert load_screen(tmp_path).reading == screen.reading


def test_two_files_that_fit_are_named_and_none_is_taken(tmp_path):
    table = rewritten(tmp_path, lambda path, name: (f"/gone/{path}", name))
    shutil.copytree(tmp_path / "here" / "images", tmp_path / "copy" / "images")
    data = f"{tmp_path / 'here'}:{tmp_path / 'copy'}"
    with pytest.raises(InputError, match=r"may be \S+here/images\S+ or \S+copy/images") as error:
        read_loaddata(table, reading=Reading.from_text(data))
    assert len(error.value.problems) == 16


def test_a_file_that_is_gone_is_not_sought_under_another_folder(tmp_path):
    write_screen(tmp_path)
    gone = tmp_path / "images" / "P1" / "B02_s1_DNA.tif"
    shutil.move(gone, tmp_path / gone.name)
    with pytest.raises(InputError, match=r"images/P1/B02_s1_DNA.tif' does not exist"):
        read_loaddata(tmp_path / "screen.csv")


def test_addresses_without_files_are_one_error_that_says_how_to_fetch(tmp_path):
    rows = tiny_rows()
    url = "s3://bucket/cpg/" + rows["PathName_DNA"] + "/" + rows["FileName_DNA"]
    names = [name for name in rows if "Name_" in name]
    rows.drop(columns=names).assign(URL_DNA=url).to_csv(tmp_path / "load.csv", index=False)
    with pytest.raises(InputError) as error:
        read_loaddata(tmp_path / "load.csv")
    (said,) = error.value.problems
    assert "aws s3 sync --no-sign-request s3://bucket/cpg/images/ DIR" in said and "DATA=" in said
    assert check(str(tmp_path / "load.csv")).counts()["error"] == 1


def test_a_link_is_followed_where_its_reader_or_the_table_s_writer_made_it(tmp_path, monkeypatch):
    table = rewritten(tmp_path, lambda path, name: (path, name))
    (tmp_path / "tables" / "images").symlink_to("../here/images")
    assert len(read_loaddata(table).table) == 8
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    os.chown(table, 4321, -1)
    with pytest.raises(InputError, match="lies outside the data root"):
        read_loaddata(table)
    assert reads(table, tmp_path)


@pytest.mark.parametrize("path", ["../here/images/P1", "/etc"])
def test_a_table_does_not_lead_out_by_itself(tmp_path, path):
    table = rewritten(tmp_path, lambda _, name: (path, name))
    with pytest.raises(InputError, match=r"lies outside the data root|does not exist"):
        read_loaddata(table)


def test_many_rows_are_quick(tmp_path):
    rows = tiny_rows(
        plates=50, wells=tuple(f"{r}{c:02d}" for r in "ABCDEFGH" for c in range(1, 12))
    )
    write_screen(tmp_path, tiny_rows())
    for channel in ("DNA", "Actin"):
        rows[f"PathName_{channel}"] = "/home/ubuntu/" + rows[f"PathName_{channel}"]
    rows.to_csv(tmp_path / "screen.csv", index=False)
    start = time.monotonic()
    examine_loaddata(tmp_path / "screen.csv")
    assert len(rows) == 8_800 and time.monotonic() - start < 10


def test_words_of_paths():
    assert split("file:///C:/a%20b/c") == ("windows", True, ("a b", "c"))
    assert split("s3://bucket/a/b") == ("s3", True, ("bucket", "a", "b"))
    assert split("//server/share/x") == ("windows", True, ("server", "share", "x"))
    assert split("a/./b/../c") == ("", False, ("a", "c"))


def test_functions_are_no_channels_and_travel_along(tmp_path):
    rows = tiny_rows()
    rows["FileName_IllumDNA"], rows["PathName_IllumDNA"] = "P1_DNA.npy", "/gone/illum"
    rows["FileName_Flat"], rows["PathName_Flat"] = "P1_flat.npy", "illum"
    table = write_screen(tmp_path, tiny_rows())
    rows.to_csv(table, index=False)
    (tmp_path / "illum").mkdir()
    (tmp_path / "illum" / "P1_DNA.npy").touch()
    screen, problems, _ = examine_loaddata(table)
    assert screen.channels == ("DNA", "Actin")
    assert set(screen.table["PathName_IllumDNA"]) == {"illum"}
    assert [one.code for one in problems].count("channels-left") == 1


def test_channels_are_chosen_in_the_order_given(tmp_path):
    table = write_screen(tmp_path, tiny_rows(channels=tuple("ABCDEFGH")))
    with pytest.raises(InputError, match="got 8: choose with CHANNELS="):
        read_loaddata(table)
    screen = read_loaddata(table, reading=Reading(channels=("h", "OrigB")))
    assert screen.channels == ("H", "B") and read_field(screen, 0).shape[-1] == 2
    with pytest.raises(InputError, match="no channel 'X': CHANNELS takes A, B"):
        read_loaddata(table, reading=Reading(channels=("A", "X")))


# ----------------------------------------------------------------------- planes as rows


def planes(folder, column="Metadata_PlaneID", values=("1", "2", "10")):
    parts = []
    for value in values:
        rows = tiny_rows(channels=("DNA",)).assign(**{column: value})
        rows["FileName_DNA"] = f"z{value}_" + rows["FileName_DNA"]
        parts.append(rows)
    return write_screen(folder, pd.concat(parts, ignore_index=True))


def test_planes_are_one_field_and_the_reader_chooses(tmp_path):
    table = planes(tmp_path)
    with pytest.raises(InputError, match='PARAMS="planes=max"') as error:
        read_loaddata(table)
    assert len(error.value.problems) == 1
    brightest, middle, last = (
        read_loaddata(table, reading=Reading(planes=one)) for one in ("max", "middle", "10")
    )
    assert {len(one.table) for one in (brightest, middle, last)} == {8}
    assert middle.table["FileName_DNA"].str.startswith("z2_").all()
    assert last.table["FileName_DNA"].str.startswith("z10_").all()
    folder = tmp_path / "images" / "P1"
    stack = [tifffile.imread(folder / f"z{z}_B02_s1_DNA.tif") for z in (1, 2, 10)]
    assert (read_field(brightest, 0)[..., 0] == np.max(stack, axis=0)).all()
    with pytest.raises(InputError, match="has no plane 7"):
        read_loaddata(table, reading=Reading(planes="7"))


@pytest.mark.parametrize(
    "column", ["Metadata_ZStep", "Metadata_Z", "Metadata_zplane", "Metadata_Plane", "PlaneID"]
)
def test_planes_have_many_names(tmp_path, column):
    with pytest.raises(InputError, match="planes of one field"):
        read_loaddata(planes(tmp_path, column, ("z01", "z02")))


def test_the_planes_of_a_field_lie_in_one_folder(tmp_path):
    table = planes(tmp_path)
    shutil.copytree(tmp_path / "images" / "P1", tmp_path / "other")
    rows = pd.read_csv(table, dtype=str)
    rows.loc[0, "PathName_DNA"] = "other"
    rows.to_csv(table, index=False)
    reading = Reading(planes="max")
    assert check(str(table), reading=reading).by_code()["planes-apart"] == 1
    with pytest.raises(InputError, match="all planes of a field in one folder"):
        read_loaddata(table, reading=reading)


def test_what_was_read_as_what_is_told(tmp_path):
    table = planes(tmp_path)
    rows = pd.read_csv(table, dtype=str)
    rows.assign(PathName_DNA="D:/" + rows["PathName_DNA"]).to_csv(table, index=False)
    report = check(str(table), reading=Reading(planes="max"))
    assert report.by_code()["planes-taken"] == 1
    assert any("'D:/' is read as" in one for one in report.problems if one.code == "paths-moved")


@pytest.mark.parametrize("column", ["Metadata_Timepoint", "Metadata_T", "Metadata_TimepointID"])
def test_time_points_are_no_sites(tmp_path, column):
    with pytest.raises(InputError, match="time points of a field are no sites") as error:
        read_loaddata(planes(tmp_path, column))
    assert len(error.value.problems) == 1


def test_one_time_point_is_read_by_choice_with_its_planes(tmp_path):
    planes(tmp_path, "Metadata_PlaneID", ("1", "2"))
    rows = pd.read_csv(tmp_path / "screen.csv", dtype=str, keep_default_na=False)
    later = rows.assign(FileName_DNA="h24_" + rows["FileName_DNA"], Metadata_Time_h="24")
    both = [rows.assign(Metadata_Time_h="0"), later]
    table = write_screen(tmp_path, pd.concat(both, ignore_index=True))
    with pytest.raises(InputError) as error:
        read_loaddata(table, reading=Reading(planes="max"))
    assert [one.code for one in error.value.problems] == ["time-points"]
    assert 'PARAMS="time=0"' in str(error.value)
    reading = Reading(time="24", planes="2")
    assert "time-taken" in {one.code for one in examine_loaddata(table, reading=reading)[1]}
    screen = read_loaddata(table, reading=reading)
    assert len(screen.table) == 8 and (screen.table["FileName_DNA"].str[:7] == "h24_z2_").all()


def test_a_plane_column_of_one_value_says_nothing(tmp_path):
    assert len(read_loaddata(planes(tmp_path, values=("1",))).table) == 8


# --------------------------------------------------------------------------- incomplete


def test_incomplete_fields_are_left_out_and_listed(tmp_path):
    table = write_screen(tmp_path, tiny_rows(wells=("B02", "C03", "D04")))
    images = tmp_path / "images"
    (images / "P1" / "B02_s1_DNA.tif").unlink()
    cut = images / "P2" / "C03_s2_Actin.tif"
    cut.write_bytes(bytes(cut.stat().st_size))
    for name in ("D04_s1", "D04_s2"):
        (images / "P2" / f"{name}_DNA.tif").write_bytes(b"")
    report = check(str(table))
    assert report.counts()["error"] == 4 and report.by_code()["field-incomplete"] == 1
    reading = Reading(incomplete="leave-out")
    report = check(str(table), reading=reading)
    said = [one for one in report.problems if one.code == "field-left-out"]
    assert report.counts()["error"] == 0
    assert any("4 of 12 fields" in one and "P2 D04" in one for one in said)
    screen = open_screen(str(table), "", tmp_path, reading=reading)
    left = pd.read_csv(tmp_path / "left_out.csv")
    assert len(screen.table) == 8 and len(left) == 4 and set(left["channel"]) == {"DNA", "Actin"}
    assert report.facts["fields"] == "8"


def test_what_is_left_must_be_something(tmp_path):
    table = write_screen(tmp_path)
    shutil.rmtree(tmp_path / "images")
    reading = Reading(incomplete="leave-out")
    with pytest.raises(InputError, match="no field has all its images"):
        open_screen(str(table), "", tmp_path, reading=reading)
    assert check(str(table), reading=reading).by_code()["table-empty"] == 1


# ----------------------------------------------------------------------------- plate map


def mapped(folder, text, drop=("Compound", "Concentration", "MoA", "control_type")):
    rows = tiny_rows()
    write_screen(folder, rows)
    rows.drop(columns=[f"Metadata_{name}" for name in drop if f"Metadata_{name}" in rows]).to_csv(
        folder / "screen.csv", index=False
    )
    (folder / "map.csv").write_text(text)
    return examine_loaddata(folder / "screen.csv", reading=Reading(platemap=folder / "map.csv"))


def test_a_plate_map_says_what_wells_hold(tmp_path):
    text = "Barcode;well_position;Compound;Conc (nM);moa\nP1;B2;DMSO;;\nP1;C3;taxol;300;tubulin\n"
    screen, problems, _ = mapped(
        tmp_path, text + "P2;B2;DMSO;;\nP2;C3;taxol;1000;tubulin\nP2;H12;x;1;\n"
    )
    assert set(screen.table["Metadata_Treatment"]) == {"DMSO", "taxol | 0.3", "taxol | 1"}
    assert [one.severity for one in problems if one.code == "well-without-image"] == ["note"]
    assert not [one for one in problems if one.severity == "error"]


def test_a_plate_map_without_plates_holds_for_all(tmp_path):
    screen, _, _ = mapped(tmp_path, "Well,Compound\nB02,DMSO\nC03,taxol\n")
    assert screen.table.groupby("Metadata_Plate")["Metadata_Compound"].nunique().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("Well,Compound\nB02,DMSO\n", "well-not-in-map", "P1 C03 is not in"),
        ("Plate,Well,Compound\nP1,B02,x\nP1,C03,y\n", "map-unreadable", "no well of 'P2' is in"),
        ("Well,Compound\nB02,x\nC03,y\nC03,z\n", "map-contradicts", "C03 is named twice"),
        ("Well,Batch\nB02,1\nC03,1\nbad,1\n", "not-a-well", "'bad' is not a well"),
        ("Name,Compound\nB02,x\n", "map-unreadable", "expected a column of wells"),
    ],
)
def test_what_does_not_match_is_named(tmp_path, text, code, said):
    _, problems, _ = mapped(tmp_path, text)
    assert [one for one in problems if one.code == code and said in one], problems


def test_a_plate_map_does_not_contradict_the_table(tmp_path):
    text = "Well,Compound,Metadata_Concentration\nB02,dmso,\nC03,another,\n"
    _, problems, _ = mapped(tmp_path, text, drop=())
    assert {one.row for one in problems if one.code == "map-contradicts"} <= {4, 5, 8, 9}
    assert any("'another' in the plate map" in one for one in problems)


def test_a_map_may_be_drawn_as_the_plate_is(tmp_path):
    screen, _, _ = mapped(tmp_path, ",1,2,3\nA,,,\nB,,DMSO,\nC,,,taxol\n")
    assert set(screen.table["Metadata_Treatment"]) == {"DMSO", "taxol"}


def test_plates_of_a_map_may_be_written_otherwise(tmp_path):
    text = "plate,well,compound\np1,B2,DMSO\np1,C3,x\np2,B2,DMSO\np2,C3,y\n"
    screen, _, _ = mapped(tmp_path, text)
    assert set(screen.table["Metadata_Compound"]) == {"DMSO", "x", "y"}


def test_a_well_of_one_row_needs_no_site(tmp_path):
    table = write_screen(tmp_path, tiny_rows(sites=1).drop(columns="Metadata_Site"))
    assert set(read_loaddata(table).table["Metadata_Site"]) == {1}


def test_the_book_depends_on_the_images_of_the_time_point_and_planes_that_are_read(tmp_path):
    rows = tiny_rows(plates=1, channels=("DNA",))
    second = rows.assign(FileName_DNA="later_" + rows["FileName_DNA"])
    table = pd.concat([rows.assign(Timepoint="1"), second.assign(Timepoint="2")])
    path = write_screen(tmp_path, table)
    kinds = {"screen": str(path), "platemap": "", "data": "", "channels": ""}
    for params, later in (("time=2", True), ('time=1 x="a b"', False)):
        files = book.list_screen(SimpleNamespace(**kinds, params=params))
        names = [os.path.basename(one) for one in files if one.endswith("DNA.tif")]
        assert [name.startswith("later_") for name in names] == [later] * len(rows)
