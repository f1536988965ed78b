"""KiMorph: control wells told apart, and siRNAs compared with the controls.

Paper: *KiMorph analysis and results*, Fig. 2. The network learns on the wells of four control
siRNAs, every plate position a class of its own; it is never told which positions hold the same
siRNA.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import ShuffleSplit

from mcnn_core.analysis.baselines import handcrafted
from mcnn_core.analysis.clusters import cut_tree, tree
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.mechanisms import wilson
from mcnn_core.errors import InputError
from mcnn_core.features import embed
from mcnn_core.machine.files import read_text
from mcnn_core.model import NetworkConfig
from mcnn_core.profiles import aggregate, feature_frame, feature_matrix, profile, row_names
from mcnn_core.training import untrained_model

#: random partitions; share of the wells in the training part (paper: Methods)
REPEATS, SHARE = (50, 0.9)


BOOTSTRAPS = 2000


#: What may not be in the training part when a well is asked: nothing, as in the paper; or the other
#: replicate of its position [ours].
VARIANTS = {"random wells": "", "other replicate of the position left out": "Metadata_Position"}


def control_fields(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the mask of the fields whose ``Metadata_Content`` is one of the controls.

    All of them must occur.
    """
    content = table["Metadata_Content"].str.lower()
    absent = sorted(set(names) - set(content))
    if absent:
        raise InputError(
            f"controls of this screen are {', '.join(sorted(set(content)))}",
            [f"{name!r} is none of them" for name in absent],
        )
    return content.isin(list(names)).to_numpy()


