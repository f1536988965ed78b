"""Every code is planted in a spoiled copy of a clean screen, and found by its line.

The clean screen shows none of them.
"""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import stopped
from PIL import Image
from scipy.ndimage import gaussian_filter

from mcnn_book.check import cost, examine
from mcnn_book.check.cost import predict
from mcnn_book.check.examine import (
    candidates,
    check,
    codes,
    duration,
    page,
    place,
    plate_format,
    sample_rows,
    sharpness,
    terminal,
    visible,
    write,
)
from mcnn_book.simulate import bbbc021 as simulated_module
from mcnn_book.workspace import find_root
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.readers import tables
from mcnn_core.readers.loaddata import read_loaddata
from tests.children import child

CHANNELS = ("DNA", "Actin")
SHAPE = (48, 64)
MECHANISMS = {"drug A": "actin", "drug B": "actin", "drug C": "tubulin", "drug D": "tubulin"}


def cells(rng, shape=SHAPE) -> np.ndarray:
    """Return blobs with grain, (H, W) uint16: neither flat, saturated nor blurred."""
    return rng.poisson(
        300 + 4_000 * np.clip(gaussian_filter(rng.standard_normal(shape), 2), 0, None)
    ).astype(np.uint16)


def clean_rows() -> pd.DataFrame:
    """Return the LoadData rows of a screen that confounds nothing.

    Positions are drawn anew for each of four plates in two batches.
    """
    rng, rows = np.random.default_rng(7), []
    contents = [("DMSO", "0")] * 3 + [
        (drug, dose) for drug in MECHANISMS for dose in ("0.1", "1", "10")
    ]
    wells = [f"{row}{column:02d}" for row in "BCDEFG" for column in range(2, 8)]
    for plate in range(1, 5):
        rest = [well for well in rng.permutation(wells) if well not in ("C03", "D05", "E04")]
        for (compound, dose), well in zip(contents, ["C03", "D05", "E04", *rest], strict=False):
            for site in ("1", "2"):
                rows.append(
                    {
                        "Metadata_Plate": f"P{plate}",
                        "Metadata_Well": well,
                        "Metadata_Site": site,
                        "Metadata_Compound": compound,
                        "Metadata_Concentration": dose,
                        "Metadata_MoA": MECHANISMS.get(compound, ""),
                        "Metadata_Replicate": str(plate),
                        "Metadata_Batch": f"week {1 + plate % 2}",
                        "Metadata_control_type": "negcon" if compound == "DMSO" else "trt",
                    }
                    | {
                        f"{part}Name_{channel}": f"P{plate}_{well}_{site}_{channel}.tif"
                        if part == "File"
                        else "images"
                        for channel in CHANNELS
                        for part in ("File", "Path")
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("clean"), np.random.default_rng(0)
    rows = clean_rows()
    (folder / "images").mkdir()
    for channel in CHANNELS:
        for name in rows[f"FileName_{channel}"]:
            tifffile.imwrite(folder / "images" / name, cells(rng))
    rows.to_csv(folder / "screen.csv", index=False)
    return folder


@pytest.fixture
def copy(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Take the estimate's place, which has tests of its own and builds a network each time."""
    estimate = pd.DataFrame(
        {
            "stage": ["train", "embed"],
            "seconds": [600.0, 20.0],
            "memory_bytes": [10**9, 10**8],
            "disk_bytes": [10**7, 10**6],
        }
    )
    monkeypatch.setattr(cost, "predict", lambda *sizes, **more: estimate)


def set_cell(column, value, row=0):
    return with_rows(
        lambda rows: rows.assign(**{column: rows[column].where(rows.index != row, value)})
    )


def with_rows(change):
    """Plant by a function that returns other rows."""
    return lambda folder, rows: change(rows)


def image(make, row=0, channel="DNA"):
    """Plant a file in place of a field's image."""

    def plant(folder, rows):
        path = folder / "images" / rows.at[row, f"FileName_{channel}"]
        whole = tifffile.imread(path)
        path.unlink()
        make(path, whole)

    return plant


def field(make, row=0):
    def plant(folder, rows):
        for channel in CHANNELS:
            image(make, row, channel)(folder, rows)

    return plant


def text(edit):
    """Plant in the text of the table."""

    def plant(folder, rows):
        lines = rows.to_csv(index=False).splitlines()
        edit(lines)
        return "\n".join(lines) + "\n"

    return plant


def put(wells):
    """Move the fields of plates to wells given by a function of the row."""
    return with_rows(
        lambda rows: rows.assign(Metadata_Well=[wells(row) for row in rows.to_dict("records")])
    )


def move(compound, dose, wells):
    """Put one treatment of every plate into the given wells, P1 first.

    What stood there goes into its place.
    """

    def change(rows):
        for plate, well in zip(("P1", "P2", "P3", "P4"), wells, strict=True):
            here = rows["Metadata_Plate"] == plate
            mine = (
                here
                & (rows["Metadata_Compound"] == compound)
                & (rows["Metadata_Concentration"] == dose)
            )
            other = here & (rows["Metadata_Well"] == well) & ~mine
            old = rows.loc[mine, "Metadata_Well"].iloc[0]
            rows.loc[mine, "Metadata_Well"] = well
            rows.loc[other, "Metadata_Well"] = old
        return rows

    return with_rows(change)


def doses_along(rows):
    columns = {"0.1": "02", "1": "05", "10": "07"}
    mine = rows["Metadata_Compound"] == "drug A"
    rows.loc[mine, "Metadata_Well"] = [
        "H" + columns[dose] for dose in rows.loc[mine, "Metadata_Concentration"]
    ]
    return rows


def drop(mask):
    return with_rows(lambda rows: rows[~mask(rows)].reset_index(drop=True))


def of(rows, compound, dose="1"):
    return (rows["Metadata_Compound"] == compound) & (rows["Metadata_Concentration"] == dose)


def bits(path, whole):
    tifffile.imwrite(path, (whole // 257).astype(np.uint8))


def controls_of_p1(rows):
    """Return which rows are all but one of the controls of plate P1."""
    return (rows["Metadata_Plate"] == "P1") & rows["Metadata_Well"].isin(["D05", "E04"])


# code: (plant, line or None, column) of one finding that must be there
PLANTS = {
    "column-missing": (
        with_rows(lambda rows: rows.drop(columns="Metadata_Site")),
        1,
        "Metadata_Site",
    ),
    "column-twice": (
        with_rows(lambda rows: rows.assign(Image_Metadata_Plate="P")),
        1,
        "Metadata_Plate",
    ),
    "column-reserved": (
        with_rows(lambda rows: rows.assign(Metadata_Treatment="t")),
        1,
        "Metadata_Treatment",
    ),
    "channel-unpaired": (
        with_rows(lambda rows: rows.assign(PathName_ER="images")),
        1,
        "PathName_ER",
    ),
    "channel-count": (
        with_rows(
            lambda rows: rows.assign(
                **{
                    f"{part}Name_{name}": rows[f"{part}Name_DNA"]
                    for name in "cdefg"
                    for part in ("File", "Path")
                }
            )
        ),
        1,
        "",
    ),
    "table-empty": (with_rows(lambda rows: rows.head(0)), 1, ""),
    "row-too-long": (text(lambda lines: lines.__setitem__(4, lines[4] + ",x,y")), 5, ""),
    "row-too-short": (text(lambda lines: lines.__setitem__(6, lines[6].rsplit(",", 3)[0])), 7, ""),
    "cell-empty": (set_cell("Metadata_Plate", " ", 3), 5, "Metadata_Plate"),
    "not-a-count": (set_cell("Metadata_Site", "1.5", 4), 6, "Metadata_Site"),
    "not-a-dose": (set_cell("Metadata_Concentration", "1 mg", 8), 10, "Metadata_Concentration"),
    "not-a-well": (set_cell("Metadata_Well", "2B", 5), 7, "Metadata_Well"),
    "field-twice": (set_cell("Metadata_Site", "1", 1), 3, "plate, well and site"),
    "control-type-unknown": (
        set_cell("Metadata_control_type", "other", 0),
        2,
        "Metadata_control_type",
    ),
    "mechanism-without-compound": (set_cell("Metadata_Compound", "", 8), 10, "Metadata_MoA"),
    "mechanism-ambiguous": (set_cell("Metadata_MoA", "Actin!", 8), 10, "Metadata_MoA"),
    "mechanism-reserved": (set_cell("Metadata_MoA", "negative control", 8), 10, "Metadata_MoA"),
    "file-outside": (set_cell("PathName_DNA", "../../etc", 2), 4, "file of DNA"),
    "file-shared": (
        with_rows(
            lambda rows: rows.assign(
                FileName_DNA=rows["FileName_DNA"].where(rows.index != 1, rows["FileName_DNA"][0])
            )
        ),
        2,
        "file of DNA",
    ),
    "file-missing": (image(lambda path, whole: None, 3), 5, "FileName_DNA"),
    "file-unreadable": (
        image(lambda path, whole: path.write_bytes(b"II*\0" + bytes(300)), 2),
        4,
        "FileName_DNA",
    ),
    "file-unsuitable": (
        image(lambda path, whole: tifffile.imwrite(path, whole.astype(complex)), 2, "Actin"),
        4,
        "FileName_Actin",
    ),
    "image-read-as": (
        image(lambda path, whole: tifffile.imwrite(path, whole, photometric="miniswhite"), 2),
        None,
        "",
    ),
    "values-changed": (
        image(lambda path, whole: tifffile.imwrite(path, whole + 0.25), 2),
        None,
        "",
    ),
    "file-size-differs": (
        image(lambda path, whole: tifffile.imwrite(path, whole[:-1]), 1),
        3,
        "FileName_DNA",
    ),
    "file-bits-differ": (image(bits, 1), 3, "FileName_DNA"),
    "tile-wrong": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_Tile=["0:40,0:40"] * 5 + ["0:40,0:400"] + ["0:40,0:40"] * (len(rows) - 6)
            )
        ),
        7,
        "Metadata_Tile",
    ),
    "field-constant": (
        image(lambda path, whole: tifffile.imwrite(path, np.full_like(whole, 9)), 0),
        2,
        "FileName_DNA",
    ),
    "plate-without-spread": (
        lambda folder, rows: (
            [
                image(lambda path, whole: tifffile.imwrite(path, np.full_like(whole, 9)), row)(
                    folder, rows
                )
                for row in rows.index[rows["Metadata_Plate"] == "P2"]
            ]
            and None
        ),
        32,
        "FileName_DNA",
    ),
    "field-empty": (
        field(lambda path, whole: tifffile.imwrite(path, 300 + whole % 8), 2),
        4,
        "FileName_DNA",
    ),
    "field-saturated": (
        image(
            lambda path, whole: tifffile.imwrite(
                path, np.where(whole > 900, 65_535, whole).astype(np.uint16)
            ),
            2,
            "Actin",
        ),
        4,
        "FileName_Actin",
    ),
    "field-out-of-focus": (
        field(
            lambda path, whole: tifffile.imwrite(path, np.uint16(gaussian_filter(4.0 * whole, 5))),
            6,
        ),
        8,
        "FileName_DNA",
    ),
    "pixels-identical": (
        lambda folder, rows: (
            (folder / "images" / rows.at[9, "FileName_DNA"]).write_bytes(
                (folder / "images" / rows.at[0, "FileName_DNA"]).read_bytes()
            )
            and None
        ),
        11,
        "FileName_DNA",
    ),
    "fields-per-well": (drop(lambda rows: rows.index == 4), 6, "Metadata_Site"),
    "class-of-one-field": (
        drop(lambda rows: of(rows, "drug A") & (rows.index != rows.index[of(rows, "drug A")][1])),
        10,
        "Metadata_Compound",
    ),
    "classes-too-few": (
        drop(lambda rows: (rows["Metadata_Compound"] != "DMSO") & ~of(rows, "drug A")),
        None,
        "Metadata_Compound",
    ),
    "controls-none": (
        drop(lambda rows: rows["Metadata_Compound"] == "DMSO"),
        None,
        "Metadata_control_type",
    ),
    "controls-not-on-plate": (
        drop(lambda rows: (rows["Metadata_Compound"] == "DMSO") & (rows["Metadata_Plate"] == "P1")),
        2,
        "Metadata_control_type",
    ),
    "controls-at-edge": (
        put(
            lambda row: (
                row["Metadata_Well"]
                if row["Metadata_Compound"] != "DMSO"
                else {"C03": "A09", "D05": "B09", "E04": "C01"}[row["Metadata_Well"]]
            )
        ),
        2,
        "Metadata_Well",
    ),
    "treatment-in-one-well": (
        drop(lambda rows: of(rows, "drug A") & (rows["Metadata_Plate"] != "P1")),
        10,
        "Metadata_Well",
    ),
    "treatment-on-one-plate": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_Compound=rows["Metadata_Compound"].mask(controls_of_p1(rows), "drug X"),
                Metadata_control_type=rows["Metadata_control_type"].mask(
                    controls_of_p1(rows), "trt"
                ),
            )
        ),
        4,
        "Metadata_Plate",
    ),
    "treatment-in-one-batch": (
        drop(lambda rows: of(rows, "drug A") & (rows["Metadata_Batch"] == "week 1")),
        10,
        "Metadata_Batch",
    ),
    "mechanism-in-one-batch": (
        drop(lambda rows: (rows["Metadata_MoA"] == "actin") & (rows["Metadata_Batch"] == "week 1")),
        8,
        "Metadata_MoA",
    ),
    "mechanism-of-one-compound": (
        drop(lambda rows: rows["Metadata_Compound"] == "drug B"),
        8,
        "Metadata_MoA",
    ),
    "position-fixed": (move("drug A", "1", ["G07"] * 4), 10, "Metadata_Well"),
    "line-fixed": (move("drug A", "1", ["H02", "H03", "H05", "H07"]), 10, "Metadata_Well"),
    "edge-only": (move("drug A", "1", ["H02", "A03", "B01", "B12"]), 10, "Metadata_Well"),
    "dose-along-line": (with_rows(doses_along), 8, "Metadata_Concentration"),
    "doses-few": (drop(lambda rows: of(rows, "drug A")), 8, "Metadata_Concentration"),
    "replicates-uneven": (
        drop(lambda rows: of(rows, "drug A") & (rows["Metadata_Plate"] == "P4")),
        10,
        "Metadata_Replicate",
    ),
    "control-type-mixed": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_control_type=rows["Metadata_control_type"].mask(
                    of(rows, "drug A") & (rows["Metadata_Plate"] == "P2"), "poscon"
                )
            )
        ),
        10,
        "Metadata_control_type",
    ),
    "plate-in-batches": (set_cell("Metadata_Batch", "week 1", 0), 2, "Metadata_Batch"),
    "names-alike": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_Compound=rows["Metadata_Compound"].replace("drug B", "Drug-A")
            )
        ),
        14,
        "Metadata_Compound",
    ),
    "name-strange": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_Compound=rows["Metadata_Compound"].replace("drug A", "drug\x1b[31m A")
            )
        ),
        8,
        "Metadata_Compound",
    ),
    "compounds-unknown": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_Compound="", Metadata_MoA="", Metadata_Concentration=""
            )
        ),
        None,
        "Metadata_Compound",
    ),
    "doses-unknown": (
        with_rows(lambda rows: rows.drop(columns="Metadata_Concentration")),
        None,
        "Metadata_Concentration",
    ),
    "mechanisms-unknown": (
        with_rows(lambda rows: rows.drop(columns="Metadata_MoA")),
        None,
        "Metadata_MoA",
    ),
    "table-read-as": (
        lambda folder, rows: rows.to_csv(index=False, sep=";"),
        None,
        "",
    ),
    "column-taken": (
        with_rows(lambda rows: rows.rename(columns={"Metadata_MoA": "Metadata_moa"})),
        1,
        "Metadata_moa",
    ),
    "column-left": (
        with_rows(lambda rows: rows.assign(Metadata_pert_iname="x")),
        1,
        "Metadata_pert_iname",
    ),
    "values-missing": (set_cell("Metadata_MoA", "NA", 0), 1, "Metadata_MoA"),
    "values-read": (set_cell("Metadata_Site", "Site 1", 0), 1, "Metadata_Site"),
    "dose-not-taken": (
        with_rows(lambda rows: rows.rename(columns={"Metadata_Concentration": "Metadata_Dose_mg"})),
        1,
        "Metadata_Dose_mg",
    ),
    "control-likely": (
        with_rows(
            lambda rows: rows.assign(
                Metadata_Compound=rows["Metadata_Compound"].replace("DMSO", "vehicle"),
                Metadata_control_type="",
            )
        ),
        2,
        "Metadata_control_type",
    ),
    "control-type-not-taken": (
        with_rows(
            lambda rows: rows.drop(columns="Metadata_control_type").assign(
                Role=rows["Metadata_Compound"].map(
                    lambda name: "dmso" if name == "DMSO" else "blank"
                )
            )
        ),
        1,
        "Role",
    ),
    "batches-unknown": (set_cell("Metadata_Batch", "", 5), 7, "Metadata_Batch"),
    "check-not-made": (with_rows(lambda rows: rows.drop(columns="Metadata_Plate")), None, ""),
}
# planted by the tests named so, below, since another kind of screen or machine is needed
ELSEWHERE = {
    "table-unreadable",
    "annotation-of-nothing",
    "file-of-another-field",
    "layout-wrong",
    "sizes-cut",
    "plate-not-fetched",
    "disk-small",
    "memory-small",
    # What a reader says of how the table is read: test_places.py.
    *("channel-unknown", "channels-left", "planes-open", "planes-taken", "planes-apart"),
    *("time-points", "time-taken", "file-ambiguous", "file-remote", "paths-moved"),
    *("field-incomplete", "field-left-out"),
    *("gene-without-id", "gene-like-date"),  # test_imagehts.py
    "row-twice",  # test_long_table.py
    *("map-unreadable", "map-contradicts", "well-not-in-map", "well-without-image"),
}


