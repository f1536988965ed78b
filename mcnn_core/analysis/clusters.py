"""Hierarchical clusters of treatments (paper: Methods, "Clustering"; Supplementary Table 7)."""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_matrix
from mcnn_core.screen import row_names

#: Cosine distance at which the tree is cut: that of an angle of pi/3 (paper), as the literal 0.5,
#: since 1 - cos(pi/3) is 0.49999999999999989 in floating point and would split ties.
CUT = 0.5

#: [ours: the paper names none] Ward's needs Euclidean distances, which cosine distances are not.
LINKAGE = "average"

#: What a table says of each profile, and the columns that hold it.
DESCRIBED = {
    "treatment": "Metadata_Treatment",
    "plate": "Metadata_Plate",
    "well": "Metadata_Well",
    "compound": "Metadata_Compound",
    "concentration": "Metadata_Concentration",
    "MoA": "Metadata_MoA",
    "control": "Metadata_control_type",
}


def tree(distances: np.ndarray) -> np.ndarray:
    """Return the linkage matrix, (n - 1, 4), of an (n, n) distance matrix, by `turn_forks`."""
    if len(distances) < 2:
        raise InputError(f"expected two profiles or more for a tree, got {len(distances)}")
    return turn_forks(linkage(squareform(distances, checks=False), LINKAGE), distances)


def turn_forks(branches: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Turn the forks of a tree so that neighbouring leaves are as near as it allows.

    Of all orders of the leaves that the tree allows, the one with the least sum of distances
    between neighbours (Bar-Joseph et al. 2001, Bioinformatics 17, S22). Fork by fork, from the
    leaves up, the best order is found for every first leaf u in one half and every last leaf w in
    the other: the best path from u to some m, a step from m to some k across the fork, and the best
    path from k to w. This is two products of matrices in which sums are products and minima are
    sums, n^3 additions at most, and 16 n^2 bytes. (SciPy's ``optimal_leaf_ordering`` misses the
    optimum by some per cent, https://github.com/scipy/scipy/issues/11227.)

    Takes a linkage matrix, (n - 1, 4), and symmetric distances, (n, n). Returns the same tree; of
    two children the first stands first.
    """
    n, plain, children = len(distances), leaves_list(branches), branches[:, :2].astype(int)
    distances = distances[np.ix_(plain, plain)]  # so that the leaves of each node stand together
    span = [slice(place, place + 1) for place in np.argsort(plain)]
    # where a path through all leaves of a node may begin and end
    ends = [[(leaf, leaf)] for leaf in span]
    # the shortest from one leaf to another through all leaves of the smallest node that holds both
    path = np.zeros((n, n))
    for left, right in children:
        for begin, inner in ends[left]:
            for near, end in ends[right]:
                path[begin, end] = _shortest(
                    _shortest(path[begin, inner], distances[inner, near]), path[near, end]
                )
                path[end, begin] = path[begin, end].T
        ends.append([(span[left], span[right]), (span[right], span[left])])
        span.append(slice(span[left].start, span[right].stop))

    turned, (begin, end) = branches.copy(), ends[-1][0]
    first, last = np.unravel_index(path[begin, end].argmin(), path[begin, end].shape)
    outer = {2 * n - 2: (first, end.start + last)}  # the first and last leaf of each node
    for node in range(2 * n - 2, n - 1, -1):
        (left, right), (begin, end) = children[node - n], outer[node]
        if begin >= span[left].stop:
            left, right = turned[node - n, :2] = right, left
        inner = next(inner for half, inner in ends[left] if half.start <= begin < half.stop)
        near = next(near for near, half in ends[right] if half.start <= end < half.stop)
        ways = path[begin, inner][:, None] + distances[inner, near] + path[near, end]
        m, k = np.unravel_index(ways.argmin(), ways.shape)
        outer |= {left: (begin, inner.start + m), right: (near.start + k, end)}
    return turned


def _shortest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return min over k of ``first[i, k] + second[k, j]``, looping over the shorter of i and j."""
    if second.shape[1] < len(first):
        return _shortest(second.T, first.T).T
    return np.stack([(row[:, None] + second).min(axis=0) for row in first])


def cut_tree(branches: np.ndarray, cut: float = CUT) -> pd.DataFrame:
    """Cut a tree into clusters of profiles joined at the cosine distance `cut` or below.

    Returns
    -------
    DataFrame
        Row i for profile i: ``position`` among the ordered leaves, from 0, and ``cluster``,
        numbered from 1 in that order.
    """
    leaves = leaves_list(branches)
    names = fcluster(branches, cut, criterion="distance")
    number = {name: i for i, name in enumerate(dict.fromkeys(names[leaves]), 1)}
    return pd.DataFrame(
        {"position": np.argsort(leaves), "cluster": [number[name] for name in names]}
    )


def described(profiles: pd.DataFrame) -> pd.DataFrame:
    """Return what each profile is: the columns of `DESCRIBED` that there are."""
    return pd.DataFrame(
        {name: profiles[column] for name, column in DESCRIBED.items() if column in profiles},
        index=profiles.index,
    )


def cluster_table(treatments: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Cluster treatment profiles (Supplementary Table 7).

    Returns
    -------
    DataFrame
        ``clusters.csv``: what each treatment is, and its ``cluster``, in the order of the leaves;
        the index says which row of `treatments`.
    (n, n) float64 array
        Cosine distances in the same order.
    """
    distances = cosine_distances(feature_matrix(treatments), names=row_names(treatments))
    found = cut_tree(tree(distances))
    order = np.argsort(found["position"].to_numpy())
    table = described(treatments.reset_index(drop=True)).assign(cluster=found["cluster"])
    return table.iloc[order], distances[np.ix_(order, order)]
