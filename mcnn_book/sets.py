"""Sets of features that someone already has, compared on the road of this project's own."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mcnn_core.analysis.mechanisms import protocols
from mcnn_core.analysis.methods import (
    COLUMNS,
    ONE_LAYER,
    comparison,
    evaluate,
    method_profiles,
)
from mcnn_core.errors import InputError, Problem
from mcnn_core.profiles import feature_columns
from mcnn_core.readers.features import read_features
from mcnn_core.readers.tables import table_name

EMPTY = ["method", "protocol", "seed", "MoA", "predicted"]


def open_sets(
    features: str, table: pd.DataFrame | None = None, ours: pd.DataFrame | None = None
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Read the tables of features that a report is made of.

    Parameters
    ----------
    features : str
        Paths joined by commas.
    table : DataFrame, optional
        That of a screen, where it and not the tables of features says what its wells are.
    ours : DataFrame, optional
        Features of the network that was trained on this screen, which then come first.

    Returns
    -------
    sets : dict of str to DataFrame
        By the name of the file, what `mcnn_core.readers.features.read_features` returns.
    read : DataFrame
        ``set`` and ``note``: for each set its size, then what was taken as what and left out.
    """
    paths = [Path(part.strip()).expanduser() for part in features.split(",") if part.strip()]
    names = [table_name(path) for path in paths]
    names = [f"{name} (file)" if name in ONE_LAYER else name for name in names]  # to be scaled
    sets = {} if ours is None else {"trained": ours}
    if not paths or len({*names, *sets}) < len(names) + len(sets):
        raise InputError(
            "expected FEATURES=PATH[,PATH], files of different names", [str(path) for path in paths]
        )
    notes: dict[str, list[Problem]] = {}
    for name, path in zip(names, paths, strict=True):
        sets[name], notes[name] = read_features(path, table)
    rows = []
    for name, frame in sets.items():
        wells = len(frame[["Metadata_Plate", "Metadata_Well"]].drop_duplicates())
        size = f"{len(frame):,} rows of {wells:,} wells, {len(feature_columns(frame)):,} features"
        found = [str(one).partition(": ")[2] for one in notes.get(name, [])]
        rows += [(name, text) for text in [size, *found]]
    return sets, pd.DataFrame(rows, columns=["set", "note"])


# Name, wells and treatments of a set under one normalisation.
Profiled = tuple[str, pd.DataFrame, pd.DataFrame]


def set_profiles(sets: Mapping[str, pd.DataFrame]) -> dict[str, list[Profiled]]:
    """Return each set's profiles under all normalisations that its controls allow, none first."""
    return {name: list(method_profiles({name: frame})) for name, frame in sets.items()}


def compared_sets(sets: Mapping[str, list[Profiled]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``predictions.csv`` and ``comparison.csv`` of sets of features.

    `sets` is what `set_profiles` returns; each set has the floors of its own wells. Without rows
    where no mechanism can be predicted.
    """
    asked: list[str] = []
    predictions, tables = [pd.DataFrame(columns=EMPTY)], [pd.DataFrame(columns=COLUMNS)]
    for name, found in sets.items():
        if not protocols(found[0][2]):
            continue
        predicted = pd.concat([evaluate(one, label, 0) for label, _, one in found])
        predictions.append(predicted)
        tables.append(comparison(predicted, found[0][2]))
        asked.append(name)
    compared = pd.concat(tables[1:] or tables, ignore_index=True)
    owner = [name for name, table in zip(asked, tables[1:], strict=True) for _ in range(len(table))]
    compared = _floors_once(compared, owner)
    return pd.concat(predictions[1:] or predictions, ignore_index=True), compared


def _floors_once(compared: pd.DataFrame, owner: list[str]) -> pd.DataFrame:
    """Keep each floor once where all sets share it, as those of the same wells do.

    Elsewhere the set's name stands behind it.
    """
    floor = compared["low"].isna()
    values = compared.loc[floor, ["method", "protocol", "overall", "class_median", "n", "left_out"]]
    if len(values.drop_duplicates()) == len(values[["method", "protocol"]].drop_duplicates()):
        return compared.drop(index=values.index[values.duplicated()]).reset_index(drop=True)
    names = compared["method"] + ", " + pd.Series(owner, compared.index, dtype=str)
    return compared.assign(method=compared["method"].where(~floor, names))
