"""Uneven light, divided out of the counts before anything else.

A lamp is brighter in the middle of a field than in its corners, so a cell's counts depend on where
it lies. The paper does not say what it does about that; every published result on BBBC021 that we
know of divides it out first. As in CellProfiler's CorrectIlluminationCalculate (regular, all
images), a channel's function is the smoothed mean of all fields of a plate: cells lie anywhere, so
that their mean has the shape of the light (Singh et al. 2014, J. Microsc. 256, 231). No label is
looked at.
"""

import os
from pathlib import Path

import numpy as np
from scipy import ndimage

from mcnn_core.errors import InputError
from mcnn_core.screen import Screen

#: What is divided out: nothing, the smoothed mean of the plate, or functions that the table names.
ILLUMINATIONS = ("none", "plate", "given")

#: Standard deviation of the Gaussian that smooths a mean image, as a part of its shorter side:
#: wider than a cell, narrower than the light.
SMOOTHING = 0.2

#: Least value of a plate's function: counts of a dark corner rise fivefold at most.
LEAST = 0.2


def plate_function(mean: np.ndarray) -> np.ndarray:
    """Return by what the counts of a channel are divided, (H, W) float32 of mean 1.

    Beyond its edges the mean image is continued by reflection in the edge's own value, up for down:
    a plain mirror would flatten the slope where light falls off most.

    Parameters
    ----------
    mean : (H, W) array
        Mean counts of all fields of a plate.
    """
    if not mean.any():
        return np.ones(mean.shape, np.float32)
    sigma = SMOOTHING * min(mean.shape)
    edge = round(3 * sigma)
    wide = np.pad(np.asarray(mean, dtype=float), edge, mode="reflect", reflect_type="odd")
    smooth = ndimage.gaussian_filter(wide, sigma, truncate=3)
    smooth = smooth[edge : edge + mean.shape[0], edge : edge + mean.shape[1]]
    return np.maximum(smooth / smooth.mean(), LEAST).astype(np.float32)


def divided(counts: np.ndarray, function: np.ndarray) -> np.ndarray:
    """Return counts (H, W) divided by a function, rounded and at most 65,535, as uint16."""
    return np.rint(np.minimum(counts / function, 65_535)).astype(np.uint16)


def given_functions(screen: Screen, shape: tuple[int, int]) -> dict[str, list[str]]:
    """Return the paths of the functions that a table names, by plate, one per channel.

    Those of channel DNA, or OrigDNA, are named by ``FileName_IllumDNA`` and ``PathName_IllumDNA``,
    as in the tables of CellProfiler's users.

    Raises
    ------
    InputError
        With every channel without such a column, every plate and channel with none or several
        files, and every file that `read_function` refuses.
    """
    table, problems, columns = screen.table, [], {}
    for channel in screen.channels:
        names = (f"Illum{channel}", f"Illum{channel.removeprefix('Orig')}")
        columns[channel] = next((name for name in names if f"FileName_{name}" in table), "")
        if not columns[channel]:
            problems.append(f"channel {channel}: expected a column FileName_{names[-1]}, got none")
    found: dict[str, list[str]] = {plate: [] for plate in table["Metadata_Plate"].unique()}
    for channel, name in columns.items():
        if not name:
            continue
        parts = table.reindex(columns=["Metadata_Plate", f"PathName_{name}", f"FileName_{name}"])
        for plate, *path in parts.fillna("").drop_duplicates().itertuples(index=False):
            found[plate].append(os.path.join(screen.root, *path))
            try:
                if not path[1]:
                    raise InputError("expected the name of a file, got none")
                read_function(found[plate][-1], shape)
            except InputError as error:
                problems.append(f"plate {plate}, channel {channel}: {error.what}")
        several = parts.drop_duplicates()["Metadata_Plate"].value_counts()
        problems += [
            f"plate {plate}, channel {channel}: expected one file, got {count}"
            for plate, count in several[several > 1].sort_index().items()
        ]
    if problems:
        raise InputError("Illumination functions cannot be used", problems)
    return found


def read_function(path: str | os.PathLike, shape: tuple[int, int], bin: int = 1) -> np.ndarray:
    """Read an illumination function from a ``.npy`` file, average blocks, bring it to mean 1.

    Parameters
    ----------
    path : path
    shape : (height, width)
        Of the fields in the image files.
    bin : int
        Side of the blocks of pixels.

    Returns
    -------
    ndarray, (height // bin, width // bin), float32

    Raises
    ------
    InputError
        If it is no array of numbers of that shape, or one of them is not finite and above 0.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        # Mapped, so that a header which claims any size costs nothing.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        got = f"{mapped.dtype} of shape {mapped.shape}"
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise InputError(f"{path}: expected an array in a .npy file, got: {error}") from error
    if mapped.shape != shape or mapped.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected numbers of shape {shape}, got {got}")
    function = np.asarray(mapped, dtype=float)
    wrong = int((~(np.isfinite(function) & (function > 0))).sum())
    if wrong:
        raise InputError(f"{path}: expected finite numbers above 0, got {wrong} that are not")
    height, width = shape[0] // bin, shape[1] // bin
    blocks = function[: height * bin, : width * bin].reshape(height, bin, width, bin)
    function = blocks.mean(axis=(1, 3))
    return (function / function.mean()).astype(np.float32)
