"""Hierarchical clusters of treatments (paper: Methods, "Clustering"; Supplementary Table 7)."""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from mcnn_core.errors import InputError

#: Cosine distance at which the tree is cut: that of an angle of pi/3 (paper), as the literal 0.5, since
#: 1 - cos(pi/3) is 0.49999999999999989 in floating point and would split ties.
CUT = 0.5
LINKAGE = "average"  #: [ours: the paper names none] Ward's needs Euclidean distances, which cosine distances are not


def tree(distances: np.ndarray) -> np.ndarray:
    """Return the linkage matrix, (n - 1, 4), of an (n, n) distance matrix, its leaves in a near-optimal order.

    Optimal is the order, of all that the tree allows, in which neighbouring leaves are nearest
    (Bar-Joseph et al. 2001, Bioinformatics 17, S22); SciPy's implementation sometimes misses it narrowly.
    """
    if len(distances) < 2:
        raise InputError(f"a tree needs two profiles or more, found {len(distances)}")
    condensed = squareform(distances, checks=False)
    return optimal_leaf_ordering(linkage(condensed, LINKAGE), condensed)


def cut_tree(branches: np.ndarray, cut: float = CUT) -> pd.DataFrame:
    """Cut a tree into clusters.

    Parameters
    ----------
    branches : (n - 1, 4) array
        What `tree` returned.
    cut : float
        Cosine distance; profiles joined at or below it share a cluster.

    Returns
    -------
    DataFrame
        Row i for profile i: ``position`` among the ordered leaves, from 0, and ``cluster``, numbered from 1
        in that order.
    """
    leaves = leaves_list(branches)
    names = fcluster(branches, cut, criterion="distance")
    number = {name: i for i, name in enumerate(dict.fromkeys(names[leaves]), 1)}
    return pd.DataFrame({"position": np.argsort(leaves), "cluster": [number[name] for name in names]})
