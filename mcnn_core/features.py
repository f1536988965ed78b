"""Features: the 128 activations of every field (paper: Methods, "Feature extraction").

torch, NumPy and pandas are enough to import this module and for `activations`; what else is needed
is imported where it is used.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcnn_core.errors import InputError
from mcnn_core.machine.device import ahead, bfloat16, device, pinned, workers
from mcnn_core.machine.files import atomic, claim, exclusive, read_json, write_json
from mcnn_core.machine.parts import discard_parts, in_parts, refuse_foreign_parts, write_part
from mcnn_core.model import MCNN, digest, read_yaml, write_yaml

PART = 256  #: fields that `embed_screen` keeps together: what a killed run loses at most
PIXELS_AT_ONCE = 2**21  #: fields of 1024 x 1280 go through a CPU one by one: memory stays flat


def activations(
    model: MCNN, pixels: Any, rows: Sequence[int] | np.ndarray, batch: int, precision: str
) -> Iterator[np.ndarray]:
    """Yield what `embed` returns, batch by batch; `pixels` are (n, H, W, C) uint8."""
    model, bf16 = model.to(device()).eval(), bfloat16(precision)
    at_once = PIXELS_AT_ONCE * (1 if device().type == "cpu" else 32)
    batch = max(1, min(batch, at_once // (pixels.shape[1] * pixels.shape[2])))
    parts = (rows[start : start + batch] for start in range(0, len(rows), batch))

    @torch.inference_mode()
    def one(fields: torch.Tensor) -> np.ndarray:
        return model.embed(model.standardise(fields), bf16).float().cpu().numpy()

    with ThreadPoolExecutor(workers()) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        for fields in ahead(pinned(np.stack([pixels[row] for row in part])) for part in parts):
            waiting.append(pool.submit(one, fields))
            if len(waiting) > workers():
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


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
        Trained or not; it is put in eval mode (no dropout, fixed normalisation) and on the device.
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
    from tqdm import tqdm

    parts = [np.empty((0, model.config.hidden), np.float32)]
    with tqdm(total=len(rows), disable=not progress, desc="features", unit="field") as bar:
        for part in activations(model, store.pixels, rows, batch, precision):
            parts.append(part)
            bar.update(len(part))
    return np.concatenate(parts)


def embed_screen(
    model: MCNN, store: Any, folder: str | Path, scheduler: str = "", progress: bool = True
) -> np.ndarray:
    """Send every field of a store through the network, and keep what is done: a killed run resumes.

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
        If the folder holds what this function has not written, if another run embeds into it, or
        if pixels of the store are not as they were written (`Store.verify`).
    """
    folder = Path(folder).resolve()
    claim(folder, "embedding")
    with exclusive(folder):
        task = partial(_embed_part, *_prepare(model, store, folder), store)
        files = [str(store.folder / "pixels.npy")]
        return in_parts(task, len(store.pixels), PART, folder, scheduler or 1, files, progress)


def _prepare(model: MCNN, store: Any, folder: Path) -> tuple[str, str]:
    """Leave the network for the workers, delete parts of another; return its digest and precision.

    The precision is chosen once for the whole screen, whatever a worker would choose.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    refuse_foreign_parts(folder)
    weights, n, kept, sent = digest(model), len(store.pixels), {}, False
    identity = {"store": store.manifest["sha256"], "weights": weights, "part": PART, "fields": n}
    with suppress(FileNotFoundError, ValueError):  # none yet, or damaged
        kept = read_json(folder / "embedding.json")
    precision = kept.pop("precision", "") if isinstance(kept, dict) else ""
    if kept != identity:
        precision = "bfloat16" if bfloat16() else "float32"
        discard_parts(folder)
    with suppress(OSError, ValueError, RuntimeError, SafetensorError):  # lost or damaged since
        sent = kept == identity and bool(_sent.__wrapped__(folder, weights))
    if not sent:
        write_yaml(folder / "network.yml", model, {})
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        with atomic(folder / "weights.safetensors") as temporary:
            temporary.write_bytes(save(tensors))
        write_json(folder / "embedding.json", {**identity, "precision": precision})
    return weights, precision


@lru_cache(maxsize=1)  # a worker computes many parts of one network
def _sent(folder: Path, weights: str) -> MCNN:
    """Return the network that `embed_screen` left for the workers."""
    from safetensors.torch import load_file

    model, _ = read_yaml(folder / "network.yml")
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    if digest(model) != weights:
        raise InputError(
            f"{folder / 'weights.safetensors'} is not what was written: delete the folder {folder}"
        )
    return model


def _embed_part(weights: str, precision: str, store: Any, rows: range, path: Path) -> None:
    """Compare the pixels of some rows with their SHA-256, then write their activations."""
    store.verify(rows)
    model = _sent(path.parent, weights)
    write_part(path, embed(model, store, rows, precision=precision, progress=False))
