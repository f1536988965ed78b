"""Features: the 128 activations of every field, and their principal components (paper: Methods, "Feature extraction")."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from tqdm import tqdm

from mcnn_core import engine
from mcnn_core.errors import InputError
from mcnn_core.files import atomic, read_json, write_json
from mcnn_core.model import MCNN, digest
from mcnn_core.screen import field_names

PART = 256  #: fields that `embed_screen` keeps together: what a killed run loses at most


def embed(model: MCNN, store: Any, rows: Sequence[int], batch: int = 64, progress: bool = True) -> np.ndarray:
    """Send whole fields, not augmented, through the network.

    Parameters
    ----------
    model : MCNN
        Trained or not; it is put in eval mode (no dropout, fixed normalisation).
    store : Store
    rows : sequence of int
        Rows of the store.
    batch : int
        Fields at a time, fewer where they are large.
    progress : bool

    Returns
    -------
    (n, 128) float32 array
        Activations of the fully connected layer after its ReLU, in the order of `rows`.
    """
    with tqdm(total=len(rows), disable=not progress, desc="features", unit="field") as bar:
        return engine.embed(model, engine.Fields(store.pixels), rows, batch, bar.update)


def embed_screen(model: MCNN, store: Any, folder: str | Path, progress: bool = True) -> np.ndarray:
    """Send every field of a store through the network, and keep what is done: a run that was killed goes on.

    Parameters
    ----------
    model : MCNN
    store : Store
    folder : path
        Receives ``part_<first row>.npy`` for every `PART` fields, each written whole or not at all, and
        ``embedding.json``, which says of which store and which weights they are. Parts of others are deleted.
    progress : bool

    Returns
    -------
    (n, 128) float32 array
        As `embed`, row i for row i of the store.
    """
    folder, n = Path(folder), len(store.pixels)
    identity = {"store": store.manifest["sha256"], "weights": digest(model), "part": PART, "fields": n}
    if not (folder / "embedding.json").exists() or read_json(folder / "embedding.json") != identity:
        for part in folder.glob("part_*.npy"):
            part.unlink()
        write_json(folder / "embedding.json", identity)
    parts = []
    for first in tqdm(range(0, n, PART), disable=not progress, desc="features", unit=f"{PART} fields"):
        path = folder / f"part_{first:08d}.npy"
        if not path.exists():
            with atomic(path) as temporary:
                np.save(temporary, embed(model, store, range(first, min(first + PART, n)), progress=False))
        parts.append(np.load(path, allow_pickle=False))
    return np.concatenate(parts)


def feature_frame(table: pd.DataFrame, activations: np.ndarray, training: np.ndarray) -> pd.DataFrame:
    """Join Metadata_*, Metadata_Training and MCNN_001 to MCNN_128; InputError if rows do not match or are not finite."""
    if not len(table) == len(activations) == len(training):
        raise InputError(f"{len(table)} fields need as many rows of features and training marks",
                         [f"{len(activations)} rows of features", f"{len(training)} training marks"])
    bad = ~np.isfinite(activations).all(axis=1)
    if bad.any():
        raise InputError("Features must be finite numbers", field_names(table[bad]))
    metadata = table[[column for column in table if column.startswith("Metadata_")]].reset_index(drop=True)
    features = pd.DataFrame(activations, columns=_numbered("MCNN", activations.shape[1]))
    return pd.concat([metadata.assign(Metadata_Training=np.asarray(training, dtype=bool)), features], axis=1)


@dataclass(frozen=True)
class Projection:
    """Principal axes of the training fields."""

    columns: tuple[str, ...]  #: features, in order
    mean: np.ndarray  #: (d,) float64: mean of the training fields, subtracted first [ours: the paper is silent]
    components: np.ndarray  #: (k, d) float64: orthonormal axes
    explained: np.ndarray  #: (k,) float64: part of the variance along each axis

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return Metadata_* columns and principal components, named MCNN_001 ... as features were (float64)."""
        missing = [f"column {column!r} is missing" for column in self.columns if column not in frame]
        if missing:
            raise InputError("The frame lacks features of the projection", missing)
        scores = (frame[list(self.columns)].to_numpy(dtype=np.float64) - self.mean) @ self.components.T
        names = _numbered(self.columns[0].split("_")[0], len(self.components))
        metadata = frame[[column for column in frame if column.startswith("Metadata_")]]
        return pd.concat([metadata, pd.DataFrame(scores, columns=names, index=frame.index)], axis=1)


def fit_pca(frame: pd.DataFrame, variance: float = 0.99) -> Projection:
    """Fit principal components on the non-augmented training fields, keeping a part of the variance.

    Parameters
    ----------
    frame : DataFrame
        Rows of `feature_frame` (or other features beside Metadata_*). InputError if a row is not marked
        as a training field in Metadata_Training, or if no feature varies.
    variance : float
        Part of the variance to keep, between 0 and 1 (paper: 0.99).
    """
    if "Metadata_Training" not in frame:
        raise InputError("PCA is fitted on training fields only: column Metadata_Training must mark them")
    marked = frame["Metadata_Training"].fillna(False).astype(bool).to_numpy()
    if not marked.all():
        raise InputError("PCA is fitted on training fields only: pass frame[frame.Metadata_Training]",
                         [f"{name} was not trained on" for name in field_names(frame[~marked])])
    columns = [column for column in frame if not column.startswith("Metadata_")]
    values = frame[columns].to_numpy(dtype=np.float64)
    if len(values) < 2 or not np.ptp(values, axis=0).any():
        raise InputError(f"PCA needs features that vary between at least two fields; {len(values)} fields of "
                         f"{len(columns)} features do not: has the network learned anything?")
    pca = PCA(n_components=variance, svd_solver="full").fit(values)
    return Projection(tuple(columns), pca.mean_, np.ascontiguousarray(pca.components_), pca.explained_variance_ratio_)


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}_{number:03d}" for number in range(1, n + 1)]
