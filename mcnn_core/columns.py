"""Columns of tables, by their few different values."""

from collections.abc import Callable

import numpy as np
import pandas as pd


def is_dmso(compound: str) -> bool:
    """Whether a compound is the solvent by its plain name."""
    return compound.strip().upper() == "DMSO"


def channels_in(rows: pd.DataFrame, part: str = "FileName") -> list[str]:
    """Return the channels of a table: what stands behind `part` in the names of its columns."""
    found = [name.partition("_") for name in rows]
    return [channel for start, _, channel in found if start == part and channel]


def folder_and_name(paths: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Split paths or addresses at the last slash of either kind; no folder is ""."""
    parts = paths.str.strip().str.extract(r"^(?:(.*)[/\\])?([^/\\]*)$").fillna("")
    return parts[0], parts[1]


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


def mapped(values: pd.Series, change: Callable, dtype: type | str = str) -> pd.Series:
    """Return `change` of every value, called once for each different one."""
    codes, first = joint_codes(values)
    few = pd.Series([change(value) for value in values.iloc[first]], dtype=dtype)
    return few.take(codes).set_axis(values.index)