def hold_out(
    wells: pd.DataFrame,
    label: str = "Metadata_Content",
    apart: str = "",
    repeats: int = REPEATS,
    share: float = SHARE,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict the label of random tenths of the wells (Supplementary Table 1).

    The prediction is the label of their nearest neighbour among the rest.

    Parameters
    ----------
    wells : DataFrame
        Well profiles of the controls.
    label : str
        Column to predict.
    apart : str
        Column whose value a well and its neighbour may not share; "" for none. A well without any
        admissible neighbour is an error.
    repeats, share, seed
        Of the random partitions.

    Returns
    -------
    DataFrame
        One row per question: ``repeat``, ``well`` (row of `wells`), ``MoA`` (the label, so that
        `mcnn_core.analysis.mechanisms.confusion` reads it) and ``predicted``.
    """
    distances, labels = (
        cosine_distances(feature_matrix(wells), names=row_names(wells)).round(12),
        wells[label].to_numpy(),
    )
    if apart:
        distances[wells[apart].to_numpy()[:, None] == wells[apart].to_numpy()] = np.inf
    rows = []
    for repeat, (known, asked) in enumerate(
        ShuffleSplit(repeats, train_size=share, random_state=seed).split(labels)
    ):
        part = distances[np.ix_(asked, known)]
        if np.isinf(part).all(axis=1).any():
            raise InputError(f"a well has no neighbour that differs in {apart}")
        rows.append(
            pd.DataFrame(
                {
                    "repeat": repeat,
                    "well": asked,
                    "MoA": labels[asked],
                    "predicted": labels[known][part.argmin(axis=1)],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def accuracy(predictions: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Return ``accuracy`` over all questions and its 95 % interval, ``low`` and ``high``.

    The interval is found by drawing wells anew. A well is asked about five times in 50 repeats;
    those answers are not independent, wells nearly are. Where all answers are alike, drawing shows
    no spread, and the interval is Wilson's with the wells as questions.
    """
    answers = (
        (predictions["MoA"] == predictions["predicted"])
        .groupby(predictions["well"])
        .agg(["sum", "size"])
        .to_numpy()
    )
    right, asked = answers.sum(axis=0)
    if right in (0, asked):
        low, high = wilson(len(answers) if right else 0, len(answers))
    else:
        draws = answers[
            np.random.default_rng(seed).integers(len(answers), size=(BOOTSTRAPS, len(answers)))
        ].sum(axis=1)
        low, high = np.quantile(draws[:, 0] / draws[:, 1], (0.025, 0.975))
    return {"accuracy": float(right / asked), "low": float(low), "high": float(high)}


def control_frames(
    table: pd.DataFrame,
    store: Any,
    features: pd.DataFrame,
    labels: np.ndarray,
    network: NetworkConfig,
    seed: int,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Return the fields of the controls as three kinds of features see them.

    The kinds are ``trained``, ``untrained`` and ``handcrafted``. `features` is the trained
    network's frame of all fields, `labels` the surrogate class of each, -1 where not trained on.
    """
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    part, mark = table.iloc[rows].reset_index(drop=True), np.ones(len(rows), bool)
    untrained = embed(untrained_model(store, labels, network, seed), store, rows, progress=progress)
    crafted = handcrafted(store, rows, progress).reset_index(drop=True)
    metadata = part[[name for name in part if name.startswith("Metadata_")]].assign(
        Metadata_Training=True
    )
    return {
        "trained": features.iloc[rows].reset_index(drop=True),
        "untrained": feature_frame(part, untrained, mark),
        "handcrafted": pd.concat([metadata, crafted], axis=1),
    }


def control_order(wells: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the control wells in the order of the paper's Fig. 2a.

    That is the order of `names`, then of position and replicate.
    """
    held = wells[wells["Metadata_Content"].str.lower().isin(list(names))]
    place = held["Metadata_Content"].str.lower().map({name: i for i, name in enumerate(names)})
    return (
        held.assign(place=place)
        .sort_values(["place", "Metadata_Position", "Metadata_Replicate"])
        .drop(columns="place")
        .reset_index(drop=True)
    )


def compare_controls(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return `accuracy` of each method in each of `VARIANTS`.

    Each is given as it is and whitened by the negative control.
    """
    rows = []
    for method, frame in frames.items():
        for normalisation in ("none", "whiten"):
            wells, _ = profile(frame, normalisation, units_differ=method == "handcrafted")
            name = method + ", whitened" * (normalisation == "whiten")
            rows += [
                {"method": name, "variant": variant, **accuracy(hold_out(wells, apart=apart))}
                for variant, apart in VARIANTS.items()
            ]
    return pd.DataFrame(rows)


def control_grades(comparison: pd.DataFrame) -> dict[str, float]:
    """Return `compare_controls`'s table by key.

    Keys are ``random.trained``, ``apart.handcrafted_whitened.low``, and so on. ``random`` is the
    paper's hold-out, ``apart`` the other variant; ``random.lead`` is the trained network's accuracy
    minus that of the best handcrafted row.
    """
    found: dict[str, float] = {}
    for variant, kind in zip(VARIANTS, ("random", "apart"), strict=True):
        part = comparison[comparison["variant"] == variant].set_index("method")
        for method, row in part.iterrows():
            key = f"{kind}.{method.replace(', ', '_')}"
            found |= {key: row["accuracy"], f"{key}.low": row["low"], f"{key}.high": row["high"]}
        crafted = part.index.str.startswith("handcrafted")
        found[f"{kind}.lead"] = (
            part.loc["trained", "accuracy"] - part.loc[crafted, "accuracy"].max()
        )
    found = {key: float(value) for key, value in found.items()}
    return found


def sirna_profiles(wells: pd.DataFrame) -> pd.DataFrame:
    """Return one profile per siRNA, controls among them: medians over its wells.

    The paper has 781 perturbations.
    """
    return aggregate(wells, ["Metadata_Treatment"])


def sirna_clusters(sirnas: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Cluster siRNAs and measure how far each cluster lies from the controls.

    The paper's are in Supplementary Tables 2 and 3.

    Returns
    -------
    DataFrame
        In the order of the leaves, the index naming the row of `sirnas`: ``treatment``, ``plate``
        (empty: plates are pooled), ``entrez``, ``content``, ``cluster``, ``holds`` (controls in the
        cluster) and ``far`` (smallest mean distance of the cluster to any control).
    (n, n) float64 array
        Cosine distances in that order.
    """
    distances = cosine_distances(feature_matrix(sirnas), names=row_names(sirnas))
    found, content = cut_tree(tree(distances)), sirnas["Metadata_Content"].str.lower()
    table = pd.DataFrame(
        {
            "treatment": sirnas["Metadata_Treatment"],
            "plate": "",
            "entrez": sirnas["Metadata_Entrez"],
            "content": content,
            "cluster": found["cluster"],
        }
    )
    control = content.isin(list(names)).to_numpy()
    far = pd.DataFrame(distances[:, control]).groupby(found["cluster"]).mean().min(axis=1)
    holds = content[control].groupby(found["cluster"][control]).agg(", ".join)
    table = table.assign(
        holds=found["cluster"].map(holds).fillna(""), far=found["cluster"].map(far)
    )
    order = np.argsort(found["position"].to_numpy())
    return table.iloc[order], distances[np.ix_(order, order)]


def sirna_summary(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cluster, largest first.

    It gives the number of siRNAs, the controls it ``holds`` and how ``far`` it lies from all.
    """
    table = clusters.groupby("cluster").agg(
        siRNAs=("treatment", "size"), holds=("holds", "first"), far=("far", "first")
    )
    return table.sort_values("siRNAs", ascending=False, kind="stable").reset_index()


def sirna_names(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return what the interactive matrix shows of each row of `sirna_clusters`.

    That is ``name``, ``cluster`` and ``Metadata_MoA`` (the control).
    """
    control = clusters["content"].where(clusters["entrez"] == "", "")
    return pd.DataFrame(
        {"name": clusters["treatment"], "cluster": clusters["cluster"], "Metadata_MoA": control}
    ).reset_index(drop=True)


def read_plate(
    distances: str | os.PathLike, annotation: str | os.PathLike
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read the published distance matrix of KiMorph's plate 1, with what stands in its wells.

    It is that of the Bioconductor package phenoDist. The distance of two wells is how well a
    classifier tells their cells apart, from 0.5 (not at all) to 1; 0.5 becomes 0 (and so does what
    is below it by chance), 1 stays 1. Its two triangles were estimated separately and differ a
    little: they are averaged. Two positions are as far apart as the four pairs of their replicates
    are on average.

    Parameters
    ----------
    distances : path
        CSV, also gzip; rows and columns named plate-replicate-well, as ``001-02-P24``. Only the
        diagonal may be missing.
    annotation : path
        CSV with plate, well, controlStatus, GeneID (the symbol) and LocusID (Entrez).

    Returns
    -------
    DataFrame
        One row per position, in the order of the wells: ``well``, ``content``, ``treatment`` (the
        symbol) and ``entrez`` ("" in controls).
    (n, n) float64 array
        Distances.

    Raises
    ------
    InputError
        If the matrix is not square, complete, named as said and within 0 to 1, or a well of it is
        not in the annotation.
    """
    matrix = pd.read_csv(io.StringIO(read_text(distances)), index_col=0)
    names = matrix.index.astype(str)
    parts, values = (
        names.str.split("-", expand=True).to_frame(index=False),
        matrix.to_numpy(np.float64),
    )
    if parts.shape[1] != 3 or list(names) != list(matrix.columns) or parts[0].nunique() != 1:
        raise InputError(
            f"{distances}: expected equal names of rows and columns, plate-replicate-well, of one "
            "plate"
        )
    off = ~np.eye(len(values), dtype=bool)
    if not ((values[off] >= 0) & (values[off] <= 1)).all():
        raise InputError(
            f"{distances}: expected numbers from 0 to 1, none missing beside the diagonal"
        )
    values[~off] = np.nan
    pooled = pd.DataFrame(values).groupby(parts[2]).mean().T.groupby(parts[2]).mean()
    facts = (
        pd.read_csv(io.StringIO(read_text(annotation)), dtype=str, keep_default_na=False)
        .query("plate == @plate", local_dict={"plate": str(int(parts[0][0]))})
        .set_index("well")
    )
    strange = sorted(set(pooled.index) - set(facts.index))
    if strange:
        raise InputError(
            f"{annotation}: expected every well of {distances}",
            [f"well {well}" for well in strange],
        )
    facts = facts.loc[pooled.index]
    table = pd.DataFrame(
        {
            "well": pooled.index,
            "content": facts["controlStatus"].str.lower(),
            "treatment": facts["GeneID"],
            "entrez": facts["LocusID"].where(facts["controlStatus"] == "sample", ""),
        }
    ).reset_index(drop=True)
    scaled = np.clip(pooled.to_numpy() + pooled.to_numpy().T - 1, 0, 1)
    np.fill_diagonal(scaled, 0)
    return table, scaled


def plate_clusters(table: pd.DataFrame, distances: np.ndarray) -> pd.DataFrame:
    """Return `read_plate`'s table with ``cluster`` and ``position``.

    The wells are clustered as treatments are.
    """
    return pd.concat([table, cut_tree(tree(distances))], axis=1)
