"""Features that someone already has: a table of fields or wells from any program."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from pyarrow import ArrowInvalid

from mcnn_core.errors import InputError, Problem
from mcnn_core.readers.cells import (
    PREFIX,
    cell_rules,
    filled,
    read_otherwise,
    read_rows,
    refuse,
    tidied,
    typed,
    wrong_cells,
)
from mcnn_core.readers.spelling import (
    COLUMN,
    MISSING,
    ROW,
    SPELLINGS,
    UNIT,
    canonical,
    key,
    note,
    without_unit,
)
from mcnn_core.surrogate import training_fields

#: A row with fewer of the features than this is left out, before features with gaps are.
FEWEST = 0.5

#: What programs call the number of a row, which is no feature.
NUMBERS = ("Unnamed: 0", "index", "ImageNumber", "TableNumber", "ObjectNumber")

#: Names of columns that describe a row, as `key` returns them.
KNOWN = {
    key(name)
    for names in (SPELLINGS, ROW, COLUMN, UNIT, NUMBERS, *SPELLINGS.values())
    for name in names
}


def _h5ad(path: Path) -> pd.DataFrame:
    """Return an AnnData file as text cells: its ``obs``, then its ``X``."""
    try:
        from anndata import read_h5ad
    except ImportError as error:
        raise InputError(
            f"{path}: reading .h5ad needs the package anndata, which is not installed: "
            "pip install 'mcnn-core[anndata]'"
        ) from error
    try:
        data = read_h5ad(path)
        frame = data.to_df()
    # A damaged file can fail anywhere in the library, with whatever exception that line raises.
    except Exception as error:
        raise InputError(f"{path} is not a readable .h5ad file: {error}") from error
    text = data.obs.astype(object).where(data.obs.notna(), "").astype(str).replace("nan", "")
    return pd.concat([text, frame], axis=1).set_axis(range(1, len(text) + 1))


def _numbers(cells: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return cells as numbers, NaN where they say none, and which of them are other text."""
    if is_numeric_dtype(cells):
        values, other = cells.astype(float), pd.Series(False, cells.index)
    else:
        text = cells.str.strip()
        text = text.mask(text.str.lower().isin(["", *MISSING]))
        try:
            values = text.astype("double[pyarrow]").astype(float)  # forty times faster
        except ArrowInvalid:
            values = pd.to_numeric(text, errors="coerce").astype(float)
        other = values.isna() & text.notna() & (text.str.lower() != "nan")
    return values.where(np.isfinite(values)), other


def _describes(name: str) -> bool:
    """Whether a column says what a row is, by its name."""
    plain = key(name)
    return bool(PREFIX.match(name)) or plain in KNOWN or without_unit(plain) in KNOWN


def _split(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem]]:
    """Return the describing columns as text, and the features as numbers, NaN where missing.

    A warning names a column that would be a feature but for some cells.
    """
    features, notes = {}, []
    for name in [name for name in rows if not _describes(name)]:
        values, other = _numbers(rows[name])
        if not other.any() and values.notna().any():
            features[name] = values
        elif values.notna().sum() > other.sum() > 0:
            line = int(other.idxmax()) + 1
            text = f"{name} is no feature: {other.sum():,} of its cells are no numbers, the first "
            text += f"{rows[name][other].iloc[0]!r} in line {line}"
            notes.append(note(path, text, "feature-left-out", name, "warning", line))
    return rows.drop(columns=list(features)), pd.DataFrame(features, rows.index), notes


