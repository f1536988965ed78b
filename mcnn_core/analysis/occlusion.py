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

PIXELS = 6_000_000  #: of the fields that `asked_rows` returns: half a minute's work on two cores


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


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of some rows, evenly spread over them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))] if len(rows) else rows


def asked_rows(table: pd.DataFrame, size: int) -> np.ndarray:
    """Return annotated fields to ask, as many of each mechanism, spread over its wells.

    None where there are fewer than two negative controls.

    Parameters
    ----------
    table : DataFrame
    size : int
        Pixels of a field; all fields together have `PIXELS`, or four of each mechanism.
    """
    kind = table["Metadata_control_type"]
    rows = np.flatnonzero((table["Metadata_MoA"] != "") & (kind == "trt"))
    mechanism = table["Metadata_MoA"].to_numpy()[rows]
    if (kind == "negcon").sum() < 2 or not len(rows):
        return rows[:0]
    names = np.unique(mechanism)
    each = max(4, PIXELS // (size * len(names)))
    return np.sort(np.concatenate([_spread(rows[mechanism == name], each) for name in names]))


def occlusion(
    model: MCNN, store: Any, table: pd.DataFrame, rows: np.ndarray, progress: bool = True
) -> pd.DataFrame:
    """Say how much of each field's similarity to its mechanism goes with a channel or a scale.

    What is taken from a field is taken from some negative controls too, and every field is
    described by its difference from their median: a channel that does not fit the others, or a
    silent scale, is strange in itself, in a control no less.

    Parameters
    ----------
    model : MCNN
        Trained.
    store : Store
    table : DataFrame
        The fields of the store, negative controls among them.
    rows : (k,) int array
        Annotated fields to ask (`asked_rows`); the mechanism's profile is the median of theirs.

    Returns
    -------
    DataFrame
        One row per field, index `rows`: ``Metadata_MoA``, and for every channel and scale the
        similarity (cosine of the principal components) to the mechanism's profile that is lost when
        the channel is replaced by that of a negative control of the plate, or the scale's output
        by zero. 0 where nothing depends on it.
    """
    if not len(rows):
        return pd.DataFrame(columns=["Metadata_MoA"])
    negative = np.flatnonzero(table["Metadata_control_type"] == "negcon")
    asked = np.concatenate([rows, _spread(negative, max(16, len(rows) // 3))])
    part, marks = table.iloc[asked].reset_index(drop=True), np.ones(len(asked), dtype=bool)

    def frame(pixels: Any) -> pd.DataFrame:
        found = embed(model, SimpleNamespace(pixels=pixels), asked, progress=progress)
        return feature_frame(part, found, marks)

    def relative(one: pd.DataFrame) -> np.ndarray:
        values = feature_matrix(axes.transform(one))
        return values[: len(rows)] - np.median(values[len(rows) :], axis=0)

    plain = frame(store.pixels)
    axes = fit_pca(plain)
    x, mechanism = relative(plain), part["Metadata_MoA"].to_numpy()[: len(rows)]
    profile = pd.DataFrame(x).groupby(mechanism).median().loc[mechanism].to_numpy()

    def cosine(values: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(profile, axis=1)
        return (values * profile).sum(axis=1) / np.maximum(lengths, 1e-12)

    before, lost = cosine(x), {}
    source = control_of_plate(table)
    for channel, name in enumerate(store.channels):
        values = relative(frame(Replaced(store.pixels, channel, source)))
        lost[f"channel {name}"] = before - cosine(values)
    for scale in range(len(model.scales)):
        with silenced(model, scale), torch.inference_mode():
            lost[f"scale 1/{2**scale}"] = before - cosine(relative(frame(store.pixels)))
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
