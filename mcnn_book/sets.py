"""Sets of features that someone already has, compared on the road of this project's own."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mcnn_book.screens import open_screen
from mcnn_core.analysis.mechanisms import protocols
from mcnn_core.analysis.methods import comparison, evaluate, method_profiles
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, profile
from mcnn_core.readers.features import read_features
from mcnn_core.readers.tables import table_name

EMPTY = ["method", "protocol", "seed", "MoA", "predicted"]


def open_sets(
    features: str, screen: str, data: str, out: Path
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Read the tables of features that a report is made of.

    Parameters
    ----------
    features : str
        Paths joined by commas.
    screen, data : str
        As for `mcnn_book.screens.open_screen`; "" where the tables say what their wells are.
    out : Path
        Output folder.

    Returns
    -------
    sets : dict of str to DataFrame
        By the name of the file, what `mcnn_core.readers.features.read_features` returns.
    read : DataFrame
        One row per note: ``set`` and ``note``, after a row that counts each set.
    """
    paths = [Path(part.strip()).expanduser() for part in features.split(",") if part.strip()]
    names = [table_name(path) for path in paths]
    if not paths or len(set(names)) < len(names):
        raise InputError(
            "expected FEATURES=PATH[,PATH], files of different names",
            [str(path) for path in paths],
        )
    table = open_screen(screen, data, out).table if screen else None
    sets, rows = {}, []
    for name, path in zip(names, paths, strict=True):
        frame, notes = read_features(path, table)
        sets[name] = frame
        wells = len(frame[["Metadata_Plate", "Metadata_Well"]].drop_duplicates())
        features_ = len(feature_columns(frame))
        rows.append((name, f"{len(frame):,} rows of {wells:,} wells, {features_:,} features"))
        rows += [(name, str(one).removeprefix(f"{path}: ")) for one in notes]
    return sets, pd.DataFrame(rows, columns=["set", "note"])


def compared_sets(sets: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``predictions.csv`` and ``comparison.csv`` of sets of features.

    Each under all normalisations that its controls allow; without rows where no mechanism can be
    predicted.
    """
    parts, tables = [], []
    for name, frame in sets.items():
        if not protocols(profile(frame, units_differ=True)[1]):
            continue
        found = [
            evaluate(treatments, label, 0)
            for label, _, treatments in method_profiles({name: frame})
        ]
        parts += found
        table = comparison(pd.concat(found), profile(frame, units_differ=True)[1])
        floor = table["low"].isna()
        tables.append(
            table.assign(
                method=table["method"].where(
                    ~floor | (len(sets) == 1), table["method"] + f", {name}"
                )
            )
        )
    if not parts:
        empty = pd.DataFrame(columns=EMPTY)
        return empty, comparison(empty, pd.DataFrame())
    return pd.concat(parts, ignore_index=True), pd.concat(tables, ignore_index=True)


def separated(why: Mapping[str, str], word: str) -> str:
    """Return why the question that holds a word cannot be answered."""
    return next(text for question, text in why.items() if word in question)
