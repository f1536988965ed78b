"""Which treatments do anything at all, and which mechanisms hold together: average precision.

A well is asked for its neighbours, nearest first. If its replicates come before the negative
controls, the treatment can be told from no treatment; if treatments of its own mechanism come
before all others, the mechanism can be told from the rest. The measure is the mean average
precision of Kalinin et al. (2025, Nature Communications 16, 5181), with its null distribution:
ranks drawn at random. [Beyond the paper, which asks every treatment for its mechanism.]
"""

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.profiles import feature_matrix, row_names

BLOCK = 256  #: rows that are ranked at a time, so that a large screen fits into memory
DRAWS = 10_000  #: random rankings that a p-value rests on
FDR = 0.05  #: share of false discoveries among what is called active or consistent
COLUMNS = ["wells", "mean_average_precision", "p_value", "q_value", "significant"]


def average_precision(
    distances: np.ndarray, positive: np.ndarray, candidate: np.ndarray
) -> np.ndarray:
    """Return how early each row meets its positives among its candidates, nearest first.

    Parameters
    ----------
    distances : (n, m) array
    positive, candidate : (n, m) bool array
        Whom a row is to find, and among whom; every positive is a candidate too. At equal distance
        positives come last.

    Returns
    -------
    (n,) float64 array
        The mean, over the positives, of the share of positives among the candidates up to there: 1
        where all positives come first. NaN for a row without a positive or without any other
        candidate.
    """
    order = np.lexsort((positive, distances.round(12), ~candidate), axis=1)
    found = np.take_along_axis(positive & candidate, order, axis=1)
    precision = found.cumsum(axis=1) / np.arange(1, found.shape[1] + 1)
    wanted, offered = found.sum(axis=1), candidate.sum(axis=1)
    mean = (precision * found).sum(axis=1) / wanted.clip(min=1)
    return np.where((wanted > 0) & (offered > wanted), mean, np.nan)


def random_precision(wanted: int, offered: int, rng: np.random.Generator) -> np.ndarray:
    """Return the average precision of `DRAWS` random rankings of `offered`, `wanted` of them."""
    ranks = rng.permuted(np.tile(np.arange(1, offered + 1), (DRAWS, 1)), axis=1)[:, :wanted]
    return (np.arange(1, wanted + 1) / np.sort(ranks, axis=1)).mean(axis=1)


def _tested(
    rows: pd.DataFrame,
    groups: pd.Series,
    pairs: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> pd.DataFrame:
    """Return the mean average precision of each group of rows, its p-value and q-value.

    `pairs` gives the masks of positives and candidates of some rows, (k, n) each. The null of a
    group is the mean of its members' nulls, where members that ask for equally many among equally
    many share their random rankings, as in the reference implementation: a cautious choice, since
    members of a group are not independent. A null that equals the observed value counts against it.
    """
    asked, name = np.flatnonzero((groups != "").to_numpy()), groups.name
    if not len(asked):
        return pd.DataFrame(columns=COLUMNS, index=pd.Index([], name=name))
    x, names, parts = feature_matrix(rows), np.array(row_names(rows)), []
    for first in range(0, len(asked), BLOCK):
        block = asked[first : first + BLOCK]
        positive, candidate = pairs(block)
        used = candidate.any(axis=0)
        if not used.any():
            continue
        positive, candidate = positive[:, used] & candidate[:, used], candidate[:, used]
        distances = cosine_distances(x[block], x[used], names=list(names[block]))
        values = {
            "precision": average_precision(distances, positive, candidate),
            "wanted": positive.sum(axis=1),
            "offered": candidate.sum(axis=1),
        }
        parts.append(pd.DataFrame(values, index=groups.iloc[block]).dropna())
    if not parts:
        return pd.DataFrame(columns=COLUMNS, index=pd.Index([], name=name))
    found = pd.concat(parts)
    rng, null = np.random.default_rng(seed), {}
    for key in sorted(set(zip(found["wanted"], found["offered"], strict=True))):
        null[key] = random_precision(*key, rng)
    means = found["precision"].groupby(level=0).agg(["size", "mean"])
    kinds = found.groupby([found.index, "wanted", "offered"]).size()
    table = []
    for group, members in groupby(kinds.items(), lambda item: item[0][0]):
        size, mean = means.loc[group, "size"], means.loc[group, "mean"]
        chance = sum(n * null[wanted, offered] for (_, wanted, offered), n in members) / size
        p = (1 + (chance >= mean - 1e-12).sum()) / (1 + DRAWS)
        table.append((group, size, mean, p))
    result = pd.DataFrame(table, columns=[name, *COLUMNS[:3]]).set_index(name)
    q = false_discovery_control(result["p_value"]) if len(result) else []
    return result.assign(q_value=q, significant=np.asarray(q, dtype=float) < FDR)


def activity(wells: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say of each treatment whether its wells can be told from the negative controls.

    Parameters
    ----------
    wells : DataFrame
        Well profiles. Positives of a well are the other wells of its treatment, candidates these
        and the negative controls of the plates of its treatment, or of all plates where those have
        none. [ours] Six controls of one plate could make no treatment of three wells significant.
    seed : int
        Of the random rankings.

    Returns
    -------
    DataFrame
        Indexed by ``Metadata_Treatment``, of those with two wells or more, `COLUMNS`: ``wells``,
        ``mean_average_precision`` (0 to 1), ``p_value``, ``q_value`` (Benjamini and Hochberg 1995),
        ``significant`` (q below `FDR`). Without rows where the screen has no negative control.
    """
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    plate, treatment = (
        pd.factorize(wells[f"Metadata_{name}"])[0] for name in ("Plate", "Treatment")
    )
    groups = wells["Metadata_Treatment"].mask(control, "")

    homes = np.zeros((treatment.max() + 1, plate.max() + 1), bool)  # plates of each treatment
    homes[treatment, plate] = True

    def pairs(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        near = control & homes[treatment[asked]][:, plate]
        reference = np.where(near.any(axis=1, keepdims=True), near, control)
        same = treatment[asked, None] == treatment
        same[np.arange(len(asked)), asked] = False
        return same, same | reference

    return _tested(wells, groups, pairs, seed)


def consistency(treatments: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say of each mechanism whether its compounds can be told from those of other mechanisms.

    As `activity`, for profiles of treatments: positives are treatments of the same mechanism and
    another compound, candidates these and the treatments of other mechanisms. Unannotated
    treatments are no candidates: no one knows which mechanism they share.
    """
    known = (treatments["Metadata_MoA"] != "") & (treatments["Metadata_control_type"] == "trt")
    rows = treatments[known].reset_index(drop=True)
    moa, compound = (pd.factorize(rows[f"Metadata_{name}"])[0] for name in ("MoA", "Compound"))

    def pairs(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        same, other = moa[asked, None] == moa, compound[asked, None] != compound
        return same & other, other

    return _tested(rows, rows["Metadata_MoA"], pairs, seed)
