"""Features: the 128 activations of every field, and their principal components.

Paper: Methods, "Feature extraction".
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed
from tqdm import tqdm

from mcnn_core import training
from mcnn_core.errors import InputError
from mcnn_core.machine.device import bfloat16
from mcnn_core.machine.files import (
    atomic,
    claim,
    exclusive,
    is_ours,
    read_json,
    register,
    sha256,
    write_array,
    write_json,
)
from mcnn_core.machine.scheduler import pool
from mcnn_core.model import MCNN, digest, read_yaml, write_yaml
from mcnn_core.store import Store

PART = 256  #: fields that `embed_screen` keeps together: what a killed run loses at most


def embed(
    model: MCNN,
    store: Any,
    rows: Sequence[int] | np.ndarray,
    batch: int = 64,
    precision: str = "auto",
    progress: bool = True,
) -> np.ndarray:
    """Send whole fields, not augmented, through the network.

    Parameters
    ----------
    model : MCNN
        Trained or not; it is put in eval mode (no dropout, fixed normalisation).
    store : Store
    rows : sequence of int
        Rows of the store.
    batch : int
        Fields at a time, fewer where they are large.
    precision : str
        As in `mcnn_core.training.Recipe`.
    progress : bool

    Returns
    -------
    (n, 128) float32 array
        Activations of the fully connected layer after its ReLU, in the order of `rows`.
    """
    with tqdm(total=len(rows), disable=not progress, desc="features", unit="field") as bar:
        return training.activations(
            model, training.Fields(store.pixels), rows, batch, bar.update, precision
        )


def embed_screen(
    model: MCNN, store: Store, folder: str | Path, scheduler: str = "", progress: bool = True
) -> np.ndarray:
    """Send every field of a store through the network, and keep what is done.

    A run that was killed goes on.

    Parameters
    ----------
    model : MCNN
    store : Store
    folder : path
        Receives ``part_<first row>.npy`` for every `PART` fields with its SHA-256, each written
        whole or not at all, ``network.yml`` and ``weights.safetensors`` for whoever computes a
        part, and ``embedding.json``, which says of which store, weights and precision they are.
        Parts of another embedding are deleted, damaged ones computed again.
    scheduler : str
        Address of a cluster that does it instead (`mcnn_core.machine.scheduler`).
    progress : bool

    Returns
    -------
    (n, 128) float32 array
        As `embed`, row i for row i of the store.

    Raises
    ------
    InputError
        If the folder holds what this function has not written; if another run embeds into it; if
        pixels of the store are not as they were written (`Store.verify`); and what `pool` raises.
    """
    folder = Path(folder).resolve()
    claim(folder, "embedding")
    with exclusive(folder):
        return _embed_screen(model, store, folder, scheduler, progress)


def _embed_screen(
    model: MCNN, store: Store, folder: Path, scheduler: str, progress: bool
) -> np.ndarray:
    theirs = [path.name for path in sorted(folder.glob("part_*")) if not is_ours(path)]
    if theirs:
        raise InputError(
            f"{folder} holds files that look like parts of an embedding and were not written there "
            "by this program: "
            "move them away, or name another folder",
            theirs,
        )
    n, weights, kept = len(store.pixels), digest(model), {}
    identity = {"store": store.manifest["sha256"], "weights": weights, "part": PART, "fields": n}
    # None yet, or damaged: then nothing is known of the parts.
    with suppress(FileNotFoundError, ValueError):
        kept = read_json(folder / "embedding.json")
    # Measured once for the whole screen, whatever a resumed run or a worker would measure.
    precision = kept.pop("precision", "") if isinstance(kept, dict) else ""
    if kept != identity:
        precision = "bfloat16" if bfloat16() else "float32"
        for part in folder.glob("part_*"):
            part.unlink()
    if kept != identity or not _is_sent(folder, weights):  # it may have been lost or damaged since
        write_yaml(folder / "network.yml", model, {})
        with atomic(folder / "weights.safetensors") as temporary:
            temporary.write_bytes(
                packed({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
            )
        write_json(folder / "embedding.json", {**identity, "precision": precision})
    # The names are listed, not asked for one by one: a network drive would remember for a while
    # that a file was not there.
    there, parts = (
        set(os.listdir(folder)),
        {
            f"part_{first:08d}.npy": range(first, min(first + PART, n))
            for first in range(0, n, PART)
        },
    )
    missing = {
        name: rows
        for name, rows in parts.items()
        if not {name, f"{name}.sha256"} <= there or not _whole(folder / name)
    }
    # All at once, and here: workers on other machines, which would write to one file together, find
    # theirs named.
    register(*(folder / f"{name}{suffix}" for name in missing for suffix in ("", ".sha256")))
    if missing:
        with (
            pool(scheduler or 1, folder, [str(store.folder / "pixels.npy")]) as tasks,
            tqdm(
                total=sum(map(len, missing.values())),
                disable=not progress,
                desc="features",
                unit="field",
            ) as bar,
        ):
            pending = {
                tasks.submit(_embed_part, folder, weights, precision, store, rows, name): len(rows)
                for name, rows in missing.items()
            }
            while pending:
                for fields, _ in tasks.finished(pending):
                    bar.update(fields)
    return np.concatenate([np.load(folder / name, allow_pickle=False) for name in parts])


def _whole(part: Path) -> bool:
    """Whether a part is what was written, by the SHA-256 that was written after it."""
    return part.with_name(f"{part.name}.sha256").read_text(
        encoding="ascii", errors="replace"
    ).split() == [sha256(part), part.name]


@lru_cache(maxsize=1)  # a worker computes many parts of one network
def _sent(folder: Path, weights: str) -> MCNN:
    """Return the network that `embed_screen` left for the workers."""
    model, _ = read_yaml(folder / "network.yml")
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    if digest(model) != weights:
        raise InputError(
            f"{folder / 'weights.safetensors'} is not what was written: delete the folder {folder}"
        )
    return model


def _is_sent(folder: Path, weights: str) -> bool:
    """Whether the network that was left for the workers is still there and whole."""
    try:
        _sent.__wrapped__(folder, weights)
    except (OSError, ValueError, RuntimeError, SafetensorError):
        return False
    return True


def _embed_part(
    folder: Path, weights: str, precision: str, store: Store, rows: range, name: str
) -> None:
    """Write the activations of some rows; run by a worker.

    Their pixels are compared with their SHA-256 first.
    """
    store.verify(rows)
    write_array(
        folder / name,
        embed(_sent(folder, weights), store, rows, precision=precision, progress=False),
    )
    with atomic(folder / f"{name}.sha256") as temporary:
        temporary.write_text(f"{sha256(folder / name)}  {name}\n", encoding="ascii")