def spoil(folder: Path, *plants) -> Path:
    """Plant into the images and the table of a copy.

    A plant returns other rows, the text of the table, or nothing.
    """
    table = clean_rows()
    for plant in plants:
        new = plant(folder, table)
        table = table if new is None else new
    (folder / "screen.csv").write_text(
        table if isinstance(table, str) else table.to_csv(index=False), encoding="utf-8", newline=""
    )
    return folder / "screen.csv"


def examined(folder: Path, *plants):
    """Return the report on a spoiled copy, with all its fields in the sample."""
    return check(str(spoil(folder, *plants)), sample=200)


def found(report) -> set:
    return set(report.frame()["code"])


# ------------------------------------------------------------------------------- codes


def test_a_clean_screen_shows_none_of_the_codes(clean):
    report = check(str(clean / "screen.csv"))
    assert (
        terminal(report).count("Ready") == 1
        and report.frame().empty
        and report.counts() == {"error": 0, "warning": 0, "note": 0}
    )
    assert examine.verdict(report)[0] == "Ready" and "Nothing wrong" in page(report)
    read_loaddata(clean / "screen.csv")


@pytest.mark.parametrize("code", PLANTS)
def test_every_planted_error_is_found_by_its_line(copy, code):
    plant, line, column = PLANTS[code]
    report = examined(copy, plant)
    frame = report.frame()
    mine = frame[frame["code"] == code]
    assert len(mine), terminal(report)
    rows = [None if pd.isna(row) else int(row) for row in mine["row"]]
    assert (line, column) in list(zip(rows, mine["column"], strict=True)), list(
        zip(rows, mine["column"], mine["message"], strict=True)
    )
    assert code in terminal(report) and f'id="{code}"' in page(report)
    assert bool(report.counts()["error"]) == bool(
        stop := stopped(str(copy / "screen.csv"), "", copy / "out")
    ), stop


