import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances as sklearn_distances

from mcnn_core.analysis.distances import cosine_distances, similarity
from mcnn_core.errors import InputError


@given(arrays(np.float64, (7, 4), elements=st.floats(-1e3, 1e3).map(lambda v: round(v, 3) or 1.0)))
def test_agrees_with_scipy_and_scikit_learn(x):
    ours = cosine_distances(x)
    np.testing.assert_allclose(ours, cdist(x, x, "cosine"), atol=1e-9)
    np.testing.assert_allclose(ours, sklearn_distances(x), atol=1e-9)
    np.testing.assert_allclose(cosine_distances(x[:3], x), ours[:3], atol=1e-12)
    assert (
        (ours.diagonal() == 0).all()
        and (ours == ours.T).all()
        and ours.min() >= 0
        and ours.max() <= 2
    )


def test_range_and_extremes():
    x = np.array([[1.0, 0], [1e-300, 0], [-1e300, 0], [0, 1]])
    np.testing.assert_allclose(cosine_distances(x)[0], [0, 0, 2, 1], atol=1e-15)
    np.testing.assert_allclose(similarity(cosine_distances(x))[0], [2, 2, 0, 1], atol=1e-15)
    assert cosine_distances(x[[0, 3]].astype(np.float32)).dtype == np.float64


def test_zero_and_unfinished_rows_are_named():
    x = np.array([[1.0, 2], [0, 0], [np.nan, 1], [np.inf, 1]])
    with pytest.raises(InputError) as error:
        cosine_distances(x, names=["a | 1", "b | 1", "c | 1", "d | 1"])
    assert error.value.problems == ["b | 1: all zero", "c | 1: not finite", "d | 1: not finite"]
    with pytest.raises(InputError, match="row 1: all zero"):
        cosine_distances(x[:2])
    with pytest.raises(InputError, match="shape"):
        cosine_distances(np.zeros(3))
