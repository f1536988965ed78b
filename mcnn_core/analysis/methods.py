"""One road for every method in the comparison table, and the guard against leaks on it.

A method is a frame of fields with ``Metadata_*`` columns, ``Metadata_Training`` among them, and
its features: activations of a network, handcrafted features, intensity statistics. From there
all go the same way, and each step may look at no more than this:

1. standardisation, for features of different units: the training fields, not their labels;
2. ``whiten``, if asked for: the fields of negative controls;
3. PCA at 99 % of the variance: the training fields, not their labels;
4. medians of fields to wells;
5. ``centre``, if asked for: the negative controls of each plate;
6. medians of wells to treatments;
7. nearest neighbour: here, for the first time, ``Metadata_MoA`` is read.

Whitening comes before PCA, which would drop the quiet directions that whitening brings out,
and works on fields, of which there are more than wells to estimate a covariance from.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.analysis.baselines import INTENSITY, handcrafted
from mcnn_core.analysis.mechanisms import answerable, floors, nearest_neighbours, protocols, scores
from mcnn_core.errors import InputError
from mcnn_core.features import embed
from mcnn_core.model import NetworkConfig
from mcnn_core.profiles import feature_frame, possible_normalisations, profile
from mcnn_core.screen import NOT_AVAILABLE, field_names
from mcnn_core.training import Recipe, load_model, make_way, train, untrained_model

COLUMNS = ["method", "protocol", "seed", "overall", "class_median", "n", "low", "high", "left_out"]


FLOORS = {"chance": "chance", "label_frequency": "label frequency", "batch_only": "week only"}


def evaluate(treatments: pd.DataFrame, method: str, seed: int) -> pd.DataFrame:
    """Return the predictions of one method under each possible protocol.

    They are as in ``predictions.csv``.
    """
    parts = [nearest_neighbours(treatments, protocol) for protocol in protocols(treatments)]
    if not parts:
        raise InputError(
            "no treatment shares its Metadata_MoA with another compound: "
            "there is nothing to predict"
        )
    return pd.concat(parts, ignore_index=True).assign(method=method, seed=seed)


def comparison(predictions: pd.DataFrame, treatments: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, protocol and seed, and the floors that need no image.

    Parameters
    ----------
    predictions : DataFrame
        What `evaluate` returned, for any number of methods.
    treatments : DataFrame
        Any method's treatment profiles; only their metadata is read.

    Returns
    -------
    DataFrame
        `COLUMNS`; without rows if there are no predictions. ``left_out`` counts the queries without
        a possible answer. Floors have neither a seed nor an interval: they are exact expectations.
    """
    rows = [
        {"method": method, "protocol": protocol, "seed": seed, **scores(part)}
        for (method, protocol, seed), part in predictions.groupby(
            ["method", "protocol", "seed"], sort=False
        )
    ]
    for protocol in predictions["protocol"].unique():
        table = floors(treatments, protocol)
        rows += [
            {
                "method": label,
                "protocol": protocol,
                "overall": table[name].mean(),
                "n": len(table),
                "class_median": table[name].groupby(table["MoA"]).mean().median(),
            }
            for name, label in FLOORS.items()
            if name in table
        ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1]).astype({"seed": "Int64"})
    lost = {
        protocol: int((~answerable(treatments, protocol)).sum())
        for protocol in table["protocol"].unique()
    }
    return table.assign(left_out=table["protocol"].map(lost))


SUFFIXES = {"none": "", "centre": "_centred", "whiten": "_whitened"}


ANSWERED = {
    ("NSC", "NSCB"): "both can be asked of this screen",
    ("NSC",): (
        "NSCB cannot be asked of this screen: it names no batches, or no treatment has a compound "
        "of its mechanism in another batch"
    ),
    (): "neither can be asked of this screen: it names no mechanism that two compounds share",
}


