"""What the network looks at: the loss of similarity when a channel or a scale is taken away.

Only a network of several scales can be asked which of them carries a phenotype. [Beyond the paper.]
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from mcnn_core.features import embed
from mcnn_core.model import MCNN
from mcnn_core.profiles import feature_frame, feature_matrix, fit_pca


class Replaced:
    """The pixels of fields, one channel of each taken from another field.

    Parameters
    ----------
    pixels : (n, H, W, C) uint8 array
    channel : int
    source : (n,) int array
        The row from which each field's channel is taken.
    """

    def __init__(self, pixels: Any, channel: int, source: np.ndarray):
        self.pixels, self.channel, self.source = pixels, channel, source
        self.shape = pixels.shape

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(self.pixels)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one field with the channel of another."""
        field = np.array(self.pixels[row])
        field[..., self.channel] = self.pixels[self.source[row]][..., self.channel]
        return field


@contextmanager
def silenced(model: MCNN, scale: int) -> Iterator[MCNN]:
    """Give the network with the output of one scale at zero."""
    hook = model.scales[scale].register_forward_hook(lambda _, inputs, output: output * 0)
    try:
        yield model
    finally:
        hook.remove()


def control_of_plate(table: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Return for every field the row of a negative control's field, of its plate where it has one.

    A control never stands for itself where there is another.
    """
    rng = np.random.default_rng(seed)
    control = (table["Metadata_control_type"] == "negcon").to_numpy()
    plate, source = table["Metadata_Plate"].to_numpy(), np.empty(len(table), int)
    for row in range(len(table)):
        near = np.flatnonzero(control & (plate == plate[row]))
        choices = near if len(near) else np.flatnonzero(control)
        others = choices[choices != row]
        source[row] = rng.choice(others if len(others) else choices)
    return source


def occlusion(
    model: MCNN, store: Any, table: pd.DataFrame, rows: np.ndarray, progress: bool = True
) -> pd.DataFrame:
    """Say how much of each field's similarity to its mechanism goes with a channel or a scale.

    Parameters
    ----------
    model : MCNN
        Trained.
    store : Store
    table : DataFrame
        The fields of the store, negative controls among them.
    rows : (k,) int array
        Annotated fields to ask; the mechanism's profile is the median of theirs.

    Returns
    -------
    DataFrame
        One row per field, index `rows`: ``Metadata_MoA``, and for every channel and scale the
        similarity (cosine of the principal components) to the mechanism's profile that is lost when
        the channel is replaced by that of a negative control of the plate, or the scale's output
        by zero. 0 where nothing depends on it.
    """
    part, marks = table.iloc[rows].reset_index(drop=True), np.ones(len(rows), dtype=bool)

    def frame(pixels: Any) -> pd.DataFrame:
        found = embed(model, SimpleNamespace(pixels=pixels), rows, progress=progress)
        return feature_frame(part, found, marks)

    plain = frame(store.pixels)
    axes = fit_pca(plain)
    x = feature_matrix(axes.transform(plain))
    mechanism = part["Metadata_MoA"].to_numpy()
    profile = pd.DataFrame(x).groupby(mechanism).median().loc[mechanism].to_numpy()

    def cosine(values: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(profile, axis=1)
        return (values * profile).sum(axis=1) / np.maximum(lengths, 1e-12)

    before, lost = cosine(x), {}
    source = control_of_plate(table)
    for channel, name in enumerate(store.channels):
        values = feature_matrix(axes.transform(frame(Replaced(store.pixels, channel, source))))
        lost[f"channel {name}"] = before - cosine(values)
    for scale in range(len(model.scales)):
        with silenced(model, scale), torch.inference_mode():
            values = feature_matrix(axes.transform(frame(store.pixels)))
        lost[f"scale 1/{2**scale}"] = before - cosine(values)
    return pd.DataFrame({"Metadata_MoA": mechanism, **lost}, index=rows)


def occlusion_map(
    model: MCNN, pixels: Any, row: int, source: int, size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Say where in a field its features come from, by squares of a negative control put over it.

    Parameters
    ----------
    model : MCNN
    pixels : (n, H, W, C) uint8 array
    row, source : int
        The field, and the control whose pixels cover it.
    size : int
        Side of the squares, which lie side by side.

    Returns
    -------
    (h, w) float64 array
        Distance (cosine) between the features of the field and those with one square covered.
    (H, W, C) uint8 array
        The field.
    """
    field, cover = np.array(pixels[row]), pixels[source]
    height, width = field.shape[0] // size, field.shape[1] // size
    covered = np.repeat(field[None], 1 + height * width, axis=0)
    for n in range(height * width):
        top, left = n // width * size, n % width * size
        place = slice(top, top + size), slice(left, left + size)
        covered[1 + n][place] = cover[place]
    store = SimpleNamespace(pixels=covered)
    x = embed(model, store, range(len(covered)), progress=False).astype(float)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return (1 - x[1:] @ x[0]).reshape(height, width), field
