"""Mechanism of action by the nearest neighbour, and what to compare each accuracy with.

Protocols: **NSC** (not same compound) forbids neighbours of the query's compound; **NSCB**
(not same compound or batch) also those of its batch (week). A query whose mechanism has no
allowed neighbour cannot be answered and is left out; `answerable` says which these are.
"""

import numpy as np
import pandas as pd

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_matrix
from mcnn_core.screen import row_names

PROTOCOLS = ("NSC", "NSCB")
#: What needs no profile, by its name in `floors`, and what figures and tables call it.
FLOORS = {"chance": "chance", "label_frequency": "label frequency", "batch_only": "week only"}
DESCRIBING = [f"Metadata_{name}" for name in ("Treatment", "Compound", "Concentration", "MoA")]
SUSPECT_COLUMNS = ["treatment", "compound", "concentration", "MoA"]
SUSPECT_COLUMNS += ["nearest_other", "own", "other", "silhouette"]


def _known(profiles: pd.DataFrame) -> pd.DataFrame:
    """Return the treatments with a known mechanism, without controls of either kind."""
    return profiles[(profiles["Metadata_MoA"] != "") & (profiles["Metadata_control_type"] == "trt")]


def annotated(profiles: pd.DataFrame) -> pd.DataFrame:
    """Return the treatments with a known mechanism, sorted by their names.

    This order, which knows no mechanism, breaks ties between neighbours.
    """
    rows = _known(profiles).sort_values("Metadata_Treatment", ignore_index=True)
    twice = rows["Metadata_Treatment"].duplicated(keep=False)
    if rows.empty or twice.any():
        raise InputError(
            "expected annotated treatments, one profile each", sorted(set(row_names(rows[twice])))
        )
    return rows


def _distances(rows: pd.DataFrame) -> np.ndarray:
    return cosine_distances(feature_matrix(rows), names=row_names(rows))


def _same(labels: pd.Series) -> np.ndarray:
    """Return the (n, n) mask of pairs that share a label."""
    return labels.to_numpy()[:, None] == labels.to_numpy()


def _has_batches(rows: pd.DataFrame) -> bool:
    return "Metadata_Batch" in rows and (rows["Metadata_Batch"] != "").all()


def _batches(rows: pd.DataFrame) -> np.ndarray:
    """Return the (n, n) mask of pairs that share a batch (joined by ; where there are several)."""
    if not _has_batches(rows):
        missing = rows[rows["Metadata_Batch"] == ""] if "Metadata_Batch" in rows else rows[:0]
        raise InputError("NSCB needs Metadata_Batch of all treatments; use NSC", row_names(missing))
    member = rows["Metadata_Batch"].str.get_dummies(";").to_numpy()
    return member @ member.T > 0


def _allowed(rows: pd.DataFrame, protocol: str) -> np.ndarray:
    """Return the (n, n) mask of allowed neighbours: row i, column j if j may be that of i."""
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    allowed = ~_same(rows["Metadata_Compound"])
    return allowed & ~_batches(rows) if protocol == "NSCB" else allowed


def answerable(profiles: pd.DataFrame, protocol: str) -> pd.Series:
    """Say for each annotated treatment, the index, if an allowed neighbour shares its mechanism.

    On BBBC021 all 103 are answerable under NSC and 92 under NSCB.
    """
    rows = annotated(profiles)
    answer = (_allowed(rows, protocol) & _same(rows["Metadata_MoA"])).any(axis=1)
    return pd.Series(answer, rows["Metadata_Treatment"], name="answerable")


def protocols(treatments: pd.DataFrame) -> list[str]:
    """Return the protocols that a screen can answer: NSCB needs batches, both an annotation."""
    known = _known(treatments)
    possible = PROTOCOLS[: 0 if known.empty else 1 + _has_batches(known)]
    return [name for name in possible if answerable(known, name).any()]


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
    distances = _distances(rows)
    # argmin takes the first of equals; rounding keeps float noise from deciding a tie
    nearest = np.where(_allowed(rows, protocol), distances.round(12), np.inf).argmin(axis=1)
    predictions = rows[DESCRIBING[1:]].set_axis(SUSPECT_COLUMNS[1:4], axis=1)
    predictions = predictions.assign(
        predicted=rows["Metadata_MoA"].to_numpy()[nearest],
        neighbour=rows["Metadata_Treatment"].to_numpy()[nearest],
        distance=distances[np.arange(len(rows)), nearest],
        protocol=protocol,
    )
    return predictions[answerable(profiles, protocol).to_numpy()].reset_index(drop=True)