def compare_methods(
    table: pd.DataFrame,
    labels: np.ndarray,
    store: Any,
    features: pd.DataFrame,
    network: NetworkConfig,
    recipe: Recipe,
    folder: Path,
    supervised: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict every annotated mechanism with the trained network and with all it is compared to.

    Parameters
    ----------
    table : DataFrame
        The screen's fields, row i of the store.
    labels : (n,) int array
        Surrogate class of each field, -1 where not trained on.
    store : Store
        Pre-processed fields.
    features : DataFrame
        `mcnn_core.profiles.feature_frame` of the trained network, all fields.
    network, recipe
        Of the untrained and of the supervised network.
    folder : Path
        Where the supervised network is trained.
    supervised : bool
        Also train a network on the mechanisms themselves. It has seen the answers of the very
        treatments it is asked about, so its figure is optimistic.

    Returns
    -------
    DataFrame
        As ``predictions.csv``; empty where the screen has no mechanism to predict. ``method`` is
        the name of the features, then ``_centred`` or ``_whitened``.
    """
    training = np.asarray(labels) >= 0
    used = training | (table["Metadata_control_type"] == "negcon").to_numpy()
    rows = np.flatnonzero(used)
    part = table.iloc[rows].reset_index(drop=True)

    def joined(values: pd.DataFrame) -> pd.DataFrame:
        metadata = part[[name for name in part if name.startswith("Metadata_")]]
        return pd.concat(
            [metadata.assign(Metadata_Training=training[rows]), values.reset_index(drop=True)],
            axis=1,
        )

    def embedded(model: Any) -> pd.DataFrame:
        return feature_frame(part, embed(model, store, rows, progress=progress), training[rows])

    frames = {"trained": features.iloc[rows].reset_index(drop=True)}
    if not protocols(profile(frames["trained"])[1]):
        return pd.DataFrame(columns=["method", "protocol", "seed", "MoA", "predicted"])
    frames["untrained"] = embedded(untrained_model(store, labels, network, recipe.seed))
    crafted = handcrafted(store, rows, progress)
    frames["intensity"] = joined(crafted.iloc[:, : len(INTENSITY) * len(store.channels)])
    frames["handcrafted"] = joined(crafted)
    mechanism = pd.Categorical(table["Metadata_MoA"].where(training)).codes.astype(np.int64)
    if supervised and mechanism.max() > 0:  # one mechanism alone teaches nothing
        make_way(store, mechanism, network, recipe, folder)
        train(store, mechanism, network, recipe, folder, field_names(table), progress)
        frames["supervised"] = embedded(load_model(folder))
    return pd.concat(
        [
            evaluate(
                profile(frame, normalisation, units_differ=name in ("intensity", "handcrafted"))[1],
                name + SUFFIXES[normalisation],
                recipe.seed,
            )
            for name, frame in frames.items()
            for normalisation in possible_normalisations(part)
        ],
        ignore_index=True,
    )


def mechanism_results(
    predictions: pd.DataFrame, treatments: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, float | str]]:
    """Return the comparison table and its numbers by key.

    A key is ``nsc.overall.trained`` with and without ``.seed<k>``. Keys that the pages show and the
    screen cannot answer are there with the text "not available"; ``answered`` says in words which
    protocols could be asked.
    """
    shown = [
        "trained",
        "untrained",
        "handcrafted",
        "handcrafted_centred",
        "handcrafted_whitened",
        "intensity",
        "supervised",
        "chance",
        "label_frequency",
        "batch_only",
    ]
    found: dict[str, float | str] = {
        f"{protocol}.{kind}.{method}": NOT_AVAILABLE
        for protocol in ("nsc", "nscb")
        for kind in ("overall", "class_median", "n")
        for method in shown
    }
    asked = tuple(predictions["protocol"].unique())
    found |= {"answered": ANSWERED[asked], "asked": "NSC" in asked, "asked_nscb": "NSCB" in asked}
    table, floors = (
        comparison(predictions, treatments),
        {label: name for name, label in FLOORS.items()},
    )
    for method in ("supervised", "handcrafted_whitened", FLOORS["batch_only"]):
        found[f"has_{floors.get(method, method)}"] = method in set(table["method"])
    for row in table.itertuples():
        for kind in ("overall", "class_median", "n"):
            key, value = (
                f"{row.protocol.lower()}.{kind}.{floors.get(row.method, row.method)}",
                getattr(row, kind),
            )
            found[key] = value
            if pd.notna(row.seed):
                found[f"{key}.seed{row.seed}"] = value
    found["one"] = 1 / float(found["nsc.n.trained"]) if asked else NOT_AVAILABLE
    return table, found
