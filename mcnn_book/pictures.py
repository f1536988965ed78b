"""Pictures in which a phenotype can be seen: fields in focus, usual for their treatment, in grey.

Which fields are shown is decided by their pixels and features alone, never by a label.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

#: Most rows and columns of a picture of a phenotype, pixels: enough for some tens of cells.
PICTURE = (256, 320)

FIELDS = 4  #: small fields in one picture

LOOKED_AT = 48  #: fields of a group among which those of its picture are chosen


def sharpness(field: np.ndarray) -> float:
    """Return how fine the contrast of a (H, W, C) field is: the larger, the better its focus."""
    image = field.astype(np.float32)
    fine = gaussian_filter(image, (1, 1, 0)) - gaussian_filter(image, (2.5, 2.5, 0))
    share = (fine.var(axis=(0, 1)) + 1e-6) / (image.var(axis=(0, 1)) + 1e-3)
    return float(np.log(share).mean())


def clear_rows(
    pixels: np.ndarray, rows: Sequence[int], features: np.ndarray | None = None
) -> np.ndarray:
    """Return rows of one treatment, those first that stand for it, without a look at any label.

    The sharper half comes first, in it the field nearest the median of all.

    Parameters
    ----------
    pixels : (N, H, W, C) uint8 array
        Those of the whole screen.
    rows : sequence of int
        Of more than `LOOKED_AT` so many are looked at and returned, evenly spread.
    features : (N, d) array, optional
        What is to be near its median; without it, mean and spread of each channel.

    Returns
    -------
    (n,) int array
    """
    if not len(rows):
        return np.array([], dtype=int)
    seen = np.asarray(rows)[np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int))]
    fields = pixels[seen]
    if features is None:
        places = np.hstack([fields.mean(axis=(1, 2)), fields.std(axis=(1, 2))])
    else:
        places = features[seen]
    sharp = np.array([sharpness(field) for field in fields])
    away = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    return seen[np.lexsort((away, sharp < np.median(sharp)))]


def picture(fields: np.ndarray) -> np.ndarray:
    """Return one (h, w, C) uint8 picture of `PICTURE` pixels at most.

    It is the middle of the first field, or, of small fields, two by two of them with a line
    between.
    """
    height, width = fields.shape[1:3]
    if 2 * height > PICTURE[0] or 2 * width > PICTURE[1]:
        top, left = max(0, height - PICTURE[0]) // 2, max(0, width - PICTURE[1]) // 2
        return fields[0, top : top + PICTURE[0], left : left + PICTURE[1]]
    together = np.full((2 * height + 2, 2 * width + 2, fields.shape[3]), 255, np.uint8)
    for n, field in enumerate(fields[:FIELDS]):
        top, left = n // 2 * (height + 2), n % 2 * (width + 2)
        together[top : top + height, left : left + width] = field
    return together


def of(
    pixels: np.ndarray, groups: Sequence[Sequence[int]], features: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return one `picture` of each group of rows of a screen, of the first of its `clear_rows`."""
    return [picture(pixels[clear_rows(pixels, group, features)[:FIELDS]]) for group in groups]


def in_grey(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return (h, w, C) pictures as (C h + lines, w, 1): their channels below each other.

    Each channel is stretched alike in all pictures, so that their brightness can be compared.
    """
    if not pictures:
        return []
    pixels = np.concatenate([one.reshape(-1, one.shape[-1]) for one in pictures])
    inner = pixels[(pixels < 255).any(axis=1)]  # without the lines between fields
    low, high = np.percentile(inner if len(inner) else pixels, [2, 99.8], axis=0)
    line = np.full((4, 1, 1), 255, np.uint8)
    shown = []
    for one in pictures:
        grey = np.clip((one - low) / np.maximum(high - low, 1) * 255, 0, 255).astype(np.uint8)
        across = line.repeat(one.shape[1], axis=1)
        parts = [part for c in range(one.shape[2]) for part in (across, grey[..., c, None])]
        shown.append(np.concatenate(parts[1:]))
    return shown
