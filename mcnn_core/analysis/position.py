"""What plate, batch and place on the plate leave in the profiles, and a correction by place.

Nothing here reads a mechanism or a compound; treatments are only told from negative controls.
[Beyond the paper, which does not look.]
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.profiles import feature_columns, feature_matrix, row_names, with_features

PERMUTATIONS = 999  #: of labels, for a null distribution
AT_ONCE = 16  #: of them that are asked together
POLISHES = 10  #: rounds of the median polish, at most


def places(wells: pd.DataFrame) -> pd.DataFrame:
    """Return ``row`` and ``column`` (from 0) of each well and whether it is at the ``edge``.

    A well is at the edge where it lies in the first or last row or column that its screen uses.
    """
    parts = wells["Metadata_Well"].str.extract(r"^([A-Z]+)0*([0-9]+)$")
    letters = parts[0].map(
        lambda text: sum(26**i * (ord(c) - 64) for i, c in enumerate(text[::-1]))
    )
    place = pd.DataFrame({"row": letters - 1, "column": parts[1].astype(int) - 1}, wells.index)
    edges = [place[name].isin((place[name].min(), place[name].max())) for name in place]
    return place.assign(edge=edges[0] | edges[1])


def _permuted(
    statistic: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, within: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """Return a statistic of labels, its mean under permutation within groups, and the p-value.

    The statistic takes several ways of labelling, (m, n), and returns (m,) values.
    """
    rng, (observed,) = np.random.default_rng(seed), statistic(labels[None])
    null: list[float] = []
    groups = [np.flatnonzero(within == one) for one in np.unique(within)]
    for first in range(0, PERMUTATIONS, AT_ONCE):
        shuffled = np.tile(labels, (min(AT_ONCE, PERMUTATIONS - first), 1))
        for one, rows in product(shuffled, groups):
            one[rows] = labels[rng.permutation(rows)]
        null.extend(statistic(shuffled))
    beyond = sum(value >= observed - 1e-12 for value in null)
    return float(observed), float(np.mean(null)), (1 + beyond) / (1 + PERMUTATIONS)


def batch_recognition(wells: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say how well the plate, and the batch, of an untreated well can be told from its profile.

    The nearest other control well (cosine distance) is asked for its plate; for the batch, the
    nearest on another plate, since wells of one plate share more than their batch. The null
    permutes the plates of the wells, and the batches of the plates.

    Returns
    -------
    DataFrame
        One row each for ``plate`` and ``batch``, as far as there are two: ``controls``, ``groups``,
        the share ``recognised``, ``by chance`` and ``p_value``.
    """
    control = wells[wells["Metadata_control_type"] == "negcon"]
    plates, plate = np.unique(control["Metadata_Plate"].to_numpy(str), return_inverse=True)
    rows = []
    if len(plates) > 1:
        distances = cosine_distances(feature_matrix(control), names=row_names(control))
        np.fill_diagonal(distances, np.inf)
        nearest = distances.argmin(axis=1)

        def same_plate(labels: np.ndarray) -> np.ndarray:
            return (labels[:, nearest] == labels).mean(axis=1)

        one = np.zeros(len(plate), int)
        rows.append(("plate", len(control), len(plates), *_permuted(same_plate, plate, one, seed)))
        batch = control.groupby("Metadata_Plate")["Metadata_Batch"].first().to_numpy(str)
        if len(set(batch)) > 1 and (batch != "").all():
            abroad = np.where(plate[:, None] == plate, np.inf, distances).argmin(axis=1)

            def same_batch(labels: np.ndarray) -> np.ndarray:
                return (labels[:, plate[abroad]] == labels[:, plate]).mean(axis=1)

            found = _permuted(same_batch, batch, np.zeros(len(batch), int), seed)
            rows.append(("batch", len(control), len(set(batch)), *found))
    columns = ["label", "controls", "groups", "recognised", "by chance", "p_value"]
    return pd.DataFrame(rows, columns=columns).set_index("label")


class Grouping(NamedTuple):
    """Wells by one aspect of their place."""

    wells: str  #: negative controls, all
    name: str  #: row, column, edge
    labels: np.ndarray  #: (n,) int64
    plate: np.ndarray  #: (n,) str
    share: Callable[[np.ndarray], np.ndarray]  #: of the variance, between groups so labelled