def test_every_code_has_a_test_that_plants_it():
    table = codes()
    assert set(PLANTS) | ELSEWHERE == set(table["code"]) and not set(PLANTS) & ELSEWHERE
    assert (
        table["code"].is_unique
        and set(table["severity"]) == set(examine.SEVERITIES)
        and (table != "").all(axis=None)
    )


def test_chapters_that_codes_name_exist():
    root = find_root()
    titles = {
        line[2:].strip()
        for path in [*(root / "notebooks").glob("*.md"), *(root / "book").glob("*.md")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("# ")
    }
    assert set(codes()["chapter"]) <= titles


def test_errors_of_all_kinds_come_together_and_good_rows_are_still_checked(copy):
    chosen = [
        "cell-empty",
        "not-a-count",
        "not-a-well",
        "control-type-unknown",
        "mechanism-ambiguous",
        "file-outside",
        "file-size-differs",
    ]
    report = examined(
        copy,
        *(PLANTS[code][0] for code in chosen),
        image(lambda path, whole: None, 5),
        image(lambda path, whole: path.mkdir(), 60),
        image(lambda path, whole: tifffile.imwrite(path, np.full_like(whole, 5)), 70),
    )
    assert found(report) >= {
        *chosen,
        "file-missing",
        "file-unreadable",
        "field-constant",
        "check-not-made",
    }
    frame = report.frame()
    assert list(frame[frame["code"] == "file-missing"]["row"]) == [
        7
    ]  # a row with a bad well: its file is looked for all the same
    assert list(frame[frame["code"] == "file-unreadable"]["row"]) == [62]
    assert any("rows, which have errors" in message for message in frame["message"])
    assert (frame["severity"].map(examine.SEVERITIES.index).diff().dropna() >= 0).all()


def test_beyond_a_limit_problems_are_counted_and_not_listed(copy, monkeypatch):
    monkeypatch.setattr(examine, "KEPT", 5)
    monkeypatch.setattr(tables, "KEPT", 5)
    bad = with_rows(lambda rows: rows.assign(Metadata_Well="2B", PathName_Actin="elsewhere"))
    report = examined(
        copy,
        bad,
        text(lambda lines: lines.__setitem__(slice(1, 9), [line + ",x" for line in lines[1:9]])),
    )
    frame, groups = report.frame(), {group["code"]: group for group in examine.grouped(report)}
    assert {code: groups[code]["n"] for code in ("row-too-long", "not-a-well", "file-missing")} == {
        "row-too-long": 8,
        "not-a-well": 112,
        "file-missing": 112,
    }
    assert report.counts()["error"] == 8 + 2 * 112 and {
        len(frame[frame["code"] == code]) for code in ("row-too-long", "not-a-well", "file-missing")
    } == {6}
    assert (
        frame[frame["code"] == "not-a-well"]["message"]
        .iloc[-1]
        .startswith(f"{copy / 'screen.csv'}, from line 15 on, Metadata_Well, 107 more: '2B' is not")
    )
    assert "not-a-well (112)" in terminal(report) and "... and 109 more" in terminal(report)
    with pytest.raises(InputError, match="232 problems"):
        read_loaddata(copy / "screen.csv")


def test_missing_column_and_bad_cells_are_told_together(copy):
    report = examined(
        copy,
        set_cell("Metadata_Well", "2B", 5),
        PLANTS["column-missing"][0],
        image(lambda path, whole: None, 7),
    )
    assert found(report) >= {"column-missing", "not-a-well", "file-missing"}
    assert any(
        "Metadata_Site is missing" in message
        for message in report.frame().query("code == 'check-not-made'")["message"]
    )


# --------------------------------------------------------------------- other screens


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00ba", b'a,"b\n1'])
def test_table_unreadable(tmp_path, content):
    if content is not None:
        (tmp_path / "screen.csv").write_bytes(content)
    report = check(str(tmp_path / "screen.csv"))
    assert found(report) == {"table-unreadable", "check-not-made"} and not report.command
    assert "Not ready: 1 error of 1 kind" in page(report)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("simulated", ""),
        ("bbbc021", ""),
        ("kimorph", "/nowhere"),
        ("bbbc021", "/nowhere"),
    ],
)
def test_layout_wrong(name, data):
    report = check(name, data)
    assert found(report) == {"layout-wrong", "check-not-made"} and report.counts()["error"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "screen"
    simulated_module.simulate_screen(
        folder, 0, simulated_module.LAYOUTS["tiny"], workers=1, progress=False
    )
    return folder


def test_a_simulated_screen_is_ready_and_its_confounding_is_named(simulated):
    report = check("bbbc021", str(simulated))
    assert report.counts()["error"] == 0
    assert found(report) >= {
        "controls-at-edge",
        "treatment-in-one-batch",
        "position-fixed",
        "control-type-mixed",
        "mechanism-in-one-batch",
    }
    assert not found(report) & {
        "field-out-of-focus",
        "field-empty",
        "field-saturated",
        "pixels-identical",
    }
    assert f"DATA={simulated.resolve()}" in report.command and report.command.startswith(
        "make book SCREEN=bbbc021 "
    )


def test_annotation_of_nothing_and_file_of_another_field_and_plate_not_fetched(simulated, tmp_path):
    folder = Path(shutil.copytree(simulated, tmp_path / "copy"))
    with open(folder / "BBBC021_v1_moa.csv", "a") as handle:
        handle.write("\rnonesuch,1,Actin disruptors")
    table = pd.read_csv(folder / "BBBC021_v1_image.csv", dtype=str, keep_default_na=False)
    gone = table["Image_Metadata_Plate_DAPI"] == table["Image_Metadata_Plate_DAPI"].iloc[-1]
    for name in table.loc[gone, "Image_PathName_DAPI"].unique():
        shutil.rmtree(folder / name)
    table.loc[4, "Image_FileName_DAPI"] = table.loc[4, "Image_FileName_DAPI"].replace("_w1", "_w2")
    table.to_csv(folder / "BBBC021_v1_image.csv", index=False)
    report = check("bbbc021", str(folder))
    assert found(report) >= {
        "annotation-of-nothing",
        "file-of-another-field",
        "plate-not-fetched",
        "controls-at-edge",
    }
    frame = report.frame().drop_duplicates("code").set_index("code")
    assert frame.at["file-of-another-field", "row"] == 6
    assert (
        frame.at["plate-not-fetched", "message"]
        == f"plate {table['Image_Metadata_Plate_DAPI'].iloc[-1]}"
    )


def test_disk_small(clean, monkeypatch):
    monkeypatch.setattr(
        examine.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 0)
    )
    assert found(check(str(clean / "screen.csv"))) == {"disk-small"}


