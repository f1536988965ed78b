"""One validated table per screen, one row per field of view.

`read_bbbc021` reads the tables of BBBC021 (Ljosa, Sokolnicki & Carpenter 2012, Nature
Methods 9, 637) and `read_loaddata` any CellProfiler
LoadData CSV. Both give a `Screen` with the same ``Metadata_*`` columns, so that no
later stage knows where the fields came from.
"""

import csv
import io
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from pandera.pandas import Check

from mcnn_core.errors import KEPT, InputError, Problem, count
from mcnn_core.files import atomic, read_json, read_text, write_json, write_table

#: What every table must name, and what names a field.
REQUIRED = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
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
#: Rows of a table that are parsed at a time: while they are, every cell is an object of its own.
ROWS_AT_ONCE = 50_000
#: What tables call the negative controls where they stand beside mechanisms.
CONTROL = "negative control"
#: BBBC021's channels in our order, each with the filter wheel's number in its file names.
BBBC021_CHANNELS = {"DAPI": 1, "Actin": 4, "Tubulin": 2}


@dataclass(frozen=True)
class Screen:
    """A screen: its table, its channels and where its images lie.

    Attributes
    ----------
    name : str
    table : DataFrame
        One row per field of view: ``Metadata_Plate``, ``Metadata_Well`` ("B02"),
        ``Metadata_Site``, ``Metadata_Compound`` ("" unknown), ``Metadata_Concentration``
        (micromolar, NaN unknown), ``Metadata_Treatment``, ``Metadata_MoA`` ("" unannotated),
        ``Metadata_Replicate``, ``Metadata_Batch`` ("" unknown), ``Metadata_control_type``
        (negcon, poscon or trt), ``FileName_<channel>``, ``PathName_<channel>`` (relative to
        `root`), then the columns that travel along.
    channels : tuple of str
    root : Path
        Folder that holds every image.
    simulated : bool
    """

    name: str
    table: pd.DataFrame
    channels: tuple[str, ...]
    root: Path
    simulated: bool


def field_names(table: pd.DataFrame) -> list[str]:
    """Name each field for messages: "plate P, well B02, site 1"."""
    return [
        f"plate {plate}, well {well}, site {site}"
        for plate, well, site in zip(*(table[key] for key in REQUIRED), strict=True)
    ]


def concentration_key(value: float | str) -> str:
    """Return a concentration as decimal text of six significant digits, without exponent.

    Tables of one screen write one dose differently ("0.300000", 0.3, 0.30000000000000004), so
    doses are compared by this text and never as floats. Missing ("" or NaN) gives "".

    Raises
    ------
    InputError
        If `value` is not a finite number from 0 up.
    """
    if str(value).strip().lower() in ("", "nan"):
        return ""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(f"concentration {value!r} is not a number of micromolar, 0 or more")
    return format(Decimal(f"{abs(number):.6g}"), "f")


def _is_dmso(compound: str) -> bool:
    return compound.strip().upper() == "DMSO"


def treatment_key(compound: str, concentration: float | str) -> str:
    """Return the name of a treatment: "compound | 0.3", or "DMSO" at any dose.

    A compound without a concentration is its own treatment; different treatments never share a
    name.
    """
    if _is_dmso(compound):
        return "DMSO"
    key = concentration_key(concentration)
    return f"{compound} | {key}" if key or " | " in compound else compound


def in_words(treatment: str) -> str:
    """Return a treatment as figures write it: "taxol 0.3 µM" for "taxol | 0.3"."""
    return f"{treatment} µM".replace(" | ", " ") if " | " in treatment else treatment


def _well(text: str) -> str:
    """Return "B02" for B2, b02 or B02 (also AF48 of 1,536 wells); "" if it is no well."""
    found = re.fullmatch(r"([A-Z]|A[A-F])0*([1-9]|[1-3]\d|4[0-8])", text.strip().upper(), re.ASCII)
    return f"{found[1]}{int(found[2]):02d}" if found else ""


def _is_dose(text: pd.Series) -> pd.Series:
    number = pd.to_numeric(text.str.strip(), errors="coerce")
    return (text.str.strip() == "") | ((number >= 0) & (number < math.inf))


