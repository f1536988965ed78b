"""One road for every method that is compared, and the guard against leaks on it.

A method is a frame of fields with ``Metadata_*`` columns, ``Metadata_Training`` among them, and
its features: activations of a network, handcrafted features, intensity statistics. From there
all go the same way, and each step may look at no more than this:

1. standardisation, for features of different units: the training fields, not their labels;
2. ``whiten``, if asked for: the fields of negative controls, and which plate they are on;
3. PCA at 99 % of the variance: the training fields, not their labels;
4. medians of fields to wells;
5. ``centre``, if asked for: the negative controls of each plate;
6. medians of wells to treatments;
7. nearest neighbour: here, for the first time, ``Metadata_MoA`` is read, or which control it is.

Whitening comes before PCA, which would drop the quiet directions that whitening brings out,
and works on fields, of which there are more than wells to estimate a covariance from.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.analysis.baselines import INTENSITY, handcrafted
from mcnn_core.analysis.mechanisms import (
    FLOORS,
    answerable,
    average_precisions,
    floors,
    nearest_neighbours,
    protocols,
    scores,
)
from mcnn_core.errors import InputError
from mcnn_core.features import embed
from mcnn_core.model import MCNN, NetworkConfig
from mcnn_core.profiles import feature_frame, possible_normalisations, profile
from mcnn_core.screen import field_names
from mcnn_core.training import Recipe, load_model, train, untrained_model

COLUMNS = ["method", "protocol", "seed", "overall", "class_median", "n", "low", "high", "left_out"]
SUFFIXES = {"none": "", "centre": "_centred", "whiten": "_whitened"}

METHODS = ("trained", "untrained", "intensity", "handcrafted", "supervised")
ONE_LAYER = ("trained", "untrained", "supervised")  #: whose features share their unit


def method_frames(
    features: pd.DataFrame, store: Any, networks: Mapping[str, MCNN], progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Return training fields and negative controls as each of `METHODS` describes them.

    Parameters
    ----------
    features : DataFrame
        `mcnn_core.profiles.feature_frame` of the trained network, row i for row i of the store.
    store : Store
    networks : mapping of str to MCNN
        The networks that it is compared to, by their names in `METHODS`.
    """
    control = features["Metadata_control_type"] == "negcon"
    rows = np.flatnonzero(features["Metadata_Training"] | control)
    part = features.iloc[rows].reset_index(drop=True)
    found = {"handcrafted": handcrafted(store, rows, progress)}
    found["intensity"] = found["handcrafted"].iloc[:, : len(INTENSITY) * len(store.channels)]
    for name, model in networks.items():
        found[name] = embed(model, store, rows, progress=progress)
    training = part["Metadata_Training"].to_numpy()
    frames = {name: feature_frame(part, values, training) for name, values in found.items()}
    frames["trained"] = part
    return {name: frames[name] for name in METHODS if name in frames}


def method_profiles(
    frames: Mapping[str, pd.DataFrame], normalisations: Iterable[str] = ()
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yield the name, the wells and the treatments of each method under each normalisation.

    By default under all that the controls allow. The name ends in ``_centred`` or ``_whitened``.
    """
    for name, frame in frames.items():
        for normalisation in normalisations or possible_normalisations(frame):
            found = profile(frame, normalisation, units_differ=name not in ONE_LAYER)
            yield name + SUFFIXES[normalisation], *found


def evaluate(treatments: pd.DataFrame, method: str, seed: int) -> pd.DataFrame:
    """Return one method's rows of ``predictions.csv``, under each possible protocol."""
    parts = [
        nearest_neighbours(treatments, protocol).assign(
            average_precision=average_precisions(treatments, protocol).to_numpy()
        )
        for protocol in protocols(treatments)
    ]
    if not parts:
        raise InputError("nothing to predict: no two compounds share a Metadata_MoA")
    return pd.concat(parts, ignore_index=True).assign(method=method, seed=seed)


def mechanism_labels(features: pd.DataFrame) -> np.ndarray:
    """Return the mechanism of each field as a class, (n,) int64; -1 where not trained on."""
    known = features["Metadata_MoA"].where(features["Metadata_Training"])
    return pd.Categorical(known).codes.astype(np.int64)


def compare_methods(
    features: pd.DataFrame,
    labels: np.ndarray,
    store: Any,
    network: NetworkConfig,
    recipe: Recipe,
    folder: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict every annotated mechanism with the trained network and with all it is compared to.

    Parameters
    ----------
    features, store
        As in `method_frames`.
    labels : (n,) int array
        Surrogate class of each field, -1 where not trained on.
    network, recipe
        Of the supervised network. The untrained one has the same seed.
    folder : Path, optional
        Where a network is trained on the mechanisms themselves. It has seen the answers of the
        very treatments it is asked about, so its figure is optimistic.

    Returns
    -------
    DataFrame
        ``predictions.csv``; empty where the screen has no mechanism to predict.
    """
    if not protocols(profile(features[features["Metadata_Training"]])[1]):
        return pd.DataFrame(columns=["method", "protocol", "seed", "MoA", "predicted"])
    start = untrained_model(store, labels, network, recipe.seed, recipe.initialisation)
    networks = {"untrained": start}
    mechanism = mechanism_labels(features)
    if folder and mechanism.max() > 0:  # one mechanism alone teaches nothing
        train(store, mechanism, network, recipe, folder, field_names(features), progress)
        networks["supervised"] = load_model(folder)
    profiles = method_profiles(method_frames(features, store, networks, progress))
    parts = [evaluate(treatments, name, recipe.seed) for name, _, treatments in profiles]
    return pd.concat(parts, ignore_index=True)


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
    keys = ["method", "protocol", "seed"]
    parts = predictions.groupby(keys, sort=False)
    rows = [dict(zip(keys, key, strict=True)) | scores(part) for key, part in parts]
    asked = list(predictions["protocol"].unique())
    for protocol in asked:
        table = floors(treatments, protocol)
        rows += [
            {
                "method": label,
                "protocol": protocol,
                "overall": table[name].mean(),
                "class_median": table[name].groupby(table["MoA"]).mean().median(),
                "n": len(table),
            }
            for name, label in FLOORS.items()
            if name in table
        ]
    lost = {protocol: int((~answerable(treatments, protocol)).sum()) for protocol in asked}
    found = pd.DataFrame(rows, columns=COLUMNS[:-1]).astype({"seed": "Int64"})
    return found.assign(left_out=found["protocol"].map(lost))
