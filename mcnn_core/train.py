"""Training on surrogate classes: one loop for CPU and GPU, a checkpoint per epoch, exact resume.

The paper (Methods, "Learning details") states SGD, dropout, weight decay, 27 epochs and a rate held
for 9 epochs at a time; what we had to choose is marked [ours]. All randomness comes from the seed and
the epoch, so a run that was killed goes on from its last checkpoint to the same weights.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.files import atomic, sha256, write_table
from mcnn_core.model import MCNN, NetworkConfig, digest, read_yaml, write_yaml
from mcnn_core.surrogate import BalancedBatches


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int  #: each draws about as many fields as there are training fields
    batch: int  #: fields per step
    optimiser: str  #: "sgd" or "adamw"
    learning_rate: float  #: the highest rate
    schedule: str  #: "steps": a tenth after every 9 epochs; "one-cycle": cosine up over 20 % of all steps, and down
    momentum: float = 0.9  #: of SGD
    weight_decay: float = 5e-4  #: factor of the squared L2 norm, as Caffe's (the paper prints the norm unsquared)
    clip: float = 5.0  #: largest norm of the gradient
    crop: float = 1.0  #: part of each side shown in training, at random places; features see the full field
    flips: bool = True  #: flip along each axis, and transpose if square: so all right-angle rotations that fit occur
    jitter_gain: float = 0.0  #: multiply each channel of each field by exp(jitter_gain * N(0, 1))
    jitter_offset: float = 0.0  #: and add jitter_offset * N(0, 1), in standard units
    precision: str = "auto"  #: "float32", "bfloat16", or "auto": bfloat16 where the processor computes in it natively
    seed: int = 0  #: of weights, batches, augmentation and dropout
    max_steps: int | None = None  #: stop after so many steps, where the one-cycle schedule then ends

    def __post_init__(self) -> None:
        choices = {"optimiser": ("sgd", "adamw"), "schedule": ("steps", "one-cycle"), "precision": ("auto", "float32", "bfloat16")}
        problems = [f"{key} {getattr(self, key)!r} is none of {', '.join(values)}"
                    for key, values in choices.items() if getattr(self, key) not in values]
        problems += [f"{key} {getattr(self, key)} is not positive"
                     for key in ("epochs", "batch", "learning_rate", "clip", "crop") if getattr(self, key) <= 0]
        problems += [f"crop {self.crop} is more than 1"] * (self.crop > 1)
        if problems:
            raise InputError("This is no recipe for training", problems)


RECIPES = {
    # [ours] rate, momentum, decay, batch, clip, the factor of 0.1 per 9 epochs, and flips as augmentation.
    "published": Recipe(epochs=27, batch=16, optimiser="sgd", learning_rate=5e-3, schedule="steps"),
    "default": Recipe(epochs=120, batch=32, optimiser="adamw", learning_rate=4e-3, schedule="one-cycle",
                      weight_decay=1e-2, crop=0.5, jitter_gain=0.2, jitter_offset=0.15),
}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0: a function of the step alone, so it needs no saving."""
    if recipe.schedule == "steps":
        return recipe.learning_rate * 0.1 ** (step // steps_per_epoch // 9)
    last, lowest = _steps(recipe, steps_per_epoch) - 1, recipe.learning_rate / 25
    warm = 0.2 * (last + 1) - 1
    start, end, part = (lowest, recipe.learning_rate, step / warm) if step < warm else (
        recipe.learning_rate, lowest * 1e-4, (step - warm) / (last - warm))
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _steps(recipe: Recipe, steps_per_epoch: int) -> int:
    return min(recipe.epochs * steps_per_epoch, recipe.max_steps or sys.maxsize)


def train(store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, folder: str | Path,
          names: Sequence[str] | None = None, progress: bool = True, start: MCNN | None = None) -> pd.DataFrame:
    """Train an M-CNN, or go on with one that was interrupted; return at once if it is finished.

    Parameters
    ----------
    store : Store
        Pre-processed fields: ``pixels`` (n, H, W, C) uint8, ``manifest["sha256"]``.
    labels : (n,) int array
        Surrogate class of each field of the store; -1 where not trained on.
    network, recipe : NetworkConfig, Recipe
    folder : path
        Where network.yml, history.csv and the checkpoints are written.
    names : sequence of str, optional
        Name of each field for messages (`mcnn_core.screen.field_names`).
    progress : bool
        Show a bar with loss, accuracy and the time left.
    start : MCNN, optional
        A trained network whose weights to begin with, for the same fields. Its classes are the first of `labels`, which
        may have more: the score of a new class begins with random weights.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, accuracy (of the fields as augmented), learning_rate, seconds.

    Raises
    ------
    InputError
        If the folder holds a damaged checkpoint or one of another training, `start` is a network for other fields or
        more classes, or the loss is not a finite number: the fields of the batch are named, the last good checkpoint stays.
    """
    folder, labels = Path(folder), np.asarray(labels)
    if len(labels) != len(store.pixels):
        raise InputError(f"{len(store.pixels)} fields in the store, but {len(labels)} labels: both must come from one table")
    names = names if names is not None else [f"row {row}" for row in range(len(labels))]
    model = untrained_model(store, labels, network, recipe.seed)
    if start is not None:
        _begin_with(model, start)
    model = model.to(_device()).train()
    optimiser, size, bf16 = _optimiser(model, recipe), _crop_size(model, recipe), _bfloat16(recipe.precision)
    sampler = BalancedBatches(labels, recipe.batch, recipe.seed)
    total = _steps(recipe, len(sampler))
    identity = _identity(store, labels, model, recipe) | ({} if start is None else {"start": digest(start)})
    state = _resume(folder, identity, model, optimiser)
    write_yaml(folder / "network.yml", model, asdict(recipe))
    with tqdm(total=total, initial=state["step"], disable=not progress, desc="training", unit="batch") as bar:
        while state["step"] < total:
            epoch, began = len(state["history"]), time.perf_counter()
            sums = np.zeros(3)  # summed loss, right answers, fields
            with _reproducible(recipe.seed, epoch) as rng:
                for rows in islice(sampler.batches(epoch), total - state["step"]):
                    optimiser.param_groups[0]["lr"] = rate = learning_rate(recipe, state["step"], len(sampler))
                    x = _augment(model, _views(store.pixels, rows, size, recipe.flips, rng), recipe, rng)
                    y = torch.from_numpy(labels[rows]).to(x.device)
                    optimiser.zero_grad(set_to_none=True)
                    scores = model(x, bf16)
                    losses = F.cross_entropy(scores, y, reduction="none")
                    losses.mean().backward()
                    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                    if not torch.isfinite(losses.sum() + norm):
                        raise InputError(f"The loss is not a finite number in epoch {epoch + 1}; the last checkpoint was kept. "
                                         "Look at these fields, or lower the learning rate", [names[row] for row in rows])
                    optimiser.step()
                    state["step"] += 1
                    sums += losses.sum().item(), (scores.argmax(1) == y).sum().item(), len(rows)
                    bar.update()
                    loss, accuracy = (sums[:2] / sums[2]).tolist()
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
            state["history"].append({"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "learning_rate": rate,
                                     "seconds": time.perf_counter() - began})
            state["finished"] = state["step"] >= total
            write_table(folder / "history.csv", pd.DataFrame(state["history"]))
            _save(folder, {**state, "identity": identity}, model, optimiser)
    return pd.DataFrame(state["history"])


def discard_other(store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, folder: str | Path) -> None:
    """Delete the checkpoints of a folder if they belong to another training than this one.

    `train` refuses such a folder. A build folder, whose contents follow from its parameters,
    is cleared instead when they change.
    """
    found = _checkpoints(Path(folder))
    identity = _identity(store, np.asarray(labels), untrained_model(store, labels, network, recipe.seed), recipe)
    if found and _read(found[-1])[1]["identity"] != identity:
        for path in found:
            path.with_suffix(".sha256").unlink()
            path.unlink()


def untrained_model(store: Any, labels: np.ndarray, network: NetworkConfig, seed: int = 0) -> MCNN:
    """Return the network that training with `seed` begins with, in eval mode: the baseline of random weights."""
    _, height, width, channels = store.pixels.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MCNN(network, int(np.max(labels)) + 1, channels, height, width)
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    fields = (store.pixels[row] for row in rows[::max(1, len(rows) // 100)])  # a hundred tell mean and spread of grey levels
    mean, square = np.mean([(f.mean((0, 1)), np.square(f, dtype=np.float64).mean((0, 1))) for f in fields], axis=0)
    std = np.sqrt(square - mean ** 2)
    model.grey_mean.copy_(torch.from_numpy(mean)[:, None, None])
    model.grey_std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0))[:, None, None])
    return model.eval()


def _begin_with(model: MCNN, start: MCNN) -> None:
    """Give a network the weights of another one, which may have fewer classes."""
    (config, classes, *field), (their_config, their_classes, *their_field) = model.spec, start.spec
    if (config, field) != (their_config, their_field) or their_classes > classes:
        raise InputError("Training can only begin with a network of the same kind, for the same fields and no more classes",
                         [f"network to begin with: {start.spec}", f"network to train: {model.spec}"])
    weights, own = start.state_dict(), model.state_dict()
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = torch.cat([weights[key].to(own[key].device), own[key][their_classes:]])
    model.load_state_dict(weights)


def augmented(store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, row: int, n: int) -> list[np.ndarray]:
    """Return `n` views of one field as training shows it, back in grey levels: (h, w, C) uint8, for looking at."""
    model, rng = untrained_model(store, labels, network), np.random.default_rng(recipe.seed)
    views = _views(store.pixels, np.full(n, row), _crop_size(model, recipe), recipe.flips, rng)
    x = _augment(model, views, recipe, rng)
    grey = x * model.grey_std + model.grey_mean
    return list(grey.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def load_model(folder: str | Path) -> MCNN:
    """Return the trained network of a folder that `train` has finished, in eval mode.

    Raises MissingStageError if training has not begun or not finished, InputError if a file is damaged.
    """
    found = _checkpoints(folder := Path(folder))
    if not found:
        raise MissingStageError(f"{folder} holds no trained network: run the notebook on training first")
    tensors, state = _read(found[-1])
    if not state["finished"]:
        raise MissingStageError(f"Training in {folder} stopped in epoch {len(state['history']) + 1}: run it to its end first")
    model, _ = read_yaml(folder / "network.yml")
    if repr(model.spec) != state["identity"]["network"]:
        raise InputError(f"{folder / 'network.yml'} is not the network of {found[-1]}: run the training again to write it")
    model.load_state_dict(_part(tensors, "model"))
    return model.eval()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _bfloat16(precision: str) -> bool:
    """Whether to compute convolutions in bfloat16: emulated, it is slower than float32."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _optimiser(model: MCNN, recipe: Recipe) -> torch.optim.Optimizer:  # its rate is set before every step
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, fused=True)


def _crop_size(model: MCNN, recipe: Recipe) -> tuple[int, int]:
    """Height and width of what training shows, which the scales of the network can halve."""
    if recipe.crop < 1 and not model.config.average:
        raise InputError("A network that flattens its last layer takes whole fields: use crop=1, or a network that averages")
    fit = 2 ** (len(model.config.scales) - 1)
    _, _, _, height, width = model.spec
    return max(fit, int(height * recipe.crop) // fit * fit), max(fit, int(width * recipe.crop) // fit * fit)


def _views(pixels: np.ndarray, rows: np.ndarray, size: tuple[int, int], flips: bool, rng: np.random.Generator) -> np.ndarray:
    """Cut random crops, flipped, out of the fields: (n, h, w, C) uint8. Only the pixels of a crop are read."""
    (high, wide), (height, width) = size, pixels.shape[1:3]
    corners = rng.integers((height - high, width - wide), size=(len(rows), 2), endpoint=True)
    fields = []
    for row, (top, left), (down, across, diagonal) in zip(rows, corners, rng.integers(2, size=(len(rows), 3)) * flips):
        field = pixels[row][top:top + high, left:left + wide][::-1 if down else 1, ::-1 if across else 1]
        fields.append(field.transpose(1, 0, 2) if diagonal and high == wide else field)
    return np.stack(fields)


def _augment(model: MCNN, fields: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    """Standardise a batch and jitter the gain and offset of each channel of each field."""
    x = model.standardise(fields)
    gain, offset = torch.from_numpy(rng.standard_normal((2, *x.shape[:2], 1, 1), dtype=np.float32)).to(x.device)
    return x.mul_(torch.exp(recipe.jitter_gain * gain)).add_(recipe.jitter_offset * offset)


@contextmanager
def _reproducible(seed: int, epoch: int):
    """Derive all randomness of an epoch from seed and epoch; yield NumPy's generator (torch's serves dropout)."""
    devices = list(range(torch.cuda.device_count()))[:1]
    with torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        torch.manual_seed(int(np.random.SeedSequence([seed, 2, epoch]).generate_state(1)[0]))
        yield np.random.default_rng([seed, 3, epoch])


def _identity(store: Any, labels: np.ndarray, model: MCNN, recipe: Recipe) -> dict[str, str]:
    """What a checkpoint must share with a training that goes on from it."""
    classes = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    return {"network": repr(model.spec), "recipe": repr(recipe), "surrogate classes": classes, "store": store.manifest["sha256"]}


def _save(folder: Path, state: dict[str, Any], model: MCNN, optimiser: torch.optim.Optimizer) -> None:
    """Write tensors, with the scalars as JSON in their header, and last the SHA-256 beside them; keep the two newest.

    A file without its SHA-256 was being written when the run ended, and is ignored.
    """
    path = folder / f"epoch_{len(state['history']):03d}.safetensors"
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in slots.items() if value is not None}
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(f"Weights are not finite numbers after {path.stem}; lower the learning rate", bad)
    with atomic(path) as temporary:
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary, metadata={"state": json.dumps(state)})
    with atomic(path.with_suffix(".sha256")) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")
    for old in _checkpoints(folder)[:-2]:
        old.with_suffix(".sha256").unlink()
        old.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    digests = sorted(folder.glob("epoch_*.sha256"), key=lambda path: (len(path.name), path.name))
    return [path.with_suffix(".safetensors") for path in digests]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and state, after comparing its SHA-256."""
    expected = path.with_suffix(".sha256").read_text(encoding="ascii", errors="replace").split()
    if not path.exists() or [sha256(path), path.name] != expected:
        raise InputError(f"{path} is damaged, it does not match its SHA-256: delete {path.stem}.* to go on from the one before")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint: delete the folder to train again", [str(error)]) from error


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def _resume(folder: Path, identity: dict[str, str], model: MCNN, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the newest checkpoint into model and optimiser; return its state, or that of a beginning."""
    found = _checkpoints(folder)
    if not found:
        return {"step": 0, "history": [], "finished": False}
    tensors, state = _read(found[-1])
    there = state["identity"]
    other = [f"{key}: {there.get(key)} there, {here} here" for key, here in identity.items() if there.get(key) != here]
    if other:
        raise InputError(f"{found[-1]} belongs to another training: choose another folder, or delete this one", other)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _part(tensors, "optimiser").items():
        index, slot = key.split(".")
        # In the memory order of the weights, which the fused optimiser takes for granted.
        slots.setdefault(int(index), {})[slot] = value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
    model.load_state_dict(_part(tensors, "model"))
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
    return {key: state[key] for key in ("step", "history", "finished")}