FILLED = Check(lambda text: text.str.strip() != "", error="is empty")
A_COUNT = Check(
    lambda text: text.str.fullmatch(r"\s*[0-9]{1,15}(\.0*)?\s*"),
    error="is not a whole number, 0 or more",
)
A_DOSE = Check(_is_dose, error="is not a number of micromolar, 0 or more")


def joint_codes(*columns: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Give each row a number by its values, from 0 in the order of first occurrence.

    Return the numbers, and the first row of each. A table of a million rows has few different
    treatments: what is made once per number, and not once per row, costs nothing.
    """
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        new, values = pd.factorize(column, use_na_sentinel=False)
        codes = pd.factorize(codes * len(values) + new)[0]
    return codes, np.flatnonzero(~pd.Series(codes).duplicated())


def _each(values: pd.Series, change: Callable, dtype: type | str = str) -> pd.Series:
    """Return `change` of every value, called once for each different one."""
    codes, first = joint_codes(values)
    return (
        pd.Series([change(value) for value in values.iloc[first]], dtype=dtype)
        .take(codes)
        .set_axis(values.index)
    )


def _treatments(compounds: pd.Series, doses: pd.Series) -> pd.Series:
    """Return the treatment of each row, "" where its dose is no number."""
    codes, first = joint_codes(compounds, doses)
    few = doses.iloc[first]
    names = [
        treatment_key(compound.strip(), dose) if ok else ""
        for compound, dose, ok in zip(compounds.iloc[first], few, _is_dose(few), strict=True)
    ]
    return pd.Series(names, dtype=str).take(codes).set_axis(compounds.index)


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


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


def _listed(
    path: Path, code: str, lines: Sequence[int], say: Callable[[int], str], column: str = ""
) -> list[Problem]:
    """Return a problem per line (by its index), `KEPT` at most.

    One more then stands for all others.
    """
    where = f", {column}" if column else ""
    problems = [
        Problem(
            f"{path}, line {index + 1}{where}: {say(index)}",
            code,
            str(path),
            int(index) + 1,
            column,
        )
        for index in lines[:KEPT]
    ]
    if len(lines) > KEPT:
        first = int(lines[KEPT])
        problems.append(
            Problem(
                f"{path}, from line {first + 1} on{where}, {len(lines) - KEPT:,} more: "
                f"{say(first)}",
                code,
                str(path),
                first + 1,
                column,
                len(lines) - KEPT,
            )
        )
    return problems


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


def _files(rows: pd.DataFrame, channels: tuple[str, ...], base: Path) -> pd.DataFrame:
    """Return the path of every row's image, links followed.

    There is a column per channel, all with the same categories.
    """
    folder: dict[str, str] = {}

    def resolve(path: str, name: str) -> str:
        whole = os.path.join(base, path, name).replace("\0", "\ufffd")
        if (
            not name
            or "/" in name
            or "\0" in path + name
            or name in (".", "..")
            or os.path.islink(whole)
        ):
            return os.path.realpath(whole)
        # os.path.realpath asks the system about every part of a path: once for the folder is
        # enough.
        if path not in folder:
            folder[path] = os.path.realpath(os.path.join(base, path))
        return os.path.join(folder[path], name)

    numbers: dict[str, np.ndarray] = {}
    paths: list[str] = []
    for channel in channels:
        pair = rows[f"PathName_{channel}"], rows[f"FileName_{channel}"]
        codes, first = joint_codes(*pair)
        numbers[channel] = codes + len(paths)
        paths += [
            resolve(*parts) for parts in zip(*(part.iloc[first] for part in pair), strict=True)
        ]
    codes, names = pd.factorize(pd.array(paths, dtype=str))
    return pd.DataFrame(
        {
            channel: pd.Categorical.from_codes(codes[number], names)
            for channel, number in numbers.items()
        },
        rows.index,
    )


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


def fetched(screen: Screen) -> tuple[Screen, list[str]]:
    """Return the plates of a screen that have been fetched, and the names of the others.

    A plate that has none of its images is not fetched; one that lacks some stays, and
    `mcnn_core.images.check_headers` names them.

    Raises
    ------
    InputError
        If no plate is there.
    """
    table = screen.table
    there = {
        plate
        for channel in screen.channels
        for plate, *parts in zip(
            table["Metadata_Plate"],
            table[f"PathName_{channel}"],
            table[f"FileName_{channel}"],
            strict=True,
        )
        if os.path.isfile(os.path.join(screen.root, *parts))
    }
    if not there:
        raise InputError(
            f"{screen.root} holds no image of {screen.name}: fetch plates with make data "
            "SCREEN=bbbc021 DATA=DIR"
        )
    kept = table[table["Metadata_Plate"].isin(there)].reset_index(drop=True)
    return replace(screen, table=kept), sorted(set(table["Metadata_Plate"]) - there)


def save_screen(screen: Screen, out: str | os.PathLike) -> None:
    """Write ``fields.parquet`` and ``screen.json`` into the folder `out`.

    Row i of ``fields.parquet`` is row i of the store. Images that lie below `out` are named
    relative to it, so that a copy of the folder reads its own.
    """
    root, home = Path(os.path.realpath(screen.root)), Path(os.path.realpath(out))
    root = root.relative_to(home) if root.is_relative_to(home) else screen.root
    write_table(Path(out) / "fields.parquet", screen.table)
    write_json(
        Path(out) / "screen.json",
        {
            "name": screen.name,
            "simulated": screen.simulated,
            "channels": list(screen.channels),
            "root": str(root),
            "n_fields": len(screen.table),
        },
    )


def copy_fields(screen: Screen, folder: str | os.PathLike, rows: Sequence[int]) -> Path:
    """Write some fields of a screen as a small screen of its own.

    Return the path of its LoadData table.

    Parameters
    ----------
    folder : path
        Receives ``example.csv`` and a copy of each image in ``images``: absent, empty, or one that
        this function has made.
    rows : sequence of int
        Rows of the table.

    Returns
    -------
    Path
        What `read_loaddata` reads, with the same ``Metadata_*`` columns.
    """
    table = screen.table.iloc[list(rows)].drop(columns="Metadata_Treatment")
    with atomic(folder, "copy of fields") as temporary:
        (temporary / "images").mkdir(parents=True)
        for number, channel in enumerate(screen.channels, 1):
            places = (
                table[[f"PathName_{channel}", f"FileName_{channel}"]]
                .agg("/".join, axis=1)
                .str.lstrip("/")
            )
            names = {
                place: f"{n:03d}_channel{number}{Path(place).suffix}"
                for n, place in enumerate(dict.fromkeys(places), 1)
            }
            for place, name in names.items():
                shutil.copyfile(screen.root / place, temporary / "images" / name)
            table = table.assign(
                **{f"FileName_{channel}": places.map(names), f"PathName_{channel}": "images"}
            )
        table.to_csv(temporary / "example.csv", index=False)
    return Path(folder) / "example.csv"


def load_screen(out: str | os.PathLike) -> Screen:
    """Read what `save_screen` wrote."""
    facts, table = (
        read_json(Path(out) / "screen.json"),
        pd.read_parquet(Path(out) / "fields.parquet"),
    )
    if len(table) != facts["n_fields"]:
        raise InputError(
            f"{out}: fields.parquet has {len(table)} rows and screen.json says "
            f"{facts['n_fields']}: read the screen again"
        )
    return Screen(
        facts["name"],
        table,
        tuple(facts["channels"]),
        Path(os.path.realpath(out)) / facts["root"],
        facts["simulated"],
    )


def summary(table: pd.DataFrame) -> dict[str, int]:
    """Count a screen; ``n_annotated`` counts treatments.

    DMSO counts as a compound and a treatment, and is never annotated.
    """
    annotated, negative = (
        table[table["Metadata_MoA"] != ""],
        table[table["Metadata_control_type"] == "negcon"],
    )

    def wells(rows: pd.DataFrame) -> int:
        return len(rows[["Metadata_Plate", "Metadata_Well"]].drop_duplicates())

    return {
        "n_fields": len(table),
        "n_wells": wells(table),
        "n_annotated_fields": len(annotated),
        "n_annotated_wells": wells(annotated),
        "n_negative_wells": wells(negative),
        **{
            f"n_{name}": table[f"Metadata_{column}"].replace("", pd.NA).nunique()
            for name, column in (
                ("plates", "Plate"),
                ("batches", "Batch"),
                ("compounds", "Compound"),
                ("treatments", "Treatment"),
            )
        },
        **{
            f"n_{name}": annotated[f"Metadata_{column}"].nunique()
            for name, column in (
                ("annotated", "Treatment"),
                ("annotated_compounds", "Compound"),
                ("mechanisms", "MoA"),
            )
        },
    }
