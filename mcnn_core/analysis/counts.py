"""Nuclei per field, and what is left of a distance when their number is taken off.

The first thing to ask of a strong phenotype is whether there are simply fewer cells. Counting needs
no training: a threshold and the peaks of the distance to it. [Beyond the paper, ours.]
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from mcnn_core.errors import InputError

NUCLEAR = r"dapi|hoechst|dna|draq|nucle|nuc|h2b"  #: what channels of nuclei are called
SMALLEST = 9  #: pixels of a nucleus
CONTRAST = (
    4.0  #: standard deviations of the background by which nuclei stand out; noise reaches 2.7
)


def nuclear_channel(channels: Sequence[str]) -> int:
    """Return the position of the channel of nuclei by its name; InputError if there is not one."""
    found = [place for place, name in enumerate(channels) if re.search(NUCLEAR, name, re.I)]
    if len(found) != 1:
        raise InputError(
            f"expected one channel of nuclei (named like DAPI, Hoechst or DNA), got {len(found)} "
            f"among {', '.join(channels)}"
        )
    return found[0]


def otsu(image: np.ndarray) -> float:
    """Return the grey value that splits an image with the largest variance between both parts.

    Otsu (1979, IEEE Trans. Syst. Man Cybern. 9, 62), over 256 bins; NaN for a constant image.
    """
    counts, edges = np.histogram(image, 256)
    if edges[0] == edges[-1] or image.min() == image.max():
        return float("nan")
    middle = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * middle).cumsum()
    above = counts.sum() - below
    means = sums[:-1] / below.clip(min=1), (sums[-1] - sums[:-1]) / above.clip(min=1)
    return float(edges[1 + (below * above * (means[0] - means[1]) ** 2).argmax()])


def count_nuclei(image: np.ndarray) -> int:
    """Count nuclei in an image of their channel.

    Smoothed by one pixel and split by `otsu`; the typical radius is that of a disc with the median
    area of the pieces; nuclei are the peaks of the distance to the background, one within 0.8 of
    that radius, that rise to a third of it. 0 where the bright part does not stand out.

    Parameters
    ----------
    image : (H, W) array
        Grey values of any scale.
    """
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), 1)
    inside = smooth > otsu(smooth)
    if not inside.any() or inside.all():
        return 0
    background = smooth[~inside]
    if smooth[inside].mean() - background.mean() < CONTRAST * background.std():
        return 0
    areas = np.bincount(ndimage.label(inside)[0].ravel())[1:]
    areas = areas[areas >= SMALLEST]
    if not len(areas):
        return 0
    radius = float(np.sqrt(np.median(areas) / np.pi))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), radius / 6)
    reach = 2 * max(1, round(0.8 * radius)) + 1
    peaks = (distance == ndimage.maximum_filter(distance, reach)) & (distance > radius / 3)
    return int(ndimage.label(peaks, np.ones((3, 3)))[1])


def nuclei(store: Any, channel: int, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Return the number of nuclei in each field of a store, (n,) int."""
    rows = range(len(store.pixels)) if rows is None else rows
    return np.array([count_nuclei(store.pixels[row][..., channel]) for row in rows], dtype=int)


def without_count(values: np.ndarray, count: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return profiles less what a straight line from the number of nuclei predicts of them.

    Parameters
    ----------
    values : (n, d) array
    count : (n,) array
        Nuclei per well; its logarithm is the predictor.
    control : (n,) bool array
        Negative controls: the line is fitted to them alone, so that it says what density does to
        untreated cells.
    """
    x = np.log(np.maximum(count, 1.0))
    if np.ptp(x[control]) == 0:
        return values.copy()
    slope, _ = np.polyfit(x[control], values[control], 1)
    return values - (x - x[control].mean())[:, None] * slope


def count_table(wells: pd.DataFrame, count: pd.Series) -> pd.DataFrame:
    """Return per treatment the median number of nuclei, as a share of its plates' controls.

    ``nuclei``, ``share of controls``; `count` has the index of `wells`.
    """
    control = wells["Metadata_control_type"] == "negcon"
    usual = count[control].groupby(wells["Metadata_Plate"]).median()
    share = count / wells["Metadata_Plate"].map(usual).replace(0, np.nan)
    table = pd.DataFrame({"nuclei": count, "share of controls": share})
    return table.groupby(wells["Metadata_Treatment"].to_numpy()).median().rename_axis("treatment")
