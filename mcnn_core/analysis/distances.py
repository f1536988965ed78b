"""Cosine distances between profiles."""

from collections.abc import Sequence

import numpy as np

from mcnn_core.errors import InputError


def _unit(x: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    """Scale the rows of a (n, d) array to length 1, in float64."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise InputError(f"expected a table of profiles, (rows, features), got shape {x.shape}")
    largest = np.abs(x).max(axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(largest) | (largest == 0))
    if bad.size:
        problems = [
            f"{names[row] if names else f'row {row}'}: "
            + ("all zero" if largest[row, 0] == 0 else "not finite")
            for row in bad.tolist()
        ]
        raise InputError("expected finite profiles that are not all zero", problems)
    x = x / largest  # first to at most 1, so that no square over- or underflows
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosine_distances(
    x: np.ndarray, y: np.ndarray | None = None, names: Sequence[str] | None = None
) -> np.ndarray:
    """Return 1 - cos(angle), in float64, between every row of `x` and every row of `y`.

    Parameters
    ----------
    x : (n, d) array
    y : (m, d) array, optional
        `x` itself if absent, and then the diagonal is exactly 0.
    names : sequence of str, optional
        Names of the rows of `x` for messages.

    Returns
    -------
    (n, m) float64 array
        From 0 (same direction) to 2 (opposite), as in the paper's Methods.

    Raises
    ------
    InputError
        Naming every row that is all zero or not finite.
    """
    first = _unit(x, names)
    second = first if y is None else _unit(y, None)
    distances = np.clip(1.0 - first @ second.T, 0.0, 2.0)
    if y is None:
        distances = (distances + distances.T) / 2
        np.fill_diagonal(distances, 0.0)
    return distances


def similarity(distances: np.ndarray) -> np.ndarray:
    """Return two minus the cosine distance: 2 for the same direction, 0 for opposite ones."""
    return 2.0 - np.asarray(distances)
