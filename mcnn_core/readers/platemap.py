"""A plate map: a second table that says what each well holds."""

import re
from pathlib import Path

import pandas as pd

from mcnn_core.columns import mapped
from mcnn_core.errors import InputError, Problem
from mcnn_core.readers.drawn import drawn_plates
from mcnn_core.readers.spelling import (
    A_DOSE,
    COLUMN,
    ROW,
    SPELLINGS,
    canonical,
    control_type,
    is_dose,
    key,
    micromolar,
    note,
    vehicle,
    well,
)
from mcnn_core.readers.tables import read_cells, read_sheets
from mcnn_core.screen import concentration_key

PLATE, WELL = "Metadata_Plate", "Metadata_Well"


#: How cells of known columns are compared, where the table has them too.
ALIKE = {
    "Metadata_Compound": vehicle,
    "Metadata_control_type": control_type,
    "Metadata_Concentration": lambda text: _dose(micromolar(text)),
}


def _dose(text: str) -> str:
    try:
        return concentration_key(text)
    except InputError:
        return text


def with_platemap(
    path: Path, rows: pd.DataFrame, platemap: Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """Join what a plate map says of each well to the rows of a table.

    Parameters
    ----------
    path : Path
        The table, for messages.
    rows : DataFrame
        Text cells under the names of `mcnn_core.readers.spelling.canonical`.
    platemap : Path
        Any table file: a well, what it holds, and a plate where plates differ. Without a plate the
        map holds for all of them. Column names are spelt in any way that a screen's table may.

    Returns
    -------
    rows : DataFrame
        Cells that are empty, and columns that are not there, are filled by the map.
    problems : list of Problem
        Errors where the map lacks wells, names one twice with different contents, knows none of a
        plate's wells or contradicts the table; warnings and notes for wells of one alone.
    """
    plates, problems = read_platemap(platemap)
    if any(one.severity == "error" for one in problems) or not {PLATE, WELL} <= {*rows}:
        return rows, problems
    where = pd.DataFrame(
        {PLATE: rows[PLATE].str.strip(), WELL: mapped(rows[WELL], well)}, index=rows.index
    )
    by = [PLATE, WELL] if PLATE in plates else [WELL]
    if PLATE in plates:
        where[PLATE] = _plates_alike(where[PLATE], plates[PLATE])
    joined = where.reset_index(names="line").merge(plates, how="left", on=by, indicator=True)
    joined = joined.set_index("line").loc[rows.index]
    known = joined.pop("_merge") == "both"
    problems += _unmatched(path, platemap, where, known, plates)
    for column in plates.columns.difference([PLATE, WELL], sort=False):
        cells = joined[column].fillna("")
        if column not in rows:
            rows = rows.assign(**{column: cells})
            continue
        problems += _contradictions(path, column, rows[column], cells)
        rows = rows.assign(**{column: rows[column].where(rows[column].str.strip() != "", cells)})
    return rows, problems


def read_platemap(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Read a plate map: a row per well, known columns under our names; and what is said of it."""
    rows, problems = drawn_plates(path, read_sheets(path)) or read_cells(path)
    rows, taken = canonical(path, rows.loc[:, ~rows.columns.duplicated()])
    problems += taken
    if WELL not in rows:
        text = f"{path}, line 1: expected a column of wells, got {', '.join(rows.columns[:8])}"
        problems.append(Problem(text, "map-unreadable", str(path), 1))
        return rows, problems
    written = rows[WELL]
    rows = rows.assign(**{WELL: mapped(written, well)})
    for line, text in written[rows[WELL] == ""].items():
        what = f"{path}, line {line + 1}, {WELL}: {text!r} is not a well, as B02 is"
        problems.append(Problem(what, "not-a-well", str(path), int(line) + 1, WELL))
    if PLATE in rows:
        rows[PLATE] = rows[PLATE].str.strip()
    names = {one: one if one.startswith("Metadata_") else f"Metadata_{one.strip()}" for one in rows}
    rows = rows.rename(columns=names).drop(columns="Metadata_Site", errors="ignore")
    rows, more = _once(path, rows)
    return rows, problems + more + _nothing_known(path, rows) + _wrong_doses(path, rows)


def _once(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Keep one row of each well, by the sheets of plates if need be; two contents are an error."""
    problems = []
    if "Metadata_Sheet" in rows:
        sheets = rows["Metadata_Sheet"].str.strip()
        rows = rows.drop(columns="Metadata_Sheet")
        if PLATE not in rows and _different(rows)[WELL].duplicated().any():
            rows = rows.assign(**{PLATE: sheets})
            text = "its sheets are those of plates, as their names say"
            problems.append(note(path, text, "table-read-as"))
    rows = _different(rows)
    by = [name for name in (PLATE, WELL) if name in rows]
    twice = rows.duplicated(by, keep=False) & (rows[WELL] != "")
    for line, *place in rows.loc[twice, by].itertuples():
        what = f"{path}, line {line + 1}: well {' '.join(place)} is named twice, with different "
        problems.append(Problem(f"{what}contents", "map-contradicts", str(path), int(line) + 1))
    return rows, problems


def _different(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that say something different, whatever the spelling."""
    names = [name for name in rows if key(name) not in map(key, (*ROW, *COLUMN))]
    alike = {name: mapped(rows[name].str.strip(), ALIKE.get(name, str)) for name in names}
    return rows[~pd.DataFrame(alike, rows.index).duplicated()]


def _nothing_known(path: Path, rows: pd.DataFrame) -> list[Problem]:
    """Return an error if no column says what the wells hold."""
    known = {name for name in SPELLINGS if name in rows} - {PLATE, WELL}
    if known:
        return []
    names = ", ".join(rows.columns.difference([PLATE, WELL], sort=False)[:8])
    text = f"{path}, line 1: expected a column of compounds, got {names or 'wells alone'}"
    return [Problem(text, "map-unreadable", str(path), 1)]


def _wrong_doses(path: Path, rows: pd.DataFrame) -> list[Problem]:
    """Return an error for each cell that is no dose, but for a share of the vehicle."""
    if (column := "Metadata_Concentration") not in rows:
        return []
    wrong = ~is_dose(mapped(rows[column], micromolar))
    if "Metadata_Compound" in rows:
        share = rows[column].str.contains("%", regex=False)
        wrong &= ~(share & (mapped(rows["Metadata_Compound"], vehicle) == "DMSO"))
    return [
        Problem(
            f"{path}, line {line + 1}, {column}: {text!r} {A_DOSE}",
            "not-a-dose",
            str(path),
            int(line) + 1,
            column,
        )
        for line, text in rows.loc[wrong, column].items()
    ]


def _plates_alike(table: pd.Series, named: pd.Series) -> pd.Series:
    """Return the plates of a table as the map names them, in any case, with zeros or without."""

    def plain(text: str) -> str:
        return re.sub(r"^0+(?=\d)|\.0+$", "", text.strip().casefold())

    known = named.drop_duplicates()
    spelt = {plain(name): name for name in known}
    if len(spelt) < len(known) or table.map(plain).nunique() < table.nunique():
        return table
    return table.map(lambda name: spelt.get(plain(name), name))


def _unmatched(
    path: Path, platemap: Path, where: pd.DataFrame, known: pd.Series, plates: pd.DataFrame
) -> list[Problem]:
    """Return what is said of wells, and of plates, that only one of the two tables names."""
    problems = []
    matched = known.groupby(where[PLATE]).any()
    strange = matched.index[~matched]
    for plate in strange:
        line = int(where.index[where[PLATE] == plate][0]) + 1
        names = ", ".join(plates[PLATE].unique()[:5]) if PLATE in plates else "no plates"
        text = f"{path}, line {line}, {PLATE}: no well of {plate!r} is in {platemap}, which names "
        problems.append(Problem(text + names, "map-unreadable", str(path), line, PLATE))
    lone = where[~known & (where[WELL] != "") & ~where[PLATE].isin(strange)].drop_duplicates()
    for line, (plate, name) in zip(lone.index, lone.to_numpy(), strict=True):
        text = f"{path}, line {line + 1}: {plate} {name} is not in {platemap}"
        place = (str(path), int(line) + 1, WELL)
        problems.append(Problem(text, "well-not-in-map", *place, severity="warning"))
    by = [name for name in (PLATE, WELL) if name in plates]
    taken = pd.MultiIndex.from_frame(where[by])
    spare = plates[~pd.MultiIndex.from_frame(plates[by]).isin(taken)]
    if len(spare):
        wells = spare[by].agg(" ".join, axis=1)
        text = f"{platemap}: {len(wells):,} wells have no image: {', '.join(wells[:10])}"
        text += " …" * (len(wells) > 10)
        problems.append(Problem(text, "well-without-image", str(platemap), severity="note", n=1))
    return problems


def _contradictions(path: Path, column: str, table: pd.Series, cells: pd.Series) -> list[Problem]:
    """Return an error for each cell of a table for which the map says something else."""
    alike = ALIKE.get(column, str)
    one, other = (mapped(part.str.strip(), alike) for part in (table, cells))
    differ = (table.str.strip() != "") & (cells.str.strip() != "") & (one != other)
    return [
        Problem(
            f"{path}, line {line + 1}, {column}: {table[line]!r} is {cells[line]!r} in the plate "
            "map: leave it out of one of the two",
            "map-contradicts",
            str(path),
            int(line) + 1,
            column,
        )
        for line in table.index[differ]
    ]
