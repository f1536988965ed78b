"""Phenotypes that no one annotated (paper: *BBBC021 analysis and results*, Fig. 4b).

The paper looks at the clusters that hold no annotated treatment. A cluster of treatments without
any effect also holds none, so here a treatment must first be told from the negative control: its
replicates must agree better than control wells do among themselves. No function reads what an
annotation says, only whether there is one.
"""

import numpy as np
import pandas as pd

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.profiles import centre, feature_matrix, has_controls
from mcnn_core.screen import row_names

DRAWS = 1000  #: sets of control wells that say how well wells without an effect agree
QUANTILE = 0.95  #: of them that a treatment must exceed

COLUMNS = ["treatment", "score", "cluster", "agreement", "threshold", "active", "novel"]
COLUMNS += ["cluster_score"]
#: ``novel.csv`` without a row
NOTHING = pd.DataFrame([("", 0.0, 0, 0.0, 0.0, True, True, 0.0)], columns=COLUMNS)[:0]


def _agreement(profiles: np.ndarray, plates: np.ndarray) -> float:
    """Return the median cosine between rows of (n, d) on different plates; NaN without a pair."""
    pairs = np.triu(plates[:, None] != plates, 1)
    return 1 - float(np.median(cosine_distances(profiles)[pairs])) if pairs.any() else np.nan


def activity(wells: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say of each treatment whether its replicates agree better than negative controls do.

    Every well is taken relative to the negative controls of its plate; agreement is the median
    cosine between pairs of a treatment's wells on different plates. Wells of one plate share the
    chance of their plate's controls, and would agree without any effect. The yardstick is the
    agreement of as many control wells, drawn at random `DRAWS` times (cf. "percent replicating",
    Way et al. 2022, Cell Systems 13, 911).

    Parameters
    ----------
    wells : DataFrame
        Well profiles with negative controls on every plate, two or more.
    seed : int
        Of the draws.

    Returns
    -------
    DataFrame
        Indexed by treatment (controls left out): ``wells``, ``agreement`` (-1 to 1; NaN for a
        single plate), ``threshold`` and ``active``. A treatment on a single plate cannot be tested
        and counts as active.
    """
    centred = centre(wells)
    values, kind = feature_matrix(centred), centred["Metadata_control_type"].to_numpy()
    named = (kind == "trt") & (centred["Metadata_Treatment"] != "").to_numpy()
    # the only control of a plate is its own median: it is all zero and has no direction
    controls = np.flatnonzero((kind == "negcon") & values.any(axis=1))
    rng, limits, rows = np.random.default_rng(seed), {}, {}
    plate, treatments = (centred[f"Metadata_{name}"].to_numpy() for name in ("Plate", "Treatment"))
    for treatment, part in pd.Series(np.flatnonzero(named)).groupby(treatments[named]):
        n = len(part)
        if n not in limits:
            size = min(n, len(controls))
            drawn = [
                # pairs within a plate count here
                _agreement(values[rng.choice(controls, size, replace=False)], np.arange(size))
                for _ in range(DRAWS if size > 1 else 0)
            ]
            limits[n] = float(np.quantile(drawn or [np.nan], QUANTILE))
        agreement = _agreement(values[part], plate[part])
        rows[treatment] = n, agreement, limits[n], not agreement <= limits[n]
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["wells", "agreement", "threshold", "active"]
    ).rename_axis("treatment")


def known(treatments: pd.DataFrame) -> np.ndarray:
    """Return the mask of annotated treatments and negative controls; positive ones are neither."""
    kind = treatments["Metadata_control_type"]
    return (((treatments["Metadata_MoA"] != "") & (kind == "trt")) | (kind == "negcon")).to_numpy()


def unannotated(treatments: pd.DataFrame) -> np.ndarray:
    """Return the mask of treatments without annotation; controls of either kind are none."""
    kind = treatments["Metadata_control_type"]
    return ((treatments["Metadata_MoA"] == "") & (kind == "trt")).to_numpy()


def treatment_names(profiles: pd.DataFrame) -> list[str]:
    """Return each row's treatment; a well without one is named by its place."""
    pairs = zip(profiles["Metadata_Treatment"], row_names(profiles), strict=True)
    return [treatment or name for treatment, name in pairs]


def novelty(wells: pd.DataFrame, treatments: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """Rank the treatments that no one annotated by how far they lie from everything known.

    Parameters
    ----------
    wells, treatments : DataFrame
        Their profiles.
    clusters : DataFrame
        ``cluster`` of each row of `treatments`, which the index counts, as from
        `mcnn_core.analysis.clusters.cluster_table`.

    Returns
    -------
    DataFrame
        ``novel.csv``, one row per treatment without annotation: ``treatment``, ``score`` (cosine
        distance to the nearest known profile, 0 to 2), ``cluster``, ``agreement``, ``threshold``
        and ``active`` as in `activity`, ``novel`` (active, in a cluster without any known profile)
        and ``cluster_score`` (median score of the cluster's novel treatments, NaN if it has none).
        Novel ones first, by cluster score, then score. No rows if a plate lacks negative controls.
    """
    is_known, is_new, x = known(treatments), unannotated(treatments), feature_matrix(treatments)
    if not is_new.any() or not has_controls(wells):
        return NOTHING
    new, tested = treatments[is_new], activity(wells)
    cluster = clusters["cluster"].sort_index().to_numpy()
    table = pd.DataFrame(
        {
            "treatment": treatment_names(new),
            "score": cosine_distances(x[is_new], x[is_known], names=row_names(new)).min(axis=1),
            "cluster": cluster[is_new],
        }
    ).join(tested[["agreement", "threshold"]], on="treatment")
    table["active"] = ~table["treatment"].isin(tested.index[~tested["active"].astype(bool)])
    table["novel"] = table["active"] & ~table["cluster"].isin(cluster[is_known])
    scores = table[table["novel"]].groupby("cluster")["score"].median()
    table["cluster_score"] = table["cluster"].map(scores)
    return table[COLUMNS].sort_values(
        ["novel", "cluster_score", "score"], ascending=False, kind="stable", ignore_index=True
    )
