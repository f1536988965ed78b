"""The 8-bit fields of a screen in one file, opened, mapped into memory and verified.

A folder holds ``pixels.npy`` and ``store.json``, the manifest: how the pixels came about, and the
SHA-256 of every block of fields, taken as the block was written.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from mcnn_core.errors import InputError
from mcnn_core.machine.files import read_json

Block = dict[str, Any]  # "plate", "first" row, number of "fields" and, once written, "sha256"


@dataclass(frozen=True)
class Store:
    """The 8-bit fields of a screen. Sent to another machine, it is opened there from its folder.

    Attributes
    ----------
    pixels : memmap, (n, H, W, C), uint8
        Row i is row i of the screen's table.
    channels : tuple of str
    manifest : dict
        Shape, channels, reference with its limits per plate and channel (Anscombe values that
        became 0 and 255), bin, field (height and width before padding), padding; ``blocks``, each
        with its plate, first row, number of fields and SHA-256; and ``sha256`` of all of that,
        which identifies the store.
    """

    pixels: np.memmap
    channels: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `pixels`, (n, H, W, C)."""
        return self.pixels.shape

    @property
    def folder(self) -> Path:
        """The folder that the store was opened from."""
        return Path(cast(str, self.pixels.filename)).parent

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Store":
        """Open a store that `preprocess` wrote.

        Raises
        ------
        InputError
            If the manifest does not match its own SHA-256, or the size, shape and type of the
            pixels do not match the manifest (`verify` reads the pixels too).
        """
        folder = Path(folder)
        try:
            manifest = read_json(folder / "store.json")
            shape, intact = tuple(manifest["shape"]), manifest["sha256"] == identity(manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _incomplete(folder) from error
        if not intact:
            raise InputError(
                f"{folder / 'store.json'} has been altered, it does not match its own SHA-256: "
                "pre-process again"
            )
        return cls(map_pixels(folder, shape), tuple(manifest["channels"]), manifest)

    def __reduce__(self) -> tuple:
        """Return how to open the store again from its folder, which must hold the same one."""
        return _open_same, (self.folder, self.manifest["sha256"])

    def verify(self, rows: Sequence[int] | None = None) -> None:
        """Read the blocks that hold `rows` (all by default) and compare their SHA-256.

        Raises
        ------
        InputError
            With every block that is not as it was written.
        """
        blocks = self.manifest["blocks"]
        if rows is not None:
            wanted = np.zeros(len(self.pixels), bool)
            wanted[np.asarray(rows, dtype=int)] = True
            blocks = [block for block in blocks if wanted[block_rows(block)].any()]
        altered = [
            f"plate {block['plate']}: fields {block['first']} to "
            f"{block['first'] + block['fields'] - 1}"
            for block in altered_blocks(self.pixels, blocks)
        ]
        if altered:
            raise InputError(
                f"{self.folder / 'pixels.npy'}: {len(altered)} of {len(blocks)} blocks are not as "
                "they were written: pre-process again",
                altered,
            )


def identity(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its ``sha256``."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def map_pixels(folder: Path, shape: tuple[int, ...]) -> np.memmap:
    """Map ``pixels.npy`` into memory; InputError if it is not whole, uint8 and of this shape."""
    path = folder / "pixels.npy"
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _incomplete(folder) from error
    if (pixels.shape, pixels.dtype) != (shape, np.uint8) or not pixels.flags.c_contiguous:
        raise InputError(
            f"{path}: expected uint8 {shape} as store.json says, got {pixels.dtype} "
            f"{pixels.shape}: pre-process again"
        )
    size, expected = path.stat().st_size, pixels.offset + pixels.nbytes
    if size != expected:
        raise InputError(f"{path}: expected {expected} bytes, got {size}: pre-process again")
    return pixels


def block_rows(block: Block) -> slice:
    """Return the rows of a block."""
    return slice(block["first"], block["first"] + block["fields"])


def altered_blocks(pixels: np.ndarray, blocks: list[Block]) -> list[Block]:
    """Return the blocks that do not have their SHA-256; threads, so that the disk sets the pace."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        found = threads.map(
            lambda block: hashlib.sha256(pixels[block_rows(block)].data).hexdigest(), blocks
        )
        return [block for block, sha in zip(blocks, found, strict=True) if sha != block["sha256"]]


def _incomplete(folder: Path) -> InputError:
    return InputError(f"{folder} holds no whole store (store.json, pixels.npy): pre-process again")


def _open_same(folder: Path, sha256: str) -> Store:
    store = Store.open(folder)
    if store.manifest["sha256"] != sha256:
        raise InputError(
            f"{folder} holds another store than the one that was sent: was it pre-processed again?"
        )
    return store
