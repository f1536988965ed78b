"""Mechanism of action by the nearest neighbour, and what must stand beside each accuracy.

Protocols: **NSC** (not same compound) forbids neighbours of the query's compound; **NSCB**
(not same compound or batch) also those of its batch (week). A query whose mechanism has no
allowed neighbour cannot be answered and is left out; `answerable` says which these are.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, silhouette_score

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_matrix, row_names

PROTOCOLS = ("NSC", "NSCB")


SUSPECT_COLUMNS = [
    "treatment",
    "compound",
    "concentration",
    "MoA",
    "nearest_other",
    "own",
    "other",
    "silhouette",
]


def annotated(profiles: pd.DataFrame) -> pd.DataFrame:
    """Return the treatments with a known mechanism, sorted by their names.

    Controls of either kind are left out. The order by name, which knows no mechanism, is what
    breaks ties between neighbours.
    """
    known = (profiles["Metadata_MoA"] != "") & (profiles["Metadata_control_type"] == "trt")
    rows = profiles[known].sort_values("Metadata_Treatment", ignore_index=True)
    twice = rows["Metadata_Treatment"].duplicated(keep=False)
    if rows.empty or twice.any():
        raise InputError(
            "expected annotated treatments, one profile each", sorted(set(row_names(rows[twice])))
        )
    return rows


def _batches(rows: pd.DataFrame) -> np.ndarray:
    """Return the (n, n) mask of pairs that share a batch (joined by ; where there are several)."""
    if "Metadata_Batch" not in rows:
        raise InputError("NSCB needs the column Metadata_Batch in the screen's table; use NSC")
    missing = rows["Metadata_Batch"] == ""
    if missing.any():
        raise InputError(
            "NSCB needs Metadata_Batch for every treatment; use NSC", row_names(rows[missing])
        )
    member = rows["Metadata_Batch"].str.get_dummies(";").to_numpy()
    return member @ member.T > 0


def _allowed(rows: pd.DataFrame, protocol: str) -> np.ndarray:
    """Return the (n, n) mask of allowed neighbours.

    May the column be the neighbour of the row?
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    compound = rows["Metadata_Compound"].to_numpy()
    allowed = compound[:, None] != compound
    return allowed & ~_batches(rows) if protocol == "NSCB" else allowed


def _same(labels: np.ndarray) -> np.ndarray:
    return labels[:, None] == labels


def answerable(profiles: pd.DataFrame, protocol: str) -> pd.Series:
    """Say for each annotated treatment whether an allowed neighbour shares its mechanism.

    The index is the treatment, the value a bool. On BBBC021 all 103 are answerable under NSC and 92
    under NSCB.
    """
    rows = annotated(profiles)
    answer = (_allowed(rows, protocol) & _same(rows["Metadata_MoA"].to_numpy())).any(axis=1)
    return pd.Series(answer, rows["Metadata_Treatment"], name="answerable")


def nearest_neighbours(profiles: pd.DataFrame, protocol: str = "NSC") -> pd.DataFrame:
    """Predict each annotated treatment's mechanism as that of its nearest allowed neighbour.

    Parameters
    ----------
    profiles : DataFrame
        Treatment profiles; unannotated ones and controls are neither queries nor neighbours.
    protocol : {"NSC", "NSCB"}
        Which neighbours are forbidden.

    Returns
    -------
    DataFrame
        One row per answerable treatment: ``compound, concentration, MoA, predicted, neighbour,
        distance, protocol``. Distances that agree to 12 decimals are ties, won by the
        treatment whose name comes first.
    """
    rows = annotated(profiles)
    distances = cosine_distances(feature_matrix(rows), names=row_names(rows))
    # argmin takes the first of equals; rounding keeps float noise from deciding a tie
    nearest = np.where(_allowed(rows, protocol), distances.round(12), np.inf).argmin(axis=1)
    predictions = pd.DataFrame(
        {
            "compound": rows["Metadata_Compound"],
            "concentration": rows["Metadata_Concentration"],
            "MoA": rows["Metadata_MoA"],
            "predicted": rows["Metadata_MoA"].to_numpy()[nearest],
            "neighbour": rows["Metadata_Treatment"].to_numpy()[nearest],
            "distance": distances[np.arange(len(rows)), nearest],
            "protocol": protocol,
        }
    )
    return predictions[answerable(profiles, protocol).to_numpy()].reset_index(drop=True)