def test_memory_small(clean, monkeypatch):
    monkeypatch.setattr(examine.os, "sysconf", lambda name: 1_000)
    assert found(check(str(clean / "screen.csv"))) == {"memory-small"}


def test_the_estimate_is_that_of_the_recorded_rates(clean, monkeypatch):
    monkeypatch.setattr(cost, "predict", predict)
    report = check(str(clean / "screen.csv"))
    assert list(report.tables["cost"]) == [
        "stage",
        "seconds",
        "memory_bytes",
        "disk_bytes",
    ] and "Estimated: about" in terminal(report)
    assert "train 3 networks" in set(report.tables["cost"]["stage"]) and "simulate" not in set(
        report.tables["cost"]["stage"]
    )
    own = report.tables["cost"]["seconds"].iloc[:-1].sum()
    assert report.tables["cost"]["stage"].iloc[-1] == examine.REST[
        "stage"
    ] and f"Estimated: {examine.duration(own + examine.REST['seconds'])}" in terminal(report)


def test_without_recorded_rates_it_says_so(clean, monkeypatch):
    def absent():
        raise MissingStageError("run make bench first")

    monkeypatch.setattr(cost, "read_bench", absent)
    report = check(str(clean / "screen.csv"))
    assert found(report) == {"check-not-made"} and "run make bench first" in terminal(report)