def _complete(path: Path, features: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out rows with few features, then features with gaps, and say which."""
    notes: list[Problem] = []
    scarce = features.notna().mean(axis=1) < FEWEST
    for row in features.index[scarce]:
        text = f"fewer than {FEWEST:.0%} of the features have a value: the row is left out"
        notes.append(note(path, text, "row-left-out", "", "warning", int(row) + 1))
    rest = features[~scarce]
    gaps = rest.isna().sum()
    if (gaps := gaps[gaps > 0]).size:
        shown = ", ".join(f"{name} {n:,}" for name, n in gaps.head(20).items())
        more = f" and {len(gaps) - 20:,} more" if len(gaps) > 20 else ""
        text = f"{len(gaps):,} of {rest.shape[1]:,} features have missing values and are left out, "
        notes.append(
            note(path, f"{text}with the number of rows: {shown}{more}", "feature-left-out")
        )
    return rest.drop(columns=gaps.index), notes


def _placed(path: Path, rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with what the table of a screen says of their wells."""
    by = ["Metadata_Plate", "Metadata_Well"]
    facts = table.filter(regex="^Metadata_").drop(columns="Metadata_Site").drop_duplicates(by)
    facts, places = facts.set_index(by), pd.MultiIndex.from_frame(rows[by])
    lost = ~places.isin(facts.index)
    if lost.all():
        raise InputError(
            f"{path}: none of its wells is one of the screen's; expected plates such as "
            f"{table['Metadata_Plate'].iloc[0]!r}, got {rows['Metadata_Plate'].iloc[0]!r}"
        )
    if lost.any():
        raise InputError(
            f"{path}: {lost.sum():,} of {len(rows):,} rows are of no well of the screen",
            [" ".join(map(str, place)) for place in places[lost]],
        )
    return facts.loc[places].reset_index().set_axis(rows.index)


def read_features(
    path: str | os.PathLike, table: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, list[Problem]]:
    """Read features of fields or wells from CSV, TSV, Excel, Parquet (also .gz) or AnnData.

    Parameters
    ----------
    path : path
        Columns that describe a row, in any spelling of `mcnn_core.readers.spelling.SPELLINGS`, and
        numeric columns, all of which are features unless ``Metadata_`` stands before them.
    table : DataFrame, optional
        That of a screen, which then says by plate and well what each row is.

    Returns
    -------
    frame : DataFrame
        The ``Metadata_*`` columns of `mcnn_core.screen.Screen`, ``Metadata_Training`` (as
        `mcnn_core.surrogate.training_fields` with controls), and the features, float64.
    notes : list of Problem
        What was taken as what, rows and features that were left out for missing values.

    Raises
    ------
    InputError
        If it is no table, has no feature, a cell is wrong, or rows are of no well of the screen.
    """
    path = Path(path)
    h5ad = path.suffix == ".h5ad"
    rows, notes = (_h5ad(path), []) if h5ad else read_rows(path, lambda name: not _describes(name))
    described, features, more = _split(path, rows)
    notes += more
    if features.empty:
        raise InputError(f"{path}: expected rows and numeric columns of features, got none")
    described, more = canonical(path, described)
    notes += more
    refuse(path, [problem for problem in notes if problem.severity == "error"])
    features, more = _complete(path, features)
    notes += more
    described = described.loc[features.index]
    missing = [name for name in ("Metadata_Plate", "Metadata_Well") if name not in described]
    rows = filled(described.drop(columns="Metadata_Treatment", errors="ignore"))
    facts = tidied(rows)
    if table is not None:
        if missing:
            raise InputError(f"{path}: expected a plate and a well in every row", missing)
        frame = _placed(path, facts, table)
    else:
        rules = cell_rules(rows, facts)
        unchecked = [name for name in ("Metadata_Plate", "Metadata_Well") if name in missing]
        wrong, _ = wrong_cells(path, {k: v for k, v in rules.items() if k[0] not in unchecked})
        refuse(path, wrong)
        notes += read_otherwise(path, rows, facts)
        frame = typed(rows, facts, pd.DataFrame(index=facts.index), "")
        frame = frame.filter(regex="^Metadata_")
    frame = frame.assign(Metadata_Training=training_fields(frame, controls=True))
    return pd.concat([frame, features], axis=1).reset_index(drop=True), notes
