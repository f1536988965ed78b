"""Fields per second of pre-processing on one core, beside the raw read and a plain np.percentile version.

    OMP_NUM_THREADS=1 python benchmarks/preprocess.py [--fields 48] [--repeats 3]

Fields are 1024 x 1280 x 3 uint16, uncompressed TIFF, in a temporary folder (so in the page cache).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from mcnn_core.images import read_field
from mcnn_core.preprocess import PERCENTILES, anscombe, preprocess
from mcnn_core.screen import Screen, read_loaddata

HEIGHT, WIDTH, CHANNELS = 1024, 1280, ("DNA", "Actin", "Tubulin")


def write_screen(folder: Path, n_fields: int) -> Screen:
    """Write one plate of camera-like fields: bright blurred spots on a noisy background."""
    rng = np.random.default_rng(0)
    lines = ["Metadata_Plate,Metadata_Well,Metadata_Site," + ",".join(f"FileName_{c},PathName_{c}" for c in CHANNELS)]
    light = np.kron(rng.gamma(0.3, 2000, (HEIGHT // 32, WIDTH // 32)), np.ones((32, 32))) + 400
    for site in range(n_fields):
        for channel in CHANNELS:
            image = rng.poisson(np.roll(light, site * 7, axis=1)).clip(0, 65_535).astype(np.uint16)
            tifffile.imwrite(folder / f"{site}_{channel}.tif", image)
        lines.append(f"P1,B02,{site}," + ",".join(f"{site}_{c}.tif," for c in CHANNELS))
    (folder / "screen.csv").write_text("\n".join(lines) + "\n")
    return read_loaddata(folder / "screen.csv")


def plain(screen: Screen, folder: Path) -> None:
    """The textbook version: keep the plate as floats, sort for percentiles, stretch, round."""
    fields = np.stack([anscombe(read_field(screen, row)).astype(np.float32) for row in range(len(screen.table))])
    low, high = np.percentile(fields, PERCENTILES, axis=(0, 1, 2))
    np.save(folder / "plain.npy", np.rint(np.clip((fields - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the best of `repeats` wall times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        screen = write_screen(folder, options.fields)
        few = Screen(screen.name, screen.table.head(6), screen.channels, screen.root, False)
        rows = {"raw read alone": (seconds(lambda: [read_field(screen, row) for row in range(options.fields)], options.repeats), options.fields)}
        for workers in (1, 2):
            rows[f"preprocess, workers={workers}"] = (seconds(
                lambda workers=workers: preprocess(screen, folder / "store", workers=workers, progress=False), options.repeats), options.fields)
        rows["plain np.percentile"] = (seconds(lambda: plain(few, folder), options.repeats), len(few.table))
    base = rows["preprocess, workers=1"]
    for label, (time_, n) in rows.items():
        rate = n / time_
        print(f"{label:24s} {rate:8.1f} fields/s  {1e3 / rate:7.1f} ms per field  {rate * base[0] / base[1]:6.2f} x ours on one core")


if __name__ == "__main__":
    main()
