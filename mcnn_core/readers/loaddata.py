"""Any screen, by a CellProfiler LoadData table."""

import csv
import io
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pandera.pandas import Check

from mcnn_core.errors import InputError, Problem, count
from mcnn_core.machine.files import read_text
from mcnn_core.screen import (
    CONTROL,
    REQUIRED,
    ROWS_AT_ONCE,
    Screen,
    _each,
    _files,
    _is_dmso,
    _listed,
    _well,
    concentration_key,
    joint_codes,
    repeated,
    treatment_key,
)

#: Columns every table has, with what stands in where a LoadData file lacks one.
DEFAULTS = {
    "Metadata_Compound": "",
    "Metadata_Concentration": "",
    "Metadata_MoA": "",
    "Metadata_Replicate": "1",
    "Metadata_Batch": "",
    "Metadata_control_type": "",
}


CONTROL_TYPES = ("negcon", "poscon", "trt")


MAX_CHANNELS, MAX_COLUMNS = 6, 5_000


def _is_dose(text: pd.Series) -> pd.Series:
    number = pd.to_numeric(text.str.strip(), errors="coerce")
    return (text.str.strip() == "") | ((number >= 0) & (number < math.inf))


FILLED = Check(lambda text: text.str.strip() != "", error="is empty")


A_COUNT = Check(
    lambda text: text.str.fullmatch(r"\s*[0-9]{1,15}(\.0*)?\s*"),
    error="is not a whole number, 0 or more",
)


A_DOSE = Check(_is_dose, error="is not a number of micromolar, 0 or more")


def _treatments(compounds: pd.Series, doses: pd.Series) -> pd.Series:
    """Return the treatment of each row, "" where its dose is no number."""
    codes, first = joint_codes(compounds, doses)
    few = doses.iloc[first]
    names = [
        treatment_key(compound.strip(), dose) if ok else ""
        for compound, dose, ok in zip(compounds.iloc[first], few, _is_dose(few), strict=True)
    ]
    return pd.Series(names, dtype=str).take(codes).set_axis(compounds.index)


