"""A memory-mapped array against sharded Zarr v3: what the store is, and what it could have been.

    pip install zarr==3.1.6
    python benchmarks/store.py [--small 2000] [--full 96] [--repeats 5] [--folder DIR] [--json FILE]

All hold the same 8-bit fields: simulated, pre-processed, and repeated up to the number asked for. A
Zarr shard holds 16 chunks of one field each, as a block of the store has 16 fields; codecs are
Zarr's default (zstd), Blosc (lz4 of shuffled bytes) and none. Each number is the median of the
repeats, with the lowest and the highest. All but "not cached" read files that are in memory
already; there the system is asked to forget them first.
Zarr is needed here alone: it is no requirement of the package.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mcnn_book.command import reporting
from mcnn_book.simulate.bbbc021 import LAYOUTS, simulate_screen
from mcnn_book.workspace import processor
from mcnn_core.machine.files import refuse_existing
from mcnn_core.preprocessing import BLOCK, preprocess
from mcnn_core.readers.bbbc021 import read_bbbc021

SIZES = {"small": (128, 160), "full": (1024, 1280)}
FEW = replace(LAYOUTS["tiny"], columns=(5,), controls=1, sites=1)
READS = 200


def simulated(folder: Path, size: str, n: int) -> tuple[np.ndarray, int]:
    """Return `n` pre-processed fields (n, H, W, 3) uint8, and how many of them differ."""
    simulate_screen(
        folder / "screen",
        0,
        FEW if size == "full" else LAYOUTS["tiny"],
        *SIZES[size],
        progress=False,
    )
    screen = read_bbbc021(folder / "screen", simulated=True)
    store = preprocess(screen, folder / "store", progress=False)
    return np.array(store.pixels)[np.arange(n) % len(store.pixels)], min(n, len(store.pixels))


def write_memmap(path: Path, fields: np.ndarray) -> None:
    """Write fields block by block, as pre-processing does."""
    array = np.lib.format.open_memmap(
        path / "pixels.npy", mode="w+", dtype=np.uint8, shape=fields.shape
    )
    offset = array.offset
    with open(path / "pixels.npy", "r+b") as handle:
        for first in range(0, len(fields), BLOCK):
            os.pwrite(
                handle.fileno(),
                fields[first : first + BLOCK].data,
                offset + first * fields[0].nbytes,
            )


def write_zarr(path: Path, fields: np.ndarray, codec: Any) -> None:
    """Write fields shard by shard."""
    import zarr

    array = zarr.create_array(
        path / "pixels.zarr",
        shape=fields.shape,
        dtype="uint8",
        chunks=(1, *fields.shape[1:]),
        shards=(BLOCK, *fields.shape[1:]),
        compressors=codec,
    )
    for first in range(0, len(fields), BLOCK):
        array[first : first + BLOCK] = fields[first : first + BLOCK]


def opened(path: Path) -> Any:
    """Open what one of the two has written."""
    if (path / "pixels.npy").exists():
        return np.load(path / "pixels.npy", mmap_mode="r", allow_pickle=False)
    import zarr

    return zarr.open_array(path / "pixels.zarr", mode="r")


def files(path: Path) -> list[Path]:
    """Return the files below a folder."""
    return [item for item in path.rglob("*") if item.is_file()]


def forget(path: Path) -> None:
    """Ask the system to drop files from memory, once they are on the disk."""
    for item in files(path):
        handle = os.open(item, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def sequential(array: Any) -> None:
    """Read all fields in order, a block at a time."""
    for first in range(0, array.shape[0], BLOCK):
        np.array(array[first : first + BLOCK])


def singles(array: Any, rng: np.random.Generator) -> None:
    """Read whole fields at random."""
    for row in rng.integers(array.shape[0], size=READS):
        np.array(array[row])


def crops(array: Any, rng: np.random.Generator) -> None:
    """Read half of each side at a random place of fields at random, as training does."""
    height, width = (side // 2 for side in array.shape[1:3])
    for row, top, left in rng.integers(
        (array.shape[0], height + 1, width + 1), size=(READS, 3)
    ).tolist():
        np.array(array[row, top : top + height, left : left + width])


def seconds(
    function: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None
) -> list[float]:
    """Return the wall times of `repeats` calls, each after a call of `before`."""
    times = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def measure(folder: Path, size: str, n: int, repeats: int) -> dict[str, Any]:
    """Return what each format costs per field.

    That is: milliseconds (median, lowest, highest), and bytes.
    """
    from zarr.codecs import BloscCodec

    fields, different = simulated(folder, size, n)
    formats = {"memory-mapped": write_memmap} | {
        f"zarr, {name}": lambda path, fields, codec=codec: write_zarr(path, fields, codec)
        for name, codec in {
            "default": "auto",
            "blosc lz4": BloscCodec(cname="lz4", shuffle="shuffle", typesize=1),
            "uncompressed": None,
        }.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for name, write in formats.items():
        path, rng = folder / "written", np.random.default_rng(0)

        def empty(path: Path = path) -> None:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()

        times = {"write": (seconds(partial(write, path, fields), repeats, empty), n)}
        array = opened(path)
        if not all((array[row] == fields[row]).all() for row in range(0, n, 7)):
            raise RuntimeError(f"{name} does not give back what was written")
        times |= {
            "read single field": (seconds(partial(singles, array, rng), repeats), READS),
            "read random crop": (seconds(partial(crops, array, rng), repeats), READS),
            "read all in order": (seconds(partial(sequential, array), repeats), n),
            "read all, not cached": (
                seconds(lambda path=path: sequential(opened(path)), repeats, partial(forget, path)),
                n,
            ),
        }
        found[name] = {
            key: [1e3 * value / count for value in (np.median(all_), min(all_), max(all_))]
            for key, (all_, count) in times.items()
        }
        found[name]["bytes"] = sum(item.stat().st_size for item in files(path)) / n
        found[name]["files"] = len(files(path))
    return {
        "fields": n,
        "different fields": different,
        "shape": list(fields.shape[1:]),
        "formats": found,
    }


def main() -> None:
    """Measure, print a table, and write it as JSON if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=2000, help="fields of 128 x 160 x 3")
    parser.add_argument("--full", type=int, default=96, help="fields of 1024 x 1280 x 3")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder",
        help="where to write (a temporary folder by default); decides which disk is measured",
    )
    parser.add_argument("--json", type=Path, help="new file for the figures")
    given = parser.parse_args()
    with reporting():
        refuse_existing(given.json)
    try:
        import zarr
    except ImportError:
        raise SystemExit(
            "error: this comparison needs zarr, which is no requirement of the package: "
            "pip install zarr==3.1.6"
        ) from None
    result: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zarr": zarr.__version__,
        "repeats": given.repeats,
        "sizes": {},
    }
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            one = result["sizes"][size] = measure(
                Path(name), size, getattr(given, size), given.repeats
            )
        print(
            f"{size}: {one['fields']} fields of {' x '.join(map(str, one['shape']))}, "
            f"{one['different fields']} different; "
            f"ms per field, median (lowest to highest) of {given.repeats}"
        )
        for label in next(iter(one["formats"].values())):
            for number, (format_, values) in enumerate(one["formats"].items()):
                text = (
                    f"{values[label]:10.0f}"
                    if label in ("bytes", "files")
                    else "{:10.3f}  ({:.3f} to {:.3f})".format(*values[label])
                )
                print(f"  {'' if number else label:22s}{format_:22s}{text}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