def test_real_bbbc021(shared_data, tmp_path):
    plate = tmp_path / "Week2" / "Week2_24381"
    plate.mkdir(parents=True)
    for path in (shared_data / "bbbc021" / "metadata").glob("BBBC021_*"):
        shutil.copy(path, tmp_path)
    for path in (shared_data / "bbbc021" / "fields").glob("*.tif"):
        shutil.copy(path, plate)
    report = check("bbbc021", str(tmp_path))
    counts = report.frame()["code"].value_counts()
    assert (
        counts["file-missing"] == 240 * 3 - 8
        and counts["plate-not-fetched"] == 54
        and counts["controls-at-edge"] == 1
    )
    assert not set(counts.index) & {
        "file-unreadable",
        "file-unsuitable",
        "file-size-differs",
        "field-out-of-focus",
        "field-empty",
        "field-saturated",
    }
    assert report.facts["size of a field"] == "1024 x 1280 pixels" and report.facts[
        "sample"
    ].startswith("2 fields")


def test_real_kimorph(shared_data, tmp_path):
    report = check("kimorph", str(shared_data / "kimorph"))
    assert report.counts()["error"] == 0 and report.facts["size of a field"] == "510 x 672 pixels"
    assert found(report) >= {"position-fixed", "batches-unknown", "mechanisms-unknown"}
    folder = Path(shutil.copytree(shared_data / "kimorph", tmp_path / "copy"))
    pictures = sorted(folder.rglob("*.jpeg"))
    pictures[0].unlink()
    pictures[5].write_bytes(pictures[5].read_bytes()[:900])
    Image.open(pictures[9]).crop((0, 0, 1000, 510)).save(pictures[9])
    frame = check("kimorph", str(folder)).frame()
    wrong = {
        code: [Path(file).name for file in part["file"]]
        for code, part in frame[frame["severity"] == "error"].groupby("code")
    }
    # A montage of another width holds the field all the same: the part named lies within it.
    assert set(wrong) == {"file-missing", "file-unreadable"}
    assert wrong["file-missing"] == [pictures[0].name]
    assert pictures[5].name in wrong["file-unreadable"]