def average_precisions(profiles: pd.DataFrame, protocol: str = "NSC") -> pd.Series:
    """Say how early each annotated treatment meets those of its own mechanism.

    One goes from its nearest allowed neighbour outwards. Finer than `nearest_neighbours`, which
    looks at the first only.

    Returns
    -------
    Series
        Average precision (0 to 1; 1 where all of the own mechanism come first) of each answerable
        treatment, the index, in the order of `nearest_neighbours`.
    """
    rows = annotated(profiles)
    distances, allowed = (
        cosine_distances(feature_matrix(rows), names=row_names(rows)).round(12),
        _allowed(rows, protocol),
    )
    same, asked = _same(rows["Metadata_MoA"].to_numpy()), answerable(profiles, protocol)
    found = [
        average_precision_score(same[row, allowed[row]], -distances[row, allowed[row]])
        for row in np.flatnonzero(asked)
    ]
    return pd.Series(found, asked.index[asked], name="average_precision", dtype=float)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for `correct` of `n`, as fractions.

    It takes the answers as independent; treatments of one compound are not, so the truth is wider.
    """
    if n == 0:
        return 0.0, 1.0
    share, z = correct / n, 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Return ``overall`` accuracy, ``class_median``, ``n`` and the Wilson ``low`` and ``high``.

    The paper's 88 % is a ``class_median``.
    """
    if predictions.empty:
        raise InputError(
            "no answerable query: every mechanism needs two compounds (in two batches for NSCB)"
        )
    right = predictions["MoA"] == predictions["predicted"]
    low, high = wilson(int(right.sum()), len(right))
    return {
        "overall": int(right.sum()) / len(right),
        "class_median": float(right.groupby(predictions["MoA"]).mean().median()),
        "n": len(right),
        "low": low,
        "high": high,
    }


def confusion(predictions: pd.DataFrame, classes: list[str] | None = None) -> pd.DataFrame:
    """Count true (rows) against predicted (columns) mechanisms (Supplementary Table 5).

    `classes` gives the order and keeps mechanisms that no query had; by default all seen, sorted.
    """
    classes = classes or sorted(set(predictions["MoA"]) | set(predictions["predicted"]))
    counts = pd.crosstab(predictions["MoA"], predictions["predicted"])
    return counts.reindex(index=classes, columns=classes, fill_value=0)


def floors(profiles: pd.DataFrame, protocol: str = "NSC") -> pd.DataFrame:
    """Return each answerable query's exact probability to be right without looking at images.

    Returns
    -------
    DataFrame
        Indexed by treatment, with ``MoA``; ``chance``, a random allowed treatment;
        ``label_frequency``, a mechanism drawn by its share of the treatments; and, where the
        screen has batches, ``batch_only``, a random treatment of the same batch and another
        compound (0 if there is none), whatever the protocol. Means are expected accuracies:
        a chance of 6.0 % on BBBC021 under NSC.
    """
    rows = annotated(profiles)
    same, allowed = _same(rows["Metadata_MoA"].to_numpy()), _allowed(rows, protocol)
    guesses = {"chance": allowed, "label_frequency": np.ones_like(allowed)}
    if "Metadata_Batch" in rows and (rows["Metadata_Batch"] != "").all():
        guesses["batch_only"] = _allowed(rows, "NSC") & _batches(rows)
    right = {
        name: (same & mask).sum(axis=1) / mask.sum(axis=1).clip(min=1)
        for name, mask in guesses.items()
    }
    table = pd.DataFrame({"MoA": rows["Metadata_MoA"], **right}).set_index(
        rows["Metadata_Treatment"]
    )
    return table[answerable(profiles, protocol)]