def average_precisions(profiles: pd.DataFrame, protocol: str = "NSC") -> pd.Series:
    """Say how early each answerable treatment meets those of its own mechanism.

    From the nearest allowed neighbour outwards, where `nearest_neighbours` looks at the first only:
    1 if all of the own mechanism come first. The treatment is the index, in the same order.
    """
    from sklearn.metrics import average_precision_score

    rows = annotated(profiles)
    distances, allowed = _distances(rows).round(12), _allowed(rows, protocol)
    same, asked = _same(rows["Metadata_MoA"]), answerable(profiles, protocol)
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
        "overall": float(right.mean()),
        "class_median": float(right.groupby(predictions["MoA"]).mean().median()),
        "n": len(right),
        "low": low,
        "high": high,
    }


def confusion(predictions: pd.DataFrame, classes: list[str] | None = None) -> pd.DataFrame:
    """Count true (rows) against predicted (columns) mechanisms (Supplementary Table 5).

    `classes` gives the order and keeps mechanisms that no query had; by default all found, sorted.
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
    same, allowed = _same(rows["Metadata_MoA"]), _allowed(rows, protocol)
    guesses = {"chance": allowed, "label_frequency": np.ones_like(allowed)}
    if _has_batches(rows):
        guesses["batch_only"] = _allowed(rows, "NSC") & _batches(rows)
    right = {
        name: (same & mask).sum(axis=1) / mask.sum(axis=1).clip(min=1)
        for name, mask in guesses.items()
    }
    table = pd.DataFrame({"MoA": rows["Metadata_MoA"], **right})
    return table.set_index(rows["Metadata_Treatment"])[answerable(profiles, protocol)]


def suspects(profiles: pd.DataFrame) -> pd.DataFrame:
    """Rank the annotated treatments by how much the images contradict their annotation.

    The measure is the silhouette (Rousseeuw 1987) on cosine distances, treatments of the same
    compound left out: (b - a) / max(a, b), with a the mean distance to the treatments of the own
    mechanism and b that to the nearest other one. Near 1 the annotation fits, below 0 another
    fits better.

    Returns
    -------
    DataFrame
        ``suspects.csv``, most suspicious first: ``treatment, compound, concentration, MoA,
        nearest_other`` (mechanism), ``own`` (a), ``other`` (b), ``silhouette``. Treatments whose
        mechanism no other compound shares cannot be judged and are left out.
    """
    if not protocols(profiles):
        return pd.DataFrame(columns=SUSPECT_COLUMNS)
    rows = annotated(profiles)
    mechanism, names = rows["Metadata_MoA"].to_numpy(), np.unique(rows["Metadata_MoA"])
    holds = names[:, None] == mechanism  # (mechanisms, n)
    members = _allowed(rows, "NSC")[:, None] & holds  # (n, mechanisms, n)
    count = members.sum(axis=2)
    total = np.einsum("ij,ikj->ik", _distances(rows), members)
    mean = np.where(count > 0, total / count.clip(min=1), np.inf)
    own, others = mean[holds.T], np.where(holds.T, np.inf, mean)
    other = others.min(axis=1)
    table = rows[DESCRIBING].set_axis(SUSPECT_COLUMNS[:4], axis=1)
    table = table.assign(nearest_other=names[others.argmin(axis=1)], own=own, other=other)
    table = table[np.isfinite(own) & np.isfinite(other)]
    larger = table[["own", "other"]].max(axis=1).clip(lower=1e-12)
    table = table.assign(silhouette=(table["other"] - table["own"]) / larger)
    return table.sort_values("silhouette", kind="stable", ignore_index=True)