# ---------------------------------------------------------------------- hostile names

HOSTILE = [
    "<script>alert(1)</script>",
    "=cmd()",
    "../../etc",
    "\u202egnp.exe",
    "e\u0301" * 40,
    "x" * 10_000,
    "\x1b]0;owned\x07",
    "a&b\"c'd",
    "مركب",
    "{{ 7 * 7 }}",
]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [
            value
            for name, value in attributes
            if name in ("href", "src", "action", "xlink:href") or name.startswith("on")
        ]


def test_hostile_names_are_harmless(copy):
    rows = clean_rows()
    for number, name in enumerate(HOSTILE):
        rows.loc[[8 + 2 * number, 9 + 2 * number], "Metadata_Compound"] = name  # one well each
        rows.loc[60 + number, "Metadata_Batch"] = name
    rows["Metadata_MoA"] = ""
    rows["Metadata_<img src=x onerror=alert(1)>"] = [
        HOSTILE[k % len(HOSTILE)] for k in range(len(rows))
    ]
    rows.loc[[50, 51], "Metadata_Plate"] = "<b>\x1b[2J"
    rows.loc[40, "FileName_DNA"] = "<svg onload=alert(1)>.tif"
    rows.to_csv(copy / "screen.csv", index=False)
    report = check(str(copy / "screen.csv"))
    write(report, copy / "out")
    html = (copy / "out" / "check.html").read_text(encoding="utf-8")
    parser = Tags()
    parser.feed(html)
    assert not {"script", "img", "iframe", "link", "b>"} & set(parser.tags) and all(
        link.startswith("#") for link in parser.links
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and not re.search(
        r"https?://(?!www\.w3\.org)", html
    )
    assert (
        "{{ 7 * 7 }}" in html
        and all(one.isprintable() or one == "\n" for one in html)
        and "x" * 500 not in html
    )
    said = terminal(report)
    assert (
        all(one.isprintable() or one == "\n" for one in said)
        and max(map(len, said.splitlines())) < 600
    )
    raw = (copy / "out" / "check.json").read_bytes()
    assert raw.isascii() and b"\x1b" not in raw
    listed = json.loads(raw)
    assert {"file", "row", "column", "code", "severity", "message", "to_do"} <= set(
        listed[0]
    ) and len(listed) == len(report.problems)
    assert any("x" * 10_000 in one["message"] for one in listed)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m\n", "a\\x1b[31m\\n"),
        ("\u202eabc", "\\u202eabc"),
        ("µM é", "µM é"),
        ("\udcff", "\\udcff"),
        ("y" * 200, "y" * 120 + "… (200 characters)"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


def test_the_command_survives_a_shell_and_make(tmp_path, clean):
    folder = Path(shutil.copytree(clean, tmp_path / "it's $HOME; `id` #1"))
    command = check(str(folder / "screen.csv"), out=folder / "out").command
    (tmp_path / "Makefile").write_text(
        'export SCREEN OUT PARAMS\nbook:\n\t@printf \'%s\\n\' "$$SCREEN" "$$OUT" "$$PARAMS"\n'
    )
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # the tests may run under make themselves
    told = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=plain, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told == [str(folder / "screen.csv"), str(folder / "out"), "reference=plate-percentile"]


# ------------------------------------------------------------------------------ pieces


def test_exit_status_and_files(clean, copy):
    def run(folder):
        code = "import sys; from mcnn_book.__main__ import main; main(sys.argv[1:])"
        screen, out = folder / "screen.csv", copy / "out"
        return child(code, "check", "--screen", screen, "--out", out)

    good = run(clean)
    assert (
        (good.returncode, good.stderr) == (0, "")
        and "make book" in good.stdout
        and json.loads((copy / "out" / "check.json").read_text()) == []
    )
    spoil(copy, PLANTS["file-missing"][0], PLANTS["position-fixed"][0])
    bad = run(copy)
    assert (
        bad.returncode == 1
        and "Not ready: 1 error" in bad.stdout
        and "once the errors are corrected:" in bad.stdout
    )
    assert sorted(path.name for path in (copy / "out").iterdir()) == [
        ".mcnn",
        "check.html",
        "check.json",
    ]


def test_a_surrogate_is_proposed_where_the_book_would_stop(copy):
    report = examined(copy, PLANTS["class-of-one-field"][0])
    assert "SURROGATE=Metadata_Compound " in report.command
    table = report.tables["classes"]
    assert list(table["columns"][:2]) == [
        "Metadata_Compound,Metadata_Concentration",
        "Metadata_Compound",
    ]
    assert list(table["usable"][:2]) == [False, True] and table["single"][0] == 1


def test_candidates_say_what_else_could_be_learnt(clean):
    table = candidates(read_loaddata(clean / "screen.csv").table).set_index("columns")
    assert table.at["Metadata_Compound", "instead"] == "nothing that this table shows"
    assert table.at["Metadata_Plate,Metadata_Well", "instead"].startswith(
        "the batch (100% of classes"
    )
    assert (
        "no biology" in table.at["Metadata_Batch", "instead"]
        and "the answer itself" in table.at["Metadata_MoA", "instead"]
    )


def test_the_sample_is_seeded_and_spread_over_plates(clean):
    table = read_loaddata(clean / "screen.csv").table
    rows = sample_rows(table, 8, 0)
    assert rows == sample_rows(table, 8, 0) != sample_rows(table, 8, 1)
    assert table.loc[rows, "Metadata_Plate"].value_counts().to_dict() == dict.fromkeys(
        ("P1", "P2", "P3", "P4"), 2
    )
    assert len(sample_rows(table, 10_000, 0)) == len(table)


def test_of_small_fields_more_are_sampled_up_to_a_limit(clean, monkeypatch):
    fields = len(read_loaddata(clean / "screen.csv").table)
    monkeypatch.setattr(examine, "SAMPLE", 2)
    assert check(str(clean / "screen.csv"), sample=2).facts["sample"].startswith(f"{fields} fields")
    monkeypatch.setattr(examine, "MOST", 5)
    assert check(str(clean / "screen.csv"), sample=2).facts["sample"].startswith("5 fields")


def test_sharpness_falls_with_blur_and_not_with_brightness():
    sharp = cells(np.random.default_rng(1), (256, 256))
    values = [sharpness(gaussian_filter(sharp.astype(float), sigma)) for sigma in (0, 2, 4, 8)]
    assert values == sorted(values, reverse=True) and values[0] > 5 * values[-1]
    assert sharpness(3 * sharp + 500) == pytest.approx(sharpness(sharp), rel=1e-3) and np.isnan(
        sharpness(np.zeros((9, 9)))
    )


def test_real_fields_out_of_focus_are_found(shared_data):
    fields = [
        tifffile.imread(path)
        for path in sorted((shared_data / "bbbc021" / "fields").glob("*w1*.tif"))
    ]
    sharp = [sharpness(image) for image in fields]
    blurred = [sharpness(gaussian_filter(image.astype(np.float32), 5)) for image in fields]
    assert max(blurred) < min(sharp) / examine.FACTOR and max(sharp) < examine.FACTOR * min(sharp)


@pytest.mark.parametrize(
    ("wells", "size"),
    [(["B02"], (4, 6)), (["H12"], (8, 12)), (["A13"], (16, 24)), (["AF48"], (32, 48))],
)
def test_plates_and_places(wells, size):
    assert plate_format(wells) == size
    assert place("B02") == (1, 1) and place("AF48") == (31, 47)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 seconds"),
        (90, "about 90 seconds"),
        (2_700, "about 45 minutes"),
        (90_000, "about 25 hours"),
    ],
)
def test_durations_promise_two_digits(seconds, words):
    assert duration(seconds) == words
