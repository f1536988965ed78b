"""KiMorph: control wells told apart, and siRNAs compared with the controls.

Paper: *KiMorph analysis and results*, Fig. 2. The network learns on the wells of four control
siRNAs, every position a class of its own; it is never told which positions hold the same siRNA.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mcnn_core.analysis.clusters import cut_tree, tree
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.mechanisms import wilson
from mcnn_core.errors import InputError
from mcnn_core.profiles import aggregate, feature_matrix
from mcnn_core.screen import row_names

#: Random partitions, and the share of the wells in the training part (paper: Methods).
REPEATS, SHARE = 50, 0.9
BOOTSTRAPS = 2000

#: What may not be in the training part when a well is asked: nothing, as in the paper; or the other
#: replicate of its position [ours].
VARIANTS = {"random wells": "", "other replicate of the position left out": "Metadata_Position"}


def control_fields(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the mask of the fields whose ``Metadata_Content`` is one of the controls.

    All of them must occur.
    """
    content = table["Metadata_Content"].str.lower()
    if absent := sorted(set(names) - set(content)):
        raise InputError(
            f"expected controls of this screen: {', '.join(sorted(set(content)))}",
            [f"got {name!r}" for name in absent],
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
    """Predict the label of random tenths of the wells from the rest (Supplementary Table 1).

    Parameters
    ----------
    wells : DataFrame
        Well profiles of the controls.
    label : str
        Column to predict, as that of the nearest neighbour.
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
    from sklearn.model_selection import ShuffleSplit

    labels = wells[label].to_numpy()
    distances = cosine_distances(feature_matrix(wells), names=row_names(wells)).round(12)
    if apart:
        distances[wells[apart].to_numpy()[:, None] == wells[apart].to_numpy()] = np.inf
    splits = ShuffleSplit(repeats, train_size=share, random_state=seed).split(labels)
    rows = []
    for repeat, (known, asked) in enumerate(splits):
        part = distances[np.ix_(asked, known)]
        if np.isinf(part).all(axis=1).any():
            raise InputError(f"a well has no neighbour that differs in {apart}")
        predicted = labels[known][part.argmin(axis=1)]
        answers = {"repeat": repeat, "well": asked, "MoA": labels[asked], "predicted": predicted}
        rows.append(pd.DataFrame(answers))
    return pd.concat(rows, ignore_index=True)


def accuracy(predictions: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Return ``accuracy`` over all questions and its 95 % interval, ``low`` and ``high``.

    The interval is found by drawing wells anew. A well is asked about five times in 50 repeats;
    those answers are not independent, wells nearly are. Where all answers are alike, drawing shows
    no spread, and the interval is Wilson's with the wells as questions.
    """
    right = predictions["MoA"] == predictions["predicted"]
    answers = right.groupby(predictions["well"]).agg(["sum", "size"]).to_numpy()  # (wells, 2)
    n, (correct, asked) = len(answers), answers.sum(axis=0)
    if correct in (0, asked):
        low, high = wilson(n if correct else 0, n)
    else:
        drawn = np.random.default_rng(seed).integers(n, size=(BOOTSTRAPS, n))
        draws = answers[drawn].sum(axis=1)
        low, high = np.quantile(draws[:, 0] / draws[:, 1], (0.025, 0.975))
    return {"accuracy": float(correct / asked), "low": float(low), "high": float(high)}


def control_order(wells: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the control wells in the order of `names`, position and replicate (Fig. 2a)."""
    place = wells["Metadata_Content"].str.lower().map({name: i for i, name in enumerate(names)})
    held = wells.assign(place=place).dropna(subset="place")
    order = ["place", "Metadata_Position", "Metadata_Replicate"]
    return held.sort_values(order, ignore_index=True).drop(columns="place")


def compare_controls(profiles: Iterable[tuple[str, pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """Return `accuracy` of each method on the wells that were trained on, by `VARIANTS`.

    `profiles` are those of `mcnn_core.analysis.methods.method_profiles`.
    """
    return pd.DataFrame(
        {"method": name.replace("_", ", "), "variant": variant}
        | accuracy(hold_out(wells[wells["Metadata_Training"]], apart=apart))
        for name, wells, _ in profiles
        for variant, apart in VARIANTS.items()
    )


def sirna_profiles(wells: pd.DataFrame) -> pd.DataFrame:
    """Return one profile per siRNA, controls among them: medians over its wells (781 in paper)."""
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
    cluster, control = found["cluster"], content.isin(list(names)).to_numpy()
    holds = content[control].groupby(cluster[control]).agg(", ".join)
    far = pd.DataFrame(distances[:, control]).groupby(cluster).mean().min(axis=1)
    table = pd.DataFrame(
        {
            "treatment": sirnas["Metadata_Treatment"],
            "plate": "",
            "entrez": sirnas["Metadata_Entrez"],
            "content": content,
            "cluster": cluster,
            "holds": cluster.map(holds).fillna(""),
            "far": cluster.map(far),
        }
    )
    order = np.argsort(found["position"].to_numpy())
    return table.iloc[order], distances[np.ix_(order, order)]


def sirna_summary(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return the number of ``siRNAs``, ``holds`` and ``far`` of each cluster, largest first."""
    table = clusters.groupby("cluster").agg(
        siRNAs=("treatment", "size"), holds=("holds", "first"), far=("far", "first")
    )
    return table.sort_values("siRNAs", ascending=False, kind="stable").reset_index()
