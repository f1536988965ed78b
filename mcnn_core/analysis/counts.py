"""Nuclei per field, and what is left of a distance when their number is taken off.

The first thing to ask of a strong phenotype is whether there are simply fewer cells. Counting needs
no training: a threshold and the peaks of the distance to it. [Beyond the paper, ours.]
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, feature_matrix, with_features

NUCLEI = "Metadata_Nuclei_per_field"  #: the column of a table of fields or wells
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


def with_nuclei(table: pd.DataFrame, store: Any) -> pd.DataFrame:
    """Return the fields of a screen with `NUCLEI`: nuclei per field, the mean over a well's fields.

    Row i of `table` is row i of the store. Without the column, and with a printed line that says
    why, where the channel of nuclei cannot be told (`nuclear_channel`).
    """
    try:
        channel = nuclear_channel(store.channels)
    except InputError as error:
        print(f"nuclei are not counted: {error}")
        return table
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # SciPy's filters run side by side
        rows = range(len(table))
        found = threads.map(lambda row: count_nuclei(store.pixels[row][..., channel]), rows)
        counted = pd.Series(list(found), table.index, dtype=float)
    wells = [table["Metadata_Plate"], table["Metadata_Well"]]
    return table.assign(**{NUCLEI: counted.groupby(wells).transform("mean")})


def can_count_out(wells: pd.DataFrame) -> bool:
    """Whether profiles have counts, and negative controls that differ in theirs."""
    if NUCLEI not in wells:
        return False
    return wells.loc[wells["Metadata_control_type"] == "negcon", NUCLEI].nunique() > 1


def without_count(wells: pd.DataFrame) -> pd.DataFrame:
    """Return profiles less what a straight line from the number of nuclei predicts of them.

    The predictor is the logarithm of `NUCLEI`. The line is fitted to the negative controls alone,
    so that it says what density does to untreated cells.
    """
    values = feature_matrix(wells)
    x = np.log(wells[NUCLEI].clip(lower=1)).to_numpy()
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    slope, _ = np.polyfit(x[control], values[control], 1)
    rest = values - (x - x[control].mean())[:, None] * slope
    return with_features(wells, rest, feature_columns(wells))


def count_table(wells: pd.DataFrame) -> pd.DataFrame:
    """Return per treatment the median number of nuclei, and as a share of its plates' controls.

    Columns ``nuclei`` and ``share_of_controls``, index the treatment; NaN without controls, and
    without rows where nothing is counted.
    """
    if NUCLEI not in wells:
        return pd.DataFrame(columns=["nuclei", "share_of_controls"], dtype=float)
    control = wells["Metadata_control_type"] == "negcon"
    usual = wells[NUCLEI][control].groupby(wells["Metadata_Plate"]).median()
    share = wells[NUCLEI] / wells["Metadata_Plate"].map(usual).replace(0, np.nan)
    table = pd.DataFrame({"nuclei": wells[NUCLEI], "share_of_controls": share})
    return table.groupby(wells["Metadata_Treatment"]).median().rename_axis("treatment")
