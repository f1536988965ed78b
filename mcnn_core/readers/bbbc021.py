"""BBBC021 by its own public tables, with their quirks."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
from pandera.pandas import Check

from mcnn_core.errors import InputError, Problem
from mcnn_core.readers.loaddata import (
    A_DOSE,
    FILLED,
    _channels,
    _problems,
    _read_csv,
    _refuse,
    _table,
    _treatments,
)
from mcnn_core.screen import Screen, _well

#: BBBC021's channels in our order, each with the filter wheel's number in its file names.
BBBC021_CHANNELS = {"DAPI": 1, "Actin": 4, "Tubulin": 2}


def _find(folder: Path, name: str) -> Path:
    for path in filter(Path.is_file, (folder / name, folder / f"{name}.gz")):
        return path
    raise InputError(
        f"{folder / name} is missing (also as .gz): give the folder that holds BBBC021; make data "
        "SCREEN=bbbc021 DATA=DIR fetches it"
    )


def _annotation(path: Path, treatments: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return the mechanism of each treatment, and the problems of the annotation.

    There is one problem per row that annotates nothing or anew.
    """
    rows = _read_csv(path)
    missing = [
        Problem(f"column {name} is missing", "column-missing", str(path), 1, name)
        for name in ("compound", "concentration", "moa")
        if name not in rows
    ]
    if missing:
        raise InputError(
            f"{path}: an annotation has the columns compound, concentration, moa", missing
        )
    checked = rows.assign(treatment=_treatments(rows["compound"], rows["concentration"]))
    problems, _ = _problems(
        path,
        checked,
        {
            "concentration": [("not-a-dose", A_DOSE)],
            "moa": [("cell-empty", FILLED)],
            "treatment": [
                (
                    "annotation-of-nothing",
                    Check(
                        lambda text: text.isin(treatments) | (text == ""),
                        error="does not occur in the image table",
                    ),
                ),
                (
                    "mechanism-ambiguous",
                    Check(
                        lambda text: ~text.duplicated(keep=False) | (text == ""),
                        error="is annotated more than once",
                    ),
                ),
            ],
        },
    )
    return checked.drop_duplicates("treatment").set_index("treatment")["moa"].str.strip(), problems


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
    _refuse(Path(folder), problems)
    return replace(screen, table=screen.table.reset_index(drop=True))


def examine_bbbc021(
    folder: str | os.PathLike, taxol: str = "ljosa", simulated: bool = False
) -> tuple[Screen, list[Problem], pd.DataFrame]:
    """Read what is right in BBBC021's tables and name all the rest.

    It does so as `examine_loaddata` does; arguments as for `read_bbbc021`.

    Raises
    ------
    InputError
        If a table is missing, is no table or lacks a column.
    """
    folder = Path(folder)
    if taxol not in ("ljosa", "all"):
        raise InputError(f"taxol={taxol!r}: choose 'ljosa' or 'all'")
    path = _find(folder, "BBBC021_v1_image.csv")
    rows = _read_csv(path).rename(
        columns={
            "Metadata_Plate_DAPI": "Metadata_Plate",
            "Metadata_Well_DAPI": "Metadata_Well",
            "Replicate": "Metadata_Replicate",
        }
    )
    files = [f"FileName_{channel}" for channel in BBBC021_CHANNELS]
    _channels(
        path,
        rows,
        [
            "Metadata_Plate",
            "Metadata_Well",
            "Metadata_Replicate",
            "Metadata_Compound",
            "Metadata_Concentration",
            *files,
        ],
    )
    well = rows["Metadata_Well"].map(_well)
    site = rows["FileName_DAPI"].str.extract(r"_s(\d+)_w1")[0].fillna("")
    mark = {
        channel: pd.Series(
            [f"{name}_s{number}_w{wheel}" for name, number in zip(well, site, strict=True)],
            rows.index,
        )
        for channel, wheel in BBBC021_CHANNELS.items()
    }
    problems = [
        Problem(
            f"{path}, line {index + 1}, FileName_{channel}: {name!r} is not this field in this "
            f"channel (…{mark[channel][index]}….tif)",
            "file-of-another-field",
            str(path),
            index + 1,
            f"FileName_{channel}",
        )
        for channel in BBBC021_CHANNELS
        for index, name in rows[f"FileName_{channel}"].items()
        if mark[channel][index] not in name
    ]
    treatments = _treatments(rows["Metadata_Compound"], rows["Metadata_Concentration"])
    mechanism, wrong = _annotation(_find(folder, "BBBC021_v1_moa.csv"), treatments)
    batch = rows["Metadata_Plate"].str.split("_").str[0].astype(str)
    positive = (
        (treatments == "taxol | 0.3") & ~((batch == "Week1") & (well == "D05")) & (taxol == "ljosa")
    )
    rows = rows.assign(
        Metadata_Site=site,
        Metadata_Batch=batch,
        Metadata_control_type=positive.map({True: "poscon", False: ""}),
        Metadata_MoA=treatments.map(mechanism).fillna("").mask(positive, ""),
    )
    table, unfit, files = _table(
        path, rows, tuple(BBBC021_CHANNELS), folder, folder, must_exist=False
    )
    listed = [problem.row - 1 for problem in problems if problem.row]
    table = table.drop(index=listed, errors="ignore")
    name = "simulated BBBC021" if simulated else "BBBC021"
    return (
        Screen(name, table, tuple(BBBC021_CHANNELS), Path(os.path.realpath(folder)), simulated),
        problems + wrong + unfit,
        files,
    )