def subgroups(profiles: pd.DataFrame) -> pd.DataFrame:
    """Compare distances within and between the compounds of each mechanism.

    This is the paper's Aurora example.

    Returns
    -------
    DataFrame
        Indexed by mechanism: ``compounds``, ``treatments``, median cosine distance ``within`` a
        compound and ``between`` compounds, and the mean ``silhouette`` with compounds as groups
        (near 1: one sub-phenotype per compound; near 0: none). NaN where there is nothing to
        compare.
    """
    table = {}
    for mechanism, part in annotated(profiles).groupby("Metadata_MoA"):
        compound = part["Metadata_Compound"].to_numpy()
        distances, same = (
            cosine_distances(feature_matrix(part), names=row_names(part)),
            _same(compound),
        )
        kinds = len(set(compound))
        silhouette = (
            float(silhouette_score(distances, compound, metric="precomputed"))
            if 1 < kinds < len(part)
            else np.nan
        )
        table[mechanism] = {
            "compounds": kinds,
            "treatments": len(part),
            "within": _median(distances[same & ~np.eye(len(part), dtype=bool)]),
            "between": _median(distances[~same]),
            "silhouette": silhouette,
        }
    return (
        pd.DataFrame.from_dict(table, orient="index")
        .rename_axis("MoA")
        .astype({"compounds": int, "treatments": int})
    )


def suspects(profiles: pd.DataFrame) -> pd.DataFrame:
    """Rank the annotated treatments by how much the images contradict their annotation.

    This is ``suspects.csv``. The measure is the silhouette (Rousseeuw 1987) with treatments of the
    same compound left out, on cosine distances: (b - a) / max(a, b), with a the mean distance to
    the treatments of the own mechanism and b that to the nearest other mechanism. Near 1 the
    annotation fits, below 0 another fits better.

    Returns
    -------
    DataFrame
        Most suspicious first: ``treatment, compound, concentration, MoA, nearest_other``
        (mechanism), ``own`` (a), ``other`` (b), ``silhouette``. Treatments whose mechanism no other
        compound shares cannot be judged and are left out.
    """
    rows = annotated(profiles)
    distances, allowed = (
        cosine_distances(feature_matrix(rows), names=row_names(rows)),
        _allowed(rows, "NSC"),
    )
    mechanism = rows["Metadata_MoA"].to_numpy()
    names = sorted(set(mechanism))
    # (n, mechanisms, n)
    members = np.stack([allowed & (mechanism == name) for name in names], axis=1)
    count = members.sum(axis=2)
    mean = np.where(
        count > 0, np.einsum("ij,ikj->ik", distances, members) / count.clip(min=1), np.inf
    )
    own_place = mechanism[:, None] == np.array(names)
    own, others = mean[own_place], np.where(own_place, np.inf, mean)
    other = others.min(axis=1)
    table = pd.DataFrame(
        {
            "treatment": rows["Metadata_Treatment"],
            "compound": rows["Metadata_Compound"],
            "concentration": rows["Metadata_Concentration"],
            "MoA": mechanism,
            "nearest_other": np.array(names)[others.argmin(axis=1)],
            "own": own,
            "other": other,
        }
    )
    judged = table[np.isfinite(own) & np.isfinite(other)]
    scored = judged.assign(
        silhouette=(judged["other"] - judged["own"])
        / judged[["own", "other"]].max(axis=1).clip(lower=1e-12)
    )
    return scored.sort_values("silhouette", kind="stable", ignore_index=True)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.nan


def protocols(treatments: pd.DataFrame) -> list[str]:
    """Return the protocols that a screen can answer: NSCB needs batches, both an annotation."""
    known = treatments[
        (treatments["Metadata_MoA"] != "") & (treatments["Metadata_control_type"] == "trt")
    ]
    if known.empty:
        return []
    batched = "Metadata_Batch" in known and (known["Metadata_Batch"] != "").all()
    return [
        name
        for name in PROTOCOLS
        if (name == "NSC" or batched) and answerable(treatments, name).any()
    ]


def suspicions(treatments: pd.DataFrame) -> pd.DataFrame:
    """Return ``suspects.csv``, `mcnn_core.analysis.mechanisms.suspects`."""
    return suspects(treatments) if protocols(treatments) else pd.DataFrame(columns=SUSPECT_COLUMNS)
