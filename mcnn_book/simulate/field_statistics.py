"""Measurements by which simulated cells are set against real ones.

All lengths are in micrometres, so that fields of different pixel size compare.
The real figures in ``book/recorded/cell_statistics.json`` were computed by
``python -m tools.real_statistics DATA`` from images of the Broad Bioimage Benchmark Collection,
BBBC021v1 (Caie et al. 2010, Ljosa et al. 2012), CC BY 4.0.
"""

import numpy as np
from scipy import ndimage

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


FREQUENCIES = np.geomspace(0.02, 0.4, 14)  # edges of the spectrum's bands, cycles per um


def threshold(image: np.ndarray) -> float:
    """Return Otsu's threshold of an image's values up to their 99.5th percentile."""
    top = np.percentile(image, 99.5)
    count, edges = np.histogram(image[image <= top], 128)
    middle = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(count), np.cumsum(count * middle)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(middle[np.nanargmax(between[:-1])])


def noise(
    fields: np.ndarray, brightness: np.ndarray, bins: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise of pixels against their brightness.

    Of every three by three pixels the part is taken that neither a slope nor a curve explains
    (Immerkaer 1996, Computer Vision and Image Understanding 64, 300), and its median size is that
    of the noise: cells are smooth at this scale.

    Parameters
    ----------
    fields : (n, H, W) array
    brightness : (n, H, W) array
        By which pixels are ordered, into `bins` of equally many.

    Returns
    -------
    tuple of two (bins,) arrays
        Mean brightness, and the noise as a standard deviation, in the units of `fields`.
    """
    mask = np.outer([1, -2, 1], [1, -2, 1]) / 6
    rest = ndimage.convolve(fields.astype(float), mask[None])[:, 1:-1, 1:-1].ravel()
    smooth = ndimage.uniform_filter(brightness.astype(float), (0, 3, 3))[:, 1:-1, 1:-1].ravel()
    parts = np.array_split(np.argsort(smooth, kind="stable"), bins)
    sizes = [np.median(np.abs(rest[part])) / 0.6745 for part in parts]
    return np.array([smooth[part].mean() for part in parts]), np.array(sizes)


def power_spectrum(image: np.ndarray, pixel: float) -> np.ndarray:
    """Return log10 of the mean spectral power in the bands of `FREQUENCIES`.

    It is relative to their mean.

    Parameters
    ----------
    image : ndarray, (H, W)
    pixel : float
        um per pixel.
    """
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    frequency = np.hypot(
        np.fft.fftfreq(image.shape[0], pixel)[:, None], np.fft.fftfreq(image.shape[1], pixel)
    )
    band = np.digitize(frequency.ravel(), FREQUENCIES)
    size = np.bincount(band, minlength=len(FREQUENCIES) + 1)[1:-1]
    total = np.bincount(band, power.ravel(), minlength=len(FREQUENCIES) + 1)[1:-1]
    log = np.log10(np.maximum(total, 1e-12) / np.maximum(size, 1))
    return log - log.mean()


def nucleus_areas(dna: np.ndarray, pixel: float) -> np.ndarray:
    """Return the areas in um2 of all objects above 20 um2 in a (H, W) image of the DNA channel."""
    smooth = ndimage.gaussian_filter(dna.astype(np.float32), 1.0 / pixel)
    labels, _ = ndimage.label(smooth > threshold(smooth))
    area = np.bincount(labels.ravel())[1:] * pixel**2
    return area[area > 20]


def field_statistics(fields: np.ndarray, pixel: float) -> dict:
    """Summarise whole fields.

    Parameters
    ----------
    fields : ndarray, (n, H, W, 3)
        DNA, actin, tubulin; any type.
    pixel : float
        um per pixel.

    Returns
    -------
    dict
        ``nuclei_per_mm2``, ``nucleus_area_um2`` (quartiles), ``coverage`` (fraction of the field
        under cells, actin above threshold), ``cell_area_um2`` (coverage per nucleus); and per
        channel lists: ``intensity`` (`PERCENTILES` of background-free values relative to their
        mean), ``spectrum``, ``contrast`` (mean light of cells over background).
    """
    areas: list[float] = []
    counts, coverage = [], []
    intensity, spectrum, contrast = [], [], []
    for field in np.asarray(fields):
        area = nucleus_areas(field[..., 0], pixel)
        counts.append(len(area) / (field[..., 0].size * pixel**2) * 1e6)
        areas.extend(area)
        actin = ndimage.gaussian_filter(field[..., 1].astype(np.float32), 1.0 / pixel)
        cells = actin > 0.6 * threshold(actin) + 0.4 * np.percentile(actin, 1)
        coverage.append(cells.mean())
        light = field.astype(np.float64)
        floor = np.percentile(light, 0.5, axis=(0, 1))
        contrast.append(
            [light[cells][:, c].mean() / max(floor[c], 1) for c in range(light.shape[-1])]
        )
        light = light - floor
        intensity.append(
            np.percentile(light, PERCENTILES, axis=(0, 1)).T / light.mean((0, 1))[:, None]
        )
        spectrum.append([power_spectrum(light[..., c], pixel) for c in range(light.shape[-1])])
    return {
        "n_fields": len(counts),
        "nuclei_per_mm2": float(np.mean(counts)),
        "nucleus_area_um2": np.percentile(areas, (25, 50, 75)).round(1).tolist(),
        "coverage": float(np.mean(coverage)),
        "cell_area_um2": float(np.sum(coverage) * 1e6 / np.sum(counts)),
        "intensity": np.mean(intensity, 0).round(3).tolist(),
        "spectrum": np.mean(spectrum, 0).round(3).tolist(),
        "contrast": np.mean(contrast, 0).round(3).tolist(),
    }
