"""What `make check` calls an error is what stops the book, and nothing else is.

Each planted code is asked the same in test_doctor.py.
"""

import re
from pathlib import Path

import numpy as np
import odd_screens
import pytest
import tifffile
from helpers import stopped, tiny_rows, write_screen

from mcnn_book.check import examine
from mcnn_book.check.examine import check
from mcnn_core.readers.images import image_paths
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.reading import PLAIN, Reading


def agreed(name: str, data: str, out: Path, reading: Reading = PLAIN) -> str:
    """Return by which error the book stops, "" where it does not.

    A check that says otherwise fails.
    """
    report = check(name, data, out, reading=reading)
    stop = stopped(name, data, out, reading)
    errors = [one for one in report.problems if examine._KNOWN[one.code]["severity"] == "error"]
    assert bool(errors) == bool(stop), f"the check says {errors[:3]}, the book {stop or 'nothing'}"
    return stop


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out the estimate, which builds a network each time."""
    monkeypatch.setattr(examine, "_cost", lambda *arguments: None)


@pytest.mark.parametrize("name", odd_screens.SCREENS)
def test_odd_screens_are_right_for_both(tmp_path, monkeypatch, name):
    # Quick.
    monkeypatch.setattr(
        odd_screens,
        "draw",
        lambda rng, shape, channels, kind: rng.poisson(300, (channels, *shape)).astype(np.uint16),
    )
    assert agreed(str(odd_screens.SCREENS[name](tmp_path / name)), "", tmp_path / "out") == ""


def test_cases_of_other_laboratories(shared_data, tmp_path):
    """The folder beside the real samples.

    Each case has a folder, whose case.md names the table, or one in the layout of imageHTS.
    """
    cases = shared_data.parent / "cases"
    if not cases.is_dir():
        pytest.skip(f"shared data absent: {cases}")
    stops = {}
    for case in sorted(cases.iterdir()):
        table = re.search(r"SCREEN=CASE/(\S+)", (case / "case.md").read_text(encoding="utf-8"))
        if table or (case / "conf").is_dir():
            stops[case.name] = agreed(
                *((str(case / table[1]), "") if table else ("kimorph", str(case))),
                tmp_path / case.name,
            )
    assert (
        agreed("kimorph", str(shared_data / "kimorph"), tmp_path / "real") == ""
        and len(stops) > 30
        and {bool(stop) for stop in stops.values()} == {True, False}
    )


GIVEN = {
    "01_load_data_with_illum/load_data_with_illum.csv": {},
    "04_images_beside_workspace/workspace/load_data_csv/batch1/P1/load_data.csv": {"data": "."},
    "08_backslashes/plates.csv": {},
    "11_url_columns/load_data.csv": {},
    "12_missing_and_corrupt/plates.csv": {"incomplete": "leave-out"},
    "14_z_planes_as_rows/load_data.csv": {"planes": "max"},
    "15_z_stack_tiff/plates.csv": {"planes": "middle"},
    "16_stk_second_plane_dropped/plates.csv": {"planes": "2"},
    "18_eight_channels/load_data.csv": {"channels": "OrigDNA,OrigER"},
    "20_no_pathname/plates.csv": {},
    "28_sizes_differ/plates.csv": {"sizes": "crop"},
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_screen_that_is_read_as_its_reader_says_is_right_for_both(shared_data, tmp_path, name):
    cases = shared_data.parent / "cases"
    if not cases.is_dir():
        pytest.skip(f"shared data absent: {cases}")
    given = dict(GIVEN[name])
    if "data" in given:
        given["data"] = str(cases / name.partition("/")[0])
    reading = Reading.from_text(**given)
    assert agreed(str(cases / name), "", tmp_path / "out", reading) == ""
    if GIVEN[name]:
        assert agreed(str(cases / name), "", tmp_path / "plain") != ""


def blank(channel, rows):
    """Spoil one channel of some rows."""

    def plant(paths):
        for row in rows:
            tifffile.imwrite(paths[row][channel], np.full((12, 16), 7, np.uint16))

    return plant


def twins(paths):
    """Give the two channels of a field equal pixels."""
    tifffile.imwrite(paths[2][0], tifffile.imread(paths[2][1]))


@pytest.mark.parametrize(
    ("plant", "code", "stop"),
    [
        (twins, "pixels-identical", ""),
        (blank(0, [3]), "field-constant", ""),
        (blank(0, range(5)), "field-constant", ""),
        (blank(1, range(6)), "plate-without-spread", "plate P1, channel Actin"),
        (blank(1, range(12)), "plate-without-spread", "plate P2, channel Actin"),
    ],
)
def test_blank_and_equal_channels(tmp_path, plant, code, stop):
    table = write_screen(tmp_path, tiny_rows(wells=("B02", "C03", "D04")))
    plant(image_paths(read_loaddata(table)))
    assert code in {one.code for one in check(str(table)).problems}
    said = agreed(str(table), "", tmp_path / "out")
    assert stop in said and bool(stop) == bool(said)


#: Plate maps as they come, and by what the book stops.
MAPS = {
    "Compound\n,2,3\nB,DMSO,a\nC,a,b\n\nDose (nM)\n,2,3\nB,0,300\nC,1000,1000": "",
    "Well,Compound,Conc,Unit\nB02,DMSO,0,uM\nB03,a,300,nM\nC02,a,1,uM\nC03,b,1,mM": "",
    "Well,Compound,Dose\nb2,DMSO,0.1 %\nB-3,a,1e-6 M\nC:02,a,n.d.\n(C 3),b,0.3uM": "",
    "Well,Compound,Well type\nB02,DMSO,NC\nB03,a,sample\nC02,b,sample\nC03,c,PC": "",
    "Well,Compound,Dose\nB02,DMSO,\nB03,a,10 ug/ml\nC02,a,1\nC03,b,1": "line 3, Metadata_Conc",
    "Well,Cells\nB02,1\nB03,2\nC02,3\nC03,4": "expected a column of compounds",
    "Well,Compound\nB02,DMSO\nB03,a\nC02,b\nC03,c\nc3,d": "well C03 is named twice",
    "Well,Compound\nB02,DMSO\nB03,a": "Metadata_Compound is empty",
    "Plate,Well,Compound\nX1,B02,DMSO\nX1,B03,a": "no well of 'P1' is in",
}


@pytest.mark.parametrize("text", MAPS)
def test_plate_maps_as_they_come(tmp_path, text):
    rows = tiny_rows(wells=("B02", "B03", "C02", "C03"))
    table = write_screen(tmp_path, rows.filter(regex="Plate|Well|Site|Name_"))
    (tmp_path / "map.csv").write_text(text, encoding="utf-8")
    stop = agreed(str(table), "", tmp_path / "out", Reading(platemap=tmp_path / "map.csv"))
    assert MAPS[text] in stop and bool(MAPS[text]) == bool(stop)
