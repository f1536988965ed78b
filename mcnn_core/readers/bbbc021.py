"""BBBC021 by its own public tables, with their quirks."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mcnn_core.errors import InputError, Problem
from mcnn_core.readers.cells import read_strictly, refuse, treatments_of, wrong_cells
from mcnn_core.readers.loaddata import channels_of, field_table
from mcnn_core.readers.places import finder_of
from mcnn_core.readers.spelling import A_DOSE, is_dose, well
from mcnn_core.screen import Screen

#: BBBC021's channels in our order, each with the filter wheel's number in its file names.
BBBC021_CHANNELS = {"DAPI": 1, "Actin": 4, "Tubulin": 2}


def _find(folder: Path, name: str) -> Path:
    for path in filter(Path.is_file, (folder / name, folder / f"{name}.gz")):
        return path
    raise InputError(
        f"{folder / name} is missing, with and without .gz: name the folder that holds BBBC021, or "
        "fetch it with make data SCREEN=bbbc021 DATA=DIR"
    )


def _annotation(path: Path, treatments: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return the mechanism of each treatment, and a problem per row that annotates none or anew."""
    rows = read_strictly(path)
    missing = [
        Problem(f"column {name} is missing", "column-missing", str(path), 1, name)
        for name in ("compound", "concentration", "moa")
        if name not in rows
    ]
    if missing:
        raise InputError(f"{path}: expected the columns compound, concentration and moa", missing)
    treatment, dose = treatments_of(rows["compound"], rows["concentration"]), rows["concentration"]
    mechanism, known = rows["moa"].str.strip(), treatment != ""
    problems, _ = wrong_cells(
        path,
        {
            ("concentration", "not-a-dose"): (dose, ~is_dose(dose), A_DOSE),
            ("moa", "cell-empty"): (rows["moa"], mechanism == "", "is empty"),
            ("treatment", "annotation-of-nothing"): (
                treatment,
                known & ~treatment.isin(treatments),
                "does not occur in the image table",
            ),
            ("treatment", "mechanism-ambiguous"): (
                treatment,
                known & treatment.duplicated(keep=False),
                "is annotated more than once",
            ),
        },
    )
    return mechanism.set_axis(treatment)[~treatment.duplicated().to_numpy()], problems


def _other_fields(path: Path, rows: pd.DataFrame, site: pd.Series) -> list[Problem]:
    """Return a problem per file whose name is that of another well, site or channel."""
    problems = []
    field = rows["Metadata_Well"].map(well) + "_s" + site
    for channel, wheel in BBBC021_CHANNELS.items():
        column = f"FileName_{channel}"
        for index, name, start in zip(rows.index, rows[column], field, strict=True):
            mark = f"{start}_w{wheel}"
            if mark not in name:
                expected = f"the file of this field and channel (…{mark}….tif)"
                what = f"expected {expected}, got {name!r}"
                where = f"{path}, line {index + 1}, {column}"
                line = int(index) + 1
                problems.append(
                    Problem(f"{where}: {what}", "file-of-another-field", str(path), line, column)
                )
    return problems


def read_bbbc021(
    folder: str | os.PathLike, taxol: str = "ljosa", simulated: bool = False
) -> Screen:
    """Read BBBC021's image and mechanism tables; the images themselves need not be there yet.

    Taxol at 0.3 micromolar is an annotated treatment and also the positive control of every
    plate; `taxol` says which of the two its control wells are.

    Parameters
    ----------
    folder : path
        Holds ``BBBC021_v1_image.csv`` and ``BBBC021_v1_moa.csv`` (or .csv.gz) and the images.
    taxol : {"ljosa", "all"}
        "ljosa" leaves the control wells ``poscon`` without mechanism, as Ljosa et al. 2013 did:
        only the wells D05 of week 1 are ``trt``, and of 632 annotated wells 302 stay. "all" makes
        every well an annotated ``trt``: taxol then is 1,332 of the 2,528 annotated fields.
    simulated : bool
        Whether a simulator wrote this folder.

    Raises
    ------
    InputError
        With every wrong row of both tables.
    """
    screen, problems, _ = examine_bbbc021(folder, taxol, simulated)
    refuse(Path(folder), problems)
    return replace(screen, table=screen.table.reset_index(drop=True))


def examine_bbbc021(
    folder: str | os.PathLike, taxol: str = "ljosa", simulated: bool = False
) -> tuple[Screen, list[Problem], pd.DataFrame]:
    """Read the valid rows of BBBC021's tables and name every problem in the others.

    It does so as `examine_loaddata` does; arguments as for `read_bbbc021`.

    Raises
    ------
    InputError
        If a table is missing, is no table or lacks a column.
    """
    folder = Path(folder)
    if taxol not in ("ljosa", "all"):
        raise InputError(f"taxol: expected 'ljosa' or 'all', got {taxol!r}")
    path = _find(folder, "BBBC021_v1_image.csv")
    rows = read_strictly(path).rename(
        columns={
            "Metadata_Plate_DAPI": "Metadata_Plate",
            "Metadata_Well_DAPI": "Metadata_Well",
            "Replicate": "Metadata_Replicate",
        }
    )
    needed = ("Plate", "Well", "Replicate", "Compound", "Concentration")
    files = [f"FileName_{channel}" for channel in BBBC021_CHANNELS]
    _, wrong = channels_of(path, rows, [*(f"Metadata_{name}" for name in needed), *files])
    if wrong:
        raise InputError(f"{path}: invalid columns in the table of a screen", wrong)
    site = rows["FileName_DAPI"].str.extract(r"_s(\d+)_w1")[0].fillna("")
    problems = _other_fields(path, rows, site)
    treatments = treatments_of(rows["Metadata_Compound"], rows["Metadata_Concentration"])
    mechanism, wrong = _annotation(_find(folder, "BBBC021_v1_moa.csv"), treatments)
    batch = rows["Metadata_Plate"].str.split("_").str[0].astype(str)
    first_week = (batch == "Week1") & (rows["Metadata_Well"].map(well) == "D05")
    positive = (treatments == "taxol | 0.3") & ~first_week & (taxol == "ljosa")
    rows = rows.assign(
        Metadata_Site=site,
        Metadata_Batch=batch,
        Metadata_control_type=positive.map({True: "poscon", False: ""}),
        Metadata_MoA=treatments.map(mechanism).fillna("").mask(positive, ""),
    )
    channels = tuple(BBBC021_CHANNELS)
    table, unfit, paths, home = field_table(path, rows, channels, finder_of(path))
    listed = [problem.row - 1 for problem in problems if problem.row]
    screen = Screen(
        "simulated BBBC021" if simulated else "BBBC021",
        table.drop(index=listed, errors="ignore"),
        channels,
        home,
        simulated,
    )
    return screen, problems + wrong + unfit, paths
