from itertools import product

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import AgglomerativeClustering

from mcnn_core.analysis.clusters import CUT, _shortest, cut_tree, tree, turn_forks
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.errors import InputError


def together(names):
    """Return which pairs share a cluster, whatever the clusters are called."""
    return np.asarray(names)[:, None] == np.asarray(names)


def walk(distances, order):
    """Return the sum of distances between neighbouring leaves."""
    return distances[order[:-1], order[1:]].sum()


def orders(branches, node):
    """Return every order of the leaves below a node that turning its forks allows."""
    n = len(branches) + 1
    if node < n:
        return [[node]]
    left, right = (orders(branches, int(child)) for child in branches[node - n, :2])
    return [pair for a, b in product(left, right) for pair in (a + b, b + a)]


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_scipy_and_scikit_learn(seed):
    profiles = np.random.default_rng(seed).normal(size=(60, 4))
    found = cut_tree(tree(cosine_distances(profiles)))
    expected = fcluster(linkage(pdist(profiles, "cosine"), "average"), 0.5, "distance")
    np.testing.assert_array_equal(together(found["cluster"]), together(expected))
    other = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=0.5
    ).fit(profiles)
    np.testing.assert_array_equal(together(found["cluster"]), together(other.labels_))
    assert 1 < found["cluster"].nunique() < 60


def test_clusters_count_from_one_along_the_leaves():
    found = cut_tree(tree(cosine_distances(np.random.default_rng(1).normal(size=(40, 3)))))
    assert sorted(found["position"]) == list(range(40))
    along = found.sort_values("position")["cluster"].to_numpy()
    assert along[0] == 1 and set(np.diff(along)) == {0, 1}  # in one piece each, and numbered as met


def test_a_tie_at_the_cut_stays_together():
    """An angle of exactly 60 degrees: 1 - cos(pi/3) in floating point would part it."""
    distances = cosine_distances([[1, 0, 0, 0], [1, 1, 1, 1], [-1, 0, 0, 0.1]])
    assert distances[0, 1] == CUT == 0.5
    first, second, third = cut_tree(tree(distances))["cluster"]
    assert first == second != third
    assert cut_tree(tree(distances), 1 - np.cos(np.pi / 3))["cluster"].nunique() == 3


def test_average_linkage_by_hand():
    """The pair at 0.2 joins first.

    Its mean distance to the third, (0.4 + 0.58) / 2, lies below the cut, though one pair lies
    above.
    """
    distances = np.array([[0, 0.2, 0.4, 1], [0.2, 0, 0.58, 1], [0.4, 0.58, 0, 1], [1, 1, 1, 0.0]])
    branches = tree(distances)
    np.testing.assert_allclose(branches[:, 2:], [[0.2, 2], [0.49, 3], [1, 4]])
    found = cut_tree(branches)["cluster"].tolist()
    assert found[0] == found[1] == found[2] != found[3]
    assert cut_tree(branches, 0.48)["cluster"].nunique() == 3


# Trees from chains to nearly even halves.
@pytest.mark.parametrize("linkage_of", ["average", "single", "complete"])
@pytest.mark.parametrize("seed", range(5))
def test_of_all_orders_that_the_tree_allows_the_leaves_stand_in_the_best(seed, linkage_of):
    distances = cosine_distances(np.random.default_rng(seed).normal(size=(10, 3)))
    plain = linkage(distances[np.triu_indices(10, 1)], linkage_of)
    turned = turn_forks(plain, distances)
    np.testing.assert_array_equal(turned[:, 2:], plain[:, 2:])
    np.testing.assert_array_equal(np.sort(turned[:, :2]), np.sort(plain[:, :2]))
    allowed = orders(plain, 18)
    assert len(allowed) == 2**9 and leaves_list(turned).tolist() in allowed
    assert walk(distances, leaves_list(turned)) == pytest.approx(
        min(walk(distances, np.array(one)) for one in allowed), rel=1e-12
    )


def test_the_order_is_as_good_as_that_of_scipy_or_better():
    """On sizes where not all orders can be tried; scipy's is not always the best.

    https://github.com/scipy/scipy/issues/11227
    """
    for n in (2, 3, 50, 130):
        distances = cosine_distances(np.random.default_rng(n).normal(size=(n, 5)))
        branches = tree(distances)
        theirs = optimal_leaf_ordering(branches, squareform(distances, checks=False))
        assert walk(distances, leaves_list(branches)) <= walk(distances, leaves_list(theirs)) + 1e-9
        order = np.argsort(cut_tree(branches)["position"].to_numpy())
        np.testing.assert_array_equal(order, leaves_list(branches))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 9, 4), (9, 1, 4), (9, 4, 1), (5, 6, 7), (40, 3, 2000), (300, 200, 250)]
)
def test_shortest_ways_over_all_that_lie_between(shape):
    rows, between, columns = shape
    rng = np.random.default_rng(0)
    first, second = rng.random((rows, between)), rng.random((between, columns))
    found = _shortest(first, second)
    assert found.shape == (rows, columns)
    np.testing.assert_array_equal(
        found[::7], [(row[:, None] + second).min(axis=0) for row in first[::7]]
    )


def test_profiles_that_are_all_the_same_have_an_order():
    assert sorted(leaves_list(tree(np.zeros((6, 6))))) == list(range(6))


def test_a_tree_needs_two_profiles():
    for n in (0, 1):
        with pytest.raises(InputError, match=f"two profiles or more for a tree, got {n}"):
            tree(np.zeros((n, n)))
    two = cut_tree(tree(np.array([[0, 0.7], [0.7, 0]])))
    assert sorted(two["cluster"]) == [1, 2] and sorted(two["position"]) == [0, 1]
