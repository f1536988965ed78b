"""Features that need no learning: intensity, granularity, radial power, channel correlations.

They are the bar that a trained network has to clear, computed on the same 8-bit store.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from tqdm import tqdm

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

#: Half sides of the square openings, in store pixels.
RADII = (1, 2, 3, 4, 6, 8, 11, 15)

#: Rings of spatial frequency, two per octave, up to half a cycle per pixel; the first takes all
#: below.
BANDS = 8

INTENSITY = ["Mean", "SD", "Skewness", "Kurtosis", "Entropy", *(f"P{p:02d}" for p in PERCENTILES)]
TEXTURE = [*(f"Granularity{r:02d}" for r in RADII), *(f"Power{b}" for b in range(1, BANDS + 1))]


def _intensity(field: np.ndarray) -> np.ndarray:
    """Return (12, C): mean, sd, skewness, kurtosis, entropy and percentiles, by the histogram."""
    values, columns = np.arange(256.0), []
    for channel in np.moveaxis(field, -1, 0):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        mean = share @ values
        spread = np.sqrt(share @ (values - mean) ** 2)
        z = (values - mean) / spread if spread > 0 else np.zeros(256)
        some = share[share > 0]
        entropy = -some @ np.log2(some)
        percentiles = np.searchsorted(share.cumsum(), np.array(PERCENTILES) / 100 - 1e-12)
        columns.append([mean, spread, share @ z**3, share @ z**4, entropy, *percentiles])
    return np.array(columns).T


def _running(
    image: np.ndarray, radius: int, axis: int, extreme: np.ufunc, outside: int
) -> np.ndarray:
    """Return the running minimum or maximum over 2 * radius + 1 pixels along `axis`.

    Windows double in length until they reach the wanted one, so the cost grows with its
    logarithm; on uint8 this is some ten times faster than a filter per pixel.
    """
    image = np.moveaxis(image, axis, 0)
    edge = np.full((radius, *image.shape[1:]), outside, np.uint8)
    window, have, want = np.concatenate([edge, image, edge]), 1, 2 * radius + 1
    while have < want:
        step = min(have, want - have)
        window, have = extreme(window[:-step], window[step:]), have + step
    return np.moveaxis(window, 0, axis)


def opening(image: np.ndarray, radius: int) -> np.ndarray:
    """Remove bright details smaller than 2 * radius + 1 pixels from a (H, W, C) uint8 image."""
    for extreme, outside in ((np.minimum, 255), (np.maximum, 0)):
        for axis in (0, 1):
            image = _running(image, radius, axis, extreme, outside)
    return image


def _granularity(field: np.ndarray) -> np.ndarray:
    """Return (len(RADII), C): the share of the total intensity that each larger opening removes."""
    totals = [field.sum(axis=(0, 1), dtype=np.float64)]
    totals += [opening(field, radius).sum(axis=(0, 1), dtype=np.float64) for radius in RADII]
    return -np.diff(totals, axis=0) / np.maximum(totals[0], 1)


def _rings(height: int, width: int) -> np.ndarray:
    """Return the ring 1..BANDS of each rfft2 coefficient; 0 for the mean and beyond Nyquist."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    with np.errstate(divide="ignore"):
        ring = BANDS + np.ceil(2 * np.log2(frequency / 0.5))
    return np.where((frequency > 0) & (frequency <= 0.5), ring.clip(1, BANDS), 0).astype(int)


def _radial_power(field: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """Return (BANDS, C): log10 of the share of the variance in each ring of spatial frequency."""
    spectrum = np.fft.rfft2(np.moveaxis(field, -1, 0).astype(np.float32))
    power = np.stack(
        [np.bincount(rings.ravel(), np.square(np.abs(s)).ravel(), BANDS + 1)[1:] for s in spectrum],
        axis=1,
    )
    return np.log10((power + 1e-3) / (power.sum(axis=0) + 1e-3 * BANDS))


def _correlations(field: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each pair of channels; 0 where one of them is constant."""
    pixels = field.reshape(-1, field.shape[-1]).astype(np.float32)
    pixels -= pixels.mean(axis=0)
    covariance = (pixels.T @ pixels).astype(np.float64)
    spread = np.sqrt(covariance.diagonal())
    product = np.outer(spread, spread)
    correlation = np.divide(covariance, product, out=np.zeros_like(product), where=product > 0)
    return correlation[np.triu_indices(len(spread), k=1)]


def handcrafted(store, rows=None, progress: bool = True) -> pd.DataFrame:
    """Return the handcrafted features: 28 per channel and the correlation of each pair of channels.

    Per channel the 12 intensity statistics, the granularity spectrum (8 openings) and the
    radial power spectrum (8 rings); 87 features for three channels.

    Parameters
    ----------
    store : Store
        With ``pixels`` (n, H, W, C) uint8 and ``channels``.
    rows : sequence of int, optional
        Rows of the store; all by default.
    progress : bool

    Returns
    -------
    DataFrame
        Columns ``HC_<channel>_<name>``, those of `INTENSITY` first, and
        ``HC_<channel>_<channel>_Correlation``; index `rows`.
    """
    rows = np.arange(len(store.pixels)) if rows is None else np.asarray(rows)
    rings, channels = _rings(*store.pixels.shape[1:3]), store.channels
    names = [f"HC_{channel}_{name}" for name in [*INTENSITY, *TEXTURE] for channel in channels]
    names += [f"HC_{one}_{other}_Correlation" for one, other in combinations(channels, 2)]
    values = np.empty((len(rows), len(names)))
    for place, row in enumerate(tqdm(rows, disable=not progress, unit="field")):
        field = np.asarray(store.pixels[row])
        parts = _intensity(field), _granularity(field), _radial_power(field, rings)
        values[place] = np.concatenate([*map(np.ravel, parts), _correlations(field)])
    return pd.DataFrame(values, index=rows, columns=names)