def _rows(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read a CSV (also .gz, also CR line ends) as text; row with index k is line k + 1 of the file.

    Lines with more or fewer cells than the header are left out and named.
    """
    mark = "\0too long"
    try:
        # Decoded bit by bit: io.StringIO would hold four bytes for each character.
        text = io.TextIOWrapper(io.BytesIO(read_text(path).encode()), "utf-8", newline="")
        if len(next(csv.reader(text), ())) > MAX_COLUMNS:  # pandas takes minutes for 100,000
            raise ValueError(f"more than {MAX_COLUMNS:,} columns")
        text.seek(0)
        # The slower parser: it tells a line that ends early from one with empty cells, and hands
        # over every line that is too long.
        with pd.read_csv(
            text,
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            engine="python",
            on_bad_lines=lambda line: [mark],
            chunksize=ROWS_AT_ONCE,
        ) as parts:
            cells = pd.concat(parts)
        if cells.empty:
            raise ValueError("it has no header")
    except (ValueError, csv.Error) as error:
        what = f"{path} is not a readable CSV table in UTF-8: {error}"
        raise InputError(what, [Problem(str(error), "table-unreadable", str(path))]) from error
    long = cells.index[cells[0] == mark]
    absent = cells.isna()
    short = cells.index[absent.any(axis=1) & ~absent.all(axis=1)].difference(long)
    cells = cells.fillna("")
    names = [
        re.sub(r"^Image_(?=(FileName|PathName|Metadata)_)", "", name.strip())
        for name in cells.iloc[0]
    ]
    problems = [
        Problem(
            f"{path}, line 1, column {name!r} occurs twice: "
            "every column once (with or without Image_) is right",
            "column-twice",
            str(path),
            1,
            name,
        )
        for name in repeated(names)
    ]
    problems += _listed(
        path,
        "row-too-long",
        long,
        lambda index: (
            f"more cells than the {len(names)} of the header: put text with a comma in quotes"
        ),
    )
    problems += _listed(
        path,
        "row-too-short",
        short,
        lambda index: f"fewer cells than the {len(names)} of the header",
    )
    rows = (
        cells.iloc[1:]
        .drop(index=[*long, *short])
        .set_axis(names, axis=1)
        .loc[:, ~pd.Index(names).duplicated()]
    )
    return rows[(rows != "").any(axis=1)], problems


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV as `_rows` does, and refuse it where its columns or cells do not fit.

    So it is where a column occurs twice or a line has other cells than the header.
    """
    rows, problems = _rows(path)
    if problems:
        raise InputError(
            f"{path}: every column once, and as many cells in every line as in the header", problems
        )
    return rows


def _columns(
    path: Path, rows: pd.DataFrame, required: list[str]
) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the usable channels, and everything that is wrong in the header."""
    named = {
        part: [name[9:] for name in rows if name.startswith(f"{part}Name_") and name[9:]]
        for part in ("File", "Path")
    }
    wrong = [
        ("column-missing", name, f"column {name} is missing")
        for name in required
        if name not in rows
    ]
    for part, other in (("File", "Path"), ("Path", "File")):
        wrong += [
            (
                "channel-unpaired",
                f"{part}Name_{channel}",
                f"channel {channel!r} has {part}Name_{channel} but no {other}Name_{channel}",
            )
            for channel in named[part]
            if channel not in named[other]
        ]
    if not 1 <= len(named["File"]) <= MAX_CHANNELS:
        wrong.append(
            (
                "channel-count",
                "",
                f"{len(named['File'])} channels (FileName_<channel> columns), "
                f"1 to {MAX_CHANNELS} are right",
            )
        )
    if "Metadata_Treatment" in rows:
        wrong.append(
            (
                "column-reserved",
                "Metadata_Treatment",
                "column Metadata_Treatment is made from compound and concentration: give it "
                "another name",
            )
        )
    if rows.empty:
        wrong.append(("table-empty", "", "there is no row below the header"))
    channels = tuple(channel for channel in named["File"] if channel in named["Path"])[
        :MAX_CHANNELS
    ]
    return channels, [Problem(text, code, str(path), 1, column) for code, column, text in wrong]


def _channels(path: Path, rows: pd.DataFrame, required: list[str]) -> tuple[str, ...]:
    """Return the channel names, or refuse the header with everything that is wrong in it."""
    channels, problems = _columns(path, rows, required)
    if problems:
        raise InputError(f"{path}: the columns of this table are not those of a screen", problems)
    return channels


def _problems(
    path: Path, checked: pd.DataFrame, schema: dict[str, list[tuple[str, Check]]]
) -> tuple[list[Problem], np.ndarray]:
    """Name every bad cell, by line and then by column: "file, line, column: value is not ...".

    Return also which rows are wrong. Each check comes with its code.
    """
    problems, wrong = [], np.zeros(len(checked), bool)
    for column, checks in schema.items():
        values = checked[column]
        for code, check in checks:
            bad = ~check(values).check_output.to_numpy(bool)
            wrong |= bad

            def say(index: int, values: pd.Series = values, check: Check = check) -> str:
                return f"{str(values[index])!r} {check.error}"

            problems += _listed(path, code, checked.index[bad], say, column)
    return sorted(problems, key=lambda problem: problem.row or 0), wrong


def _table(
    path: Path,
    rows: pd.DataFrame,
    channels: tuple[str, ...],
    root: Path,
    base: Path,
    must_exist: bool,
) -> tuple[pd.DataFrame, list[Problem], pd.DataFrame]:
    """Check the rows of `path`, text in every column.

    Return the right ones typed and normalised, every problem, and every row's files. Image paths
    are resolved against `base`, links followed, and must stay inside `root`. Where a column of
    `REQUIRED` is missing, text stands in for it and is not checked. The index is the line in the
    file less one.
    """
    missing = [name for name in REQUIRED if name not in rows]
    places = {
        "Metadata_Plate": "not named",
        "Metadata_Well": "A01",
        "Metadata_Site": [str(index) for index in rows.index],
    }
    rows = rows.assign(
        **{name: value for name, value in DEFAULTS.items() if name not in rows},
        **{name: places[name] for name in missing},
    )
    compound, moa, control = (
        rows[f"Metadata_{name}"].str.strip() for name in ("Compound", "MoA", "control_type")
    )
    dmso = _each(compound, _is_dmso, bool)
    control = control.where(control != "", dmso.map({True: "negcon", False: "trt"}))
    moa = moa.where(control != "negcon", "")
    treatment = _treatments(compound, rows["Metadata_Concentration"])
    annotations = moa[moa != ""].groupby(treatment).nunique()
    wells = _each(rows["Metadata_Well"], _well)

    home = os.path.realpath(root)
    inside = os.path.join(home, "")
    files = _files(rows, channels, base)
    names, codes = (
        files.iloc[:, 0].cat.categories,
        np.column_stack([files[channel].cat.codes for channel in channels]).astype(np.int64),
    )
    within = pd.DataFrame(names.str.startswith(inside)[codes], rows.index, list(channels))
    tile = rows.get("Metadata_Tile", pd.Series("", rows.index)).str.strip()
    kinds, first = joint_codes(tile)
    twice = pd.Series((codes * len(first) + kinds[:, None]).ravel()).duplicated(keep=False)
    twice = pd.DataFrame(twice.to_numpy().reshape(codes.shape), rows.index, list(channels))
    schema = {
        "Metadata_Plate": [("cell-empty", FILLED)],
        "Metadata_Site": [("not-a-count", A_COUNT)],
        "Metadata_Replicate": [("not-a-count", A_COUNT)],
        "Metadata_Concentration": [("not-a-dose", A_DOSE)],
        "Metadata_Well": [
            (
                "not-a-well",
                Check(
                    lambda text: wells != "",
                    error="is not a well: a row letter and a column, as in B02",
                ),
            )
        ],
        "plate, well and site": [
            (
                "field-twice",
                Check(lambda text: ~text.duplicated(keep=False), error="occurs more than once"),
            )
        ],
        "Metadata_control_type": [
            (
                "control-type-unknown",
                Check.isin(CONTROL_TYPES, error=f"is not one of {', '.join(CONTROL_TYPES)}"),
            )
        ],
        "Metadata_MoA": [
            (
                "mechanism-without-compound",
                Check(
                    lambda text: (moa == "") | (compound != ""),
                    error="annotates no compound: name it in Metadata_Compound",
                ),
            ),
            (
                "mechanism-ambiguous",
                Check(
                    lambda text: (moa == "") | ~treatment.isin(annotations.index[annotations > 1]),
                    error="is one of several for this treatment",
                ),
            ),
            (
                "mechanism-reserved",
                Check(
                    lambda text: moa.str.lower() != CONTROL,
                    error="is no mechanism: mark such wells negcon in Metadata_control_type",
                ),
            ),
        ],
    }
    for channel in channels:
        schema[f"FileName_{channel}"] = [("cell-empty", FILLED)]
        schema[f"file of {channel}"] = [
            (
                "file-outside",
                Check(
                    lambda text, channel=channel: within[channel],
                    error=f"lies outside the data root {home}",
                ),
            ),
            (
                "file-shared",
                Check(
                    lambda text, channel=channel: ~twice[channel],
                    error="is named more than once: one file, or one Metadata_Tile of it, "
                    "per field and channel",
                ),
            ),
        ]
        if must_exist:
            schema[f"file of {channel}"].append(
                (
                    "file-missing",
                    Check(
                        lambda text, channel=channel: (
                            _each(text, os.path.isfile, bool) | ~within[channel]
                        ),
                        error="does not exist",
                    ),
                )
            )
    for name in [*missing, *(["plate, well and site"] if missing else [])]:
        del schema[name]
    checked = rows.assign(
        Metadata_control_type=control,
        **{f"file of {channel}": files[channel] for channel in channels},
    )
    site = _each(rows["Metadata_Site"], lambda text: re.sub(r"^0+(?=\d)|\.0*$", "", text.strip()))
    checked["plate, well and site"] = (
        rows["Metadata_Plate"].str.strip()
        + " "
        + wells.where(wells != "", rows["Metadata_Well"])
        + " site "
        + site
    )
    problems, wrong = _problems(path, checked, schema)
    del checked
    named = rows[[f"FileName_{channel}" for channel in channels]].ne("").to_numpy()
    usable = files.where(within & named)
    rows, site, compound, moa, control, treatment, wells, files, dmso = (
        part[~wrong] for part in (rows, site, compound, moa, control, treatment, wells, files, dmso)
    )

    dose = pd.to_numeric(_each(rows["Metadata_Concentration"], concentration_key))
    known = {
        "Metadata_Plate": rows["Metadata_Plate"].str.strip(),
        "Metadata_Well": wells,
        "Metadata_Site": _each(site, int, "int64"),
        "Metadata_Compound": compound,
        "Metadata_Concentration": dose.mask(dmso & dose.isna(), 0.0),
        "Metadata_Treatment": treatment,
        "Metadata_MoA": moa,
        "Metadata_Replicate": _each(
            rows["Metadata_Replicate"], lambda text: int(float(text)), "int64"
        ),
        "Metadata_Batch": rows["Metadata_Batch"].str.strip(),
        "Metadata_control_type": control,
    }
    for channel in channels:
        for part, split in (("File", os.path.basename), ("Path", os.path.dirname)):
            known[f"{part}Name_{channel}"] = _each(
                files[channel], lambda name, split=split: split(name[len(inside) :])
            )
    others = rows.drop(columns=[name for name in rows if name in known])
    return pd.concat([pd.DataFrame(known, index=rows.index), others], axis=1), problems, usable


def _refuse(path: Path, problems: list[Problem]) -> None:
    if problems:
        raise InputError(f"{path}: {count(problems)} problems in the table of the screen", problems)


def read_loaddata(csv_path: str | os.PathLike, root: str | os.PathLike | None = None) -> Screen:
    """Read a CellProfiler LoadData table (.csv or .csv.gz) of any screen.

    Parameters
    ----------
    csv_path : path
        ``FileName_<channel>`` and ``PathName_<channel>`` for 1 to 6 channels, ``Metadata_Plate``,
        ``Metadata_Well``, ``Metadata_Site`` (each with or without ``Image_`` before it). Known when
        present: ``Metadata_Compound``, ``Metadata_Concentration`` (micromolar), ``Metadata_MoA``,
        ``Metadata_Replicate``, ``Metadata_Batch``, ``Metadata_control_type`` (where absent or
        empty, compound DMSO is negcon and the rest trt). A negative control is never annotated.
    root : path, optional
        Folder that must hold every image; the folder of `csv_path` by default. Relative paths are
        resolved against the CSV, absolute ones taken as they are; neither may leave `root`, by
        ``..`` or by a link.

    Raises
    ------
    InputError
        With every wrong column, or every wrong cell and its line.
    """
    screen, problems, _ = examine_loaddata(csv_path, root, must_exist=True)
    _refuse(Path(csv_path), problems)
    return replace(screen, table=screen.table.reset_index(drop=True))


def examine_loaddata(
    csv_path: str | os.PathLike, root: str | os.PathLike | None = None, must_exist: bool = False
) -> tuple[Screen, list[Problem], pd.DataFrame]:
    """Read what is right in a LoadData table and name all the rest.

    Parameters
    ----------
    csv_path, root
        As for `read_loaddata`.
    must_exist : bool
        Whether a row whose images do not exist is wrong.

    Returns
    -------
    screen : Screen
        Of the rows without a problem; the index of its table is the line in the file less one.
        Where a column of `REQUIRED` is missing, its values are stand-ins.
    problems : list of Problem
    files : DataFrame
        Path of every row's image, wrong rows too, one column per channel and the same index;
        missing where it is empty or outside the root. All columns are categorical, with the same
        categories.

    Raises
    ------
    InputError
        If it is no table, has no row or no channel with both its columns.
    """
    path = Path(csv_path)
    rows, problems = _rows(path)
    channels, wrong = _columns(path, rows, REQUIRED)
    problems += wrong
    if rows.empty or not channels:
        _refuse(path, problems)
    root = path.parent if root is None else Path(root)
    table, wrong, files = _table(path, rows, channels, root, path.parent, must_exist)
    screen = Screen(
        path.name.removesuffix(".gz").removesuffix(".csv"),
        table,
        channels,
        Path(os.path.realpath(root)),
        False,
    )
    return screen, problems + wrong, files
