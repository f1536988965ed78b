"""Measurements by which simulated cells are set against real ones.

All lengths are in micrometres, so that fields of different pixel size compare.
The real figures in ``book/recorded/real_cells.json`` were computed by
``python -m mcnn_core.statistics DATA`` from images of the Broad Bioimage Benchmark Collection,
BBBC021v1 (Caie et al. 2010, Ljosa et al. 2012), CC BY 4.0.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from mcnn_core.files import write_json
from mcnn_core.simulate import CHANNELS, MICROSCOPE_PIXEL

ATTRIBUTION = ("Real cells: image set BBBC021v1 (Caie et al., Molecular Cancer Therapeutics 2010), Broad Bioimage "
               "Benchmark Collection (Ljosa et al., Nature Methods 2012), CC BY 4.0.")
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


def power_spectrum(image: np.ndarray, pixel: float) -> np.ndarray:
    """Return log10 of the mean spectral power in the bands of `FREQUENCIES`, relative to their mean.

    Parameters
    ----------
    image : ndarray, (H, W)
    pixel : float
        um per pixel.
    """
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(image.shape[0], pixel)[:, None], np.fft.fftfreq(image.shape[1], pixel))
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
        ``nuclei_per_mm2``, ``nucleus_area_um2`` (quartiles), ``coverage`` (fraction of the field under
        cells, actin above threshold), ``cell_area_um2`` (coverage per nucleus); and per channel lists:
        ``intensity`` (`PERCENTILES` of background-free values relative to their mean), ``spectrum``,
        ``contrast`` (mean light of cells over background).
    """
    counts, areas, coverage = [], [], []
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
        contrast.append([light[cells][:, c].mean() / max(floor[c], 1) for c in range(light.shape[-1])])
        light = light - floor
        intensity.append(np.percentile(light, PERCENTILES, axis=(0, 1)).T / light.mean((0, 1))[:, None])
        spectrum.append([power_spectrum(light[..., c], pixel) for c in range(light.shape[-1])])
    return {
        "n_fields": len(counts), "nuclei_per_mm2": float(np.mean(counts)),
        "nucleus_area_um2": np.percentile(areas, (25, 50, 75)).round(1).tolist(), "coverage": float(np.mean(coverage)),
        "cell_area_um2": float(np.sum(coverage) * 1e6 / np.sum(counts)),
        "intensity": np.mean(intensity, 0).round(3).tolist(), "spectrum": np.mean(spectrum, 0).round(3).tolist(),
        "contrast": np.mean(contrast, 0).round(3).tolist(),
    }


def tiles(fields: np.ndarray, height: int = 128, width: int = 160) -> np.ndarray:
    """Bin full fields 2 x 2 and cut them into fields of the simulated size, float64 (n, 128, 160, C)."""
    n, full_height, full_width, channels = fields.shape
    binned = fields.reshape(n, full_height // 2, 2, full_width // 2, 2, channels).mean((2, 4))
    return np.array([field[y:y + height, x:x + width] for field in binned
                     for y in range(0, full_height // 2 - height + 1, height)
                     for x in range(0, full_width // 2 - width + 1, width)])


def real_fields(data: Path) -> np.ndarray:
    """Read the two complete real fields of one DMSO well, uint16 (2, 1024, 1280, 3)."""
    folder = Path(data) / "bbbc021" / "fields"
    return np.array([np.stack([tifffile.imread(next(folder.glob(f"*_s{site}_w{number}*.tif"))) for number in CHANNELS.values()], -1)
                     for site in (1, 2)])


def real_statistics(data: Path) -> dict:
    """Measure the real fields at full size and as small fields, and the nuclei of the real DMSO crops."""
    folder = Path(data) / "bbbc021" / "cells"
    index = np.genfromtxt(folder / "index.csv", delimiter=",", names=True, dtype=None, encoding="utf-8", usecols=("Compound",))
    crops = np.load(folder / "crops.npz")["crops"][index["Compound"] == "DMSO"]
    largest = [nucleus_areas(crop[..., 0], MICROSCOPE_PIXEL).max(initial=0) for crop in crops]
    fields = real_fields(data)
    return {"attribution": ATTRIBUTION, "pixel_um": MICROSCOPE_PIXEL, "full": field_statistics(fields, MICROSCOPE_PIXEL),
            "small": field_statistics(tiles(fields), 2 * MICROSCOPE_PIXEL),
            "dmso_crops": {"n": len(crops), "nucleus_area_um2": np.percentile(largest, (25, 50, 75)).round(1).tolist()}}


if __name__ == "__main__":
    write_json("book/recorded/real_cells.json", real_statistics(Path(sys.argv[1])))
