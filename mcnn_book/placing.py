"""New plates, old network: where plates that were never trained on lie, and what they move."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.mechanisms import answerable, nearest_neighbours, protocols
from mcnn_core.analysis.response import similarities, similarity_table
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.features import embed_screen
from mcnn_core.model import multiple_of
from mcnn_core.preprocessing import Conversion, preprocess
from mcnn_core.profiles import feature_frame, feature_matrix, profile
from mcnn_core.screen import Screen
from mcnn_core.store import Store
from mcnn_core.training import load_model

NEEDED = ("store", "whole/model", "whole/features.parquet")  #: of a report


def embed_new(screen: Screen, report: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Send new plates through the second network of a report, as its own plates were sent.

    Parameters
    ----------
    screen : Screen
        The new plates: other names, the same channels, fields of the same size.
    report : Path
        Folder of a report or a book, which is only read.
    out : Path
        Receives ``store`` and ``activations``.

    Returns
    -------
    old, new : DataFrame
        Fields and their features; none of the new ones is marked as trained on.

    Raises
    ------
    InputError
        If the folder is no report, or the new plates are not like its own.
    """
    if missing := [name for name in NEEDED if not (report / name).exists()]:
        raise MissingStageError(f"{report} is no finished report or book: no {', '.join(missing)}")
    old, store = pd.read_parquet(report / NEEDED[2]), Store.open(report / NEEDED[0])
    problems = [
        f"plate {name!r} is one of the old ones"
        for name in sorted(set(screen.table["Metadata_Plate"]) & set(old["Metadata_Plate"]))
    ]
    if screen.channels != store.channels:
        problems.append(f"expected channels {store.channels} in this order, got {screen.channels}")
    if problems:
        raise InputError(f"the new plates do not fit those of {report}", problems)
    model, made = load_model(report / NEEDED[1]), store.manifest
    light = made.get("illumination", "none")
    how = Conversion(made["reference"], made["bin"], multiple_of(model.config), light)
    fields = preprocess(screen, out / "store", how)
    if fields.shape[1:] != store.shape[1:]:
        raise InputError(
            f"the network was trained on fields of {store.shape[1]} x {store.shape[2]} pixels "
            f"(bin {made['bin']}), the new ones have {fields.shape[1]} x {fields.shape[2]}"
        )
    activations = embed_screen(model, fields, out / "activations")
    return old, feature_frame(screen.table, activations, np.zeros(len(screen.table), bool))


def _answers(treatments: pd.DataFrame) -> pd.DataFrame:
    """Return by treatment the mechanism of its nearest neighbour under NSC, and that neighbour."""
    if not protocols(treatments):
        return pd.DataFrame(columns=["predicted", "neighbour"])
    asked = answerable(treatments, "NSC")
    found = nearest_neighbours(treatments).set_index(asked.index[asked])
    return found[["predicted", "neighbour"]]


def moved(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Say of each treatment of the old plates how far new plates have moved it and its answer.

    Parameters
    ----------
    before, after : DataFrame
        Treatment profiles of the old plates, and of old and new ones, on the same axes.

    Returns
    -------
    DataFrame
        ``moved.csv``, indexed by treatment: ``MoA``; ``moved``, the cosine distance between both
        profiles, 0 where the treatment is on old plates alone; ``before`` and ``after``, the
        mechanism of its nearest neighbour under NSC, and that ``neighbour`` afterwards, "" where
        none can be asked.
    """
    old, new = (
        table[table["Metadata_control_type"] == "trt"].set_index("Metadata_Treatment")
        for table in (before, after)
    )
    old = old[old.index != ""]
    found = pd.DataFrame({"MoA": old["Metadata_MoA"], "moved": 0.0}).rename_axis("treatment")
    if len(old):
        x, y = feature_matrix(old), feature_matrix(new.loc[old.index])
        for row in np.flatnonzero((x != y).any(axis=1)):
            found.iloc[row, 1] = cosine_distances(x[[row]], y[[row]])[0, 0]
    now = _answers(after).rename(columns={"predicted": "after"})
    return found.join(_answers(before)["predicted"].rename("before")).join(now).fillna("")


def movement(table: pd.DataFrame) -> dict[str, Any]:
    """Return how many treatments of `moved` there are, are asked, and changed their answer."""
    asked = table[(table["before"] != "") & (table["after"] != "")]
    return {
        "treatments": len(table),
        "replicated": int((table["moved"] > 0).sum()),
        "asked": len(asked),
        "changed": int((asked["before"] != asked["after"]).sum()),
        "right_before": int((asked["before"] == asked["MoA"]).sum()),
        "right_after": int((asked["after"] == asked["MoA"]).sum()),
    }


def place(screen: Screen, report: Path, out: Path) -> dict[str, pd.DataFrame]:
    """Place new plates among those of a report and return its tables by the names of their files.

    Axes are fitted on the report's own training fields, so that its profiles stay as they are but
    for treatments that the new plates repeat.
    """
    old, new = embed_new(screen, report, out)
    both = pd.concat([old, new], ignore_index=True)
    wells, treatments = profile(both)
    is_new = wells["Metadata_Plate"].isin(new["Metadata_Plate"])
    like = similarity_table(wells, similarities(wells))
    return {
        "features.parquet": new,
        "profiles_well.parquet": wells.assign(Metadata_New=is_new),
        "similarity.csv": like[is_new],
        "moved.csv": moved(profile(old)[1], treatments).reset_index(),
    }