def _groupings(wells: pd.DataFrame) -> Iterator[Grouping]:
    """Yield what `position_effects` asks of wells, as far as there are two groups."""
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    values, plate = feature_matrix(wells), wells["Metadata_Plate"].to_numpy(str)
    for kind, part in {"negative controls": control, "all": np.ones_like(control)}.items():
        frame = pd.DataFrame(values[part])
        x = (frame - frame.groupby(plate[part]).transform("mean")).to_numpy()
        total = np.square(x).sum()

        def share(labels: np.ndarray, x: np.ndarray = x, total: float = total) -> np.ndarray:
            names, n = np.unique(labels[0], return_counts=True)
            member = (labels[:, None] == names[:, None]).astype(float)  # (m, groups, wells)
            sums = member.reshape(-1, len(x)) @ x
            return (np.square(sums).sum(axis=1).reshape(-1, len(n)) / n).sum(axis=1) / total

        for name, groups in places(wells)[part].items():
            labels = groups.to_numpy(int)
            if total > 0 and 1 < len(set(labels)) < len(labels):
                yield Grouping(kind, str(name), labels, plate[part], share)


def position_shares(wells: pd.DataFrame) -> pd.Series:
    """Return the ``share`` of `position_effects` without its null, which takes long."""
    found = {(one.wells, one.name): one.share(one.labels[None])[0] for one in _groupings(wells)}
    index = pd.MultiIndex.from_tuples(list(found), names=["wells", "grouping"])
    return pd.Series(list(found.values()), index, name="share", dtype=float)


def position_effects(wells: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Say how much of the differences between wells of a plate goes with their place.

    After the plate's mean is taken off, the share of the variance of all profiles that lies between
    rows, between columns, and between edge and inside, over all plates together. The null permutes
    the wells of each plate. Among negative controls no such share is due to a treatment; among all
    wells it may be, where treatments have a fixed place.

    Returns
    -------
    DataFrame
        Indexed by ``wells`` (negative controls, all) and ``grouping`` (row, column, edge), as far
        as there are two groups: ``n``, ``share``, ``by chance``, ``p_value``.
    """
    rows = [
        (one.wells, one.name, len(one.labels), *_permuted(one.share, one.labels, one.plate, seed))
        for one in _groupings(wells)
    ]
    columns = ["wells", "grouping", "n", "share", "by chance", "p_value"]
    return pd.DataFrame(rows, columns=columns).set_index(["wells", "grouping"])


def controls_differ(wells: pd.DataFrame, level: float, seed: int = 0) -> bool:
    """Whether rows or columns of plates tell negative controls apart, with a p below `level`."""
    return any(
        _permuted(one.share, one.labels, one.plate, seed)[2] < level
        for one in _groupings(wells[wells["Metadata_control_type"] == "negcon"])
        if one.wells == "negative controls" and one.name != "edge"
    )


def position_map(wells: pd.DataFrame) -> pd.DataFrame:
    """Return how far the wells of each place lie from their plate's middle, on average over plates.

    The length of the mean, over plates, of the profile less the plate's median profile, in units of
    the median over places; rows and columns of the table are those of the plate, NaN where no well
    is used.
    """
    x = pd.DataFrame(feature_matrix(wells))
    x = x - x.groupby(wells["Metadata_Plate"].to_numpy(str)).transform("median")
    place = places(wells)
    mean = x.groupby([place["row"].to_numpy(), place["column"].to_numpy()]).mean()
    length = pd.Series(np.linalg.norm(mean, axis=1), mean.index)
    return (length / (length[length > 0].median() if (length > 0).any() else 1)).unstack()


def correct_position(wells: pd.DataFrame) -> pd.DataFrame:
    """Take off what rows and columns do on all plates alike, by a median polish of every feature.

    The row and column parts of the B score (Brideau et al. 2003, J Biomol Screen 8, 634), without
    its scaling; the wells of all plates are polished at once, less the level of their plate, which
    they keep. It reads no label, and rests on most wells of a row or column, over all plates, being
    without a strong effect: where plates repeat one design, or there is one alone, and whole rows
    or columns hold active treatments, it takes their effect off too.
    """
    values, place = feature_matrix(wells), places(wells)
    level = pd.DataFrame(values).groupby(wells["Metadata_Plate"].to_numpy(str)).transform("median")
    rest = values - level.to_numpy()
    for _ in range(POLISHES):
        before = rest
        for groups in (place["row"].to_numpy(), place["column"].to_numpy()):
            rest = rest - pd.DataFrame(rest).groupby(groups).transform("median").to_numpy()
        if np.allclose(rest, before, atol=1e-9 * max(1, np.abs(before).max())):
            break
    return with_features(wells, rest + level.to_numpy(), feature_columns(wells))
