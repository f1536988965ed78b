"""Training on surrogate classes: one loop for CPU and GPU, a checkpoint per epoch, exact resume.

The paper (Methods, "Learning details") states SGD, dropout, cross-entropy plus weight decay, 27
epochs and a rate held for 9 epochs at a time. It refers to earlier work for the rest; what we had
to choose is marked [ours]. All randomness comes from the seed and the number of the epoch, so a
run that was killed goes on from its last checkpoint to the same weights.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from mcnn_core.model import MCNN, NetworkConfig, read_yaml, write_yaml
from mcnn_core.surrogate import BalancedBatches


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    epochs, batch : int
        An epoch draws about as many fields as there are training fields, `batch` per step.
    optimiser : {"sgd", "adamw"}
    learning_rate, momentum, weight_decay, clip : float
        Highest rate; SGD's momentum; coefficient of the squared L2 norm (as Caffe's: the paper prints
        the norm unsquared); largest norm of the gradient.
    schedule : {"steps", "one-cycle"}
        A tenth of the rate after every 9 epochs, or a cosine up over 20 % of all steps and down again.
    crop : float
        Part of each side that is shown in training, at random places. Features always see the full field.
    flips : bool
        Show fields flipped along each axis, and transposed where they are square. Right-angle
        rotations are among these: 180 degrees for any field, 90 and 270 degrees for a square one.
    jitter_gain, jitter_offset : float
        Each channel of each field is multiplied by exp(jitter_gain * N(0, 1)) and shifted by
        jitter_offset * N(0, 1), in standard units.
    precision : {"auto", "float32", "bfloat16"}
        "auto" is bfloat16 where the processor computes in it natively.
    seed : int
        Seed of weights, batches, augmentation and dropout.
    max_steps : int or None
        Stop after this many steps, to try things out.
    """

    epochs: int
    batch: int
    optimiser: str
    learning_rate: float
    schedule: str
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 5.0
    crop: float = 1.0
    flips: bool = True
    jitter_gain: float = 0.0
    jitter_offset: float = 0.0
    precision: str = "auto"
    seed: int = 0
    max_steps: int | None = None

    def __post_init__(self) -> None:
        choices = {"optimiser": ("sgd", "adamw"), "schedule": ("steps", "one-cycle"),
                   "precision": ("auto", "float32", "bfloat16")}
        problems = [f"{key} {getattr(self, key)!r} is none of {', '.join(values)}"
                    for key, values in choices.items() if getattr(self, key) not in values]
        problems += [f"{key} {getattr(self, key)} is not positive" for key in ("epochs", "batch", "learning_rate", "clip")
                     if getattr(self, key) <= 0]
        if not 0 < self.crop <= 1:
            problems.append(f"crop {self.crop} is not above 0 and at most 1")
        if problems:
            raise InputError("This is no recipe for training", problems)


RECIPES = {
    # [ours] rate, momentum, decay, batch, clip, the factor of 0.1 per 9 epochs, and flips as augmentation.
    "published": Recipe(epochs=27, batch=16, optimiser="sgd", learning_rate=5e-3, schedule="steps"),
    "default": Recipe(epochs=60, batch=32, optimiser="adamw", learning_rate=2e-3, schedule="one-cycle",
                      weight_decay=1e-2, crop=0.5, jitter_gain=0.2, jitter_offset=0.15),
}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0: a function of the step alone, so it needs no saving."""
    if recipe.schedule == "steps":
        return recipe.learning_rate * 0.1 ** (step // steps_per_epoch // 9)
    last, lowest = recipe.epochs * steps_per_epoch - 1, recipe.learning_rate / 25
    warm = 0.2 * (last + 1) - 1
    start, end, part = (lowest, recipe.learning_rate, step / warm) if step < warm else (
        recipe.learning_rate, lowest * 1e-4, (step - warm) / (last - warm))
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def train(store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, folder: str | Path,
          names: Sequence[str] | None = None, progress: bool = True) -> pd.DataFrame:
    """Train an M-CNN, or go on with one that was interrupted; return at once if it is finished.

    Parameters
    ----------
    store : Store
        Pre-processed fields: ``pixels`` (n, H, W, C) uint8 and ``manifest``.
    labels : (n,) int array
        Surrogate class of each field of the store; -1 where not trained on.
    network : NetworkConfig
        Shape of the network.
    recipe : Recipe
        How to train.
    folder : path
        Where network.yml, history.csv and the checkpoints are written.
    names : sequence of str, optional
        Name of each field for messages (`mcnn_core.surrogate.field_names`).
    progress : bool
        Show a bar with loss, accuracy and the time left.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, accuracy (both over the augmented training fields),
        learning_rate (of its last step), seconds.

    Raises
    ------
    InputError
        If the folder holds a damaged checkpoint or one of another training; if the loss is not a
        finite number (the fields of the batch are named and the last good checkpoint stays).
    """
    folder, labels = Path(folder), np.asarray(labels)
    if len(labels) != len(store.pixels):
        raise InputError(f"{len(store.pixels)} fields in the store, but {len(labels)} labels: both must come from one table")
    names = names if names is not None else [f"row {row}" for row in range(len(labels))]
    model = untrained_model(store, labels, network, recipe.seed).to(_device()).train()
    optimiser, view = _optimiser(model, recipe), _view(model, recipe)
    bf16 = _bfloat16(recipe.precision)
    sampler = BalancedBatches(labels, recipe.batch, recipe.seed)
    total = min(recipe.epochs * len(sampler), recipe.max_steps or math.inf)
    identity = _identity(store, labels, model, recipe)
    state = _resume(folder, identity, model, optimiser)
    write_yaml(folder / "network.yml", model, asdict(recipe))
    with tqdm(total=total, initial=state["step"], disable=not progress, desc="training", unit="batch") as bar:
        while state["step"] < total:
            epoch, began = len(state["history"]), time.perf_counter()
            sums = np.zeros(3)  # summed loss, right answers, fields
            with _reproducible(recipe.seed, epoch) as rng:
                for rows in sampler.batches(epoch):
                    rate = learning_rate(recipe, state["step"], len(sampler))
                    for group in optimiser.param_groups:
                        group["lr"] = rate
                    x = _augment(model, view(store.pixels, rows, rng), recipe, rng)
                    y = torch.from_numpy(labels[rows]).to(x.device)
                    optimiser.zero_grad(set_to_none=True)
                    scores = model(x, bf16)
                    losses = F.cross_entropy(scores, y, reduction="none")
                    losses.mean().backward()
                    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                    if not torch.isfinite(losses.sum() + norm):
                        raise InputError(f"The loss or its gradient is not a finite number in epoch {epoch + 1}; the last "
                                         "checkpoint was kept. Look at these fields, or lower the learning rate",
                                         [names[row] for row in rows])
                    optimiser.step()
                    state["step"] += 1
                    sums += losses.sum().item(), (scores.argmax(1) == y).sum().item(), len(rows)
                    bar.update()
                    bar.set_postfix(loss=f"{sums[0] / sums[2]:.3f}", accuracy=f"{sums[1] / sums[2]:.3f}", refresh=False)
                    if state["step"] >= total:
                        break
            state["history"].append({"epoch": epoch + 1, "loss": sums[0] / sums[2], "accuracy": sums[1] / sums[2],
                                     "learning_rate": rate, "seconds": time.perf_counter() - began})
            state["finished"] = bool(state["step"] >= total)
            write_table(folder / "history.csv", pd.DataFrame(state["history"]))
            _save(folder, {**state, "identity": identity}, model, optimiser)
    return pd.DataFrame(state["history"])


def untrained_model(store: Any, labels: np.ndarray, network: NetworkConfig, seed: int = 0) -> MCNN:
    """Return the network that training with `seed` begins with, in eval mode: the baseline of random weights."""
    trained_on = np.flatnonzero(np.asarray(labels) >= 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, height, width, channels = store.pixels.shape
        model = MCNN(network, int(np.max(labels)) + 1, channels, height, width)
    # Two hundred training fields tell the mean and standard deviation of grey levels well enough.
    sample = trained_on[np.unique(np.linspace(0, len(trained_on) - 1, 200).astype(int))]
    counts = sum(np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(store.pixels[row], -1, 0)])
                 for row in sample)
    levels, weights = np.arange(256), counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ levels
    std = np.sqrt((weights * (levels - mean[:, None]) ** 2).sum(axis=1))
    model.grey_mean.copy_(torch.from_numpy(mean)[:, None, None])
    model.grey_std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0))[:, None, None])
    return model.eval()


def load_model(folder: str | Path) -> MCNN:
    """Return the trained network of a folder that `train` has finished, in eval mode.

    Raises
    ------
    MissingStageError
        If training has not begun or not finished.
    InputError
        If a file is damaged.
    """
    folder = Path(folder)
    found = _checkpoints(folder)
    if not found:
        raise MissingStageError(f"{folder} holds no trained network: run the notebook on training first")
    tensors, state = _read(found[-1])
    if not state["finished"]:
        raise MissingStageError(f"Training in {folder} has stopped in epoch {len(state['history']) + 1}: run it to its end first")
    model, _ = read_yaml(folder / "network.yml")
    if repr(model.spec) != state["identity"]["network"]:
        raise InputError(f"{folder / 'network.yml'} is not the network of {found[-1]}: run the training again to write it")
    _load(found[-1], lambda: model.load_state_dict(_part(tensors, "model")))
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


def _optimiser(model: MCNN, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum,
                               weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _view(model: MCNN, recipe: Recipe) -> Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]:
    """Return the function that cuts a batch of random crops, flipped, out of the store as (n, h, w, C) uint8.

    Only the pixels of the crop are read.
    """
    _, _, _, height, width = model.spec
    fit = 2 ** (len(model.config.scales) - 1)
    high, wide = (max(fit, int(side * recipe.crop) // fit * fit) for side in (height, width))
    if recipe.crop < 1 and not model.config.average:
        raise InputError("A network that flattens its last layer takes whole fields only: use crop=1, or a network "
                         "that averages over positions")

    def view(pixels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        tops = rng.integers(height - high, size=len(rows), endpoint=True)
        lefts = rng.integers(width - wide, size=len(rows), endpoint=True)
        flips = rng.integers(2, size=(len(rows), 3)) * recipe.flips
        fields = []
        for row, top, left, (down, across, diagonal) in zip(rows, tops, lefts, flips):
            field = pixels[row][top:top + high, left:left + wide]
            field = field[::-1 if down else 1, ::-1 if across else 1]
            fields.append(field.transpose(1, 0, 2) if diagonal and high == wide else field)
        return np.stack(fields)

    return view


def _augment(model: MCNN, fields: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    """Standardise a batch and jitter the gain and offset of each channel of each field."""
    x = model.standardise(fields)
    draws = rng.standard_normal((2, x.shape[0], x.shape[1], 1, 1), dtype=np.float32)
    if recipe.jitter_gain or recipe.jitter_offset:
        gain, offset = torch.from_numpy(draws).to(x.device)
        x = x.mul_(torch.exp(recipe.jitter_gain * gain)).add_(recipe.jitter_offset * offset)
    return x


@contextmanager
def _reproducible(seed: int, epoch: int):
    """Derive all randomness of an epoch from seed and epoch; yield NumPy's generator (torch's serves dropout)."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, 2, epoch]).generate_state(1)[0]))
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield np.random.default_rng([seed, 3, epoch])


def _identity(store: Any, labels: np.ndarray, model: MCNN, recipe: Recipe) -> dict[str, str]:
    """What a checkpoint must share with a training that goes on from it."""
    return {"network": repr(model.spec), "recipe": repr(recipe),
            "surrogate classes": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
            "store": str(store.manifest["sha256"])}


def _save(folder: Path, state: dict[str, Any], model: MCNN, optimiser: torch.optim.Optimizer) -> None:
    """Write a checkpoint: tensors and, in the header, the scalars as JSON; its SHA-256 beside it, last.

    The two newest are kept. One without its SHA-256 was being written when the run ended and is ignored.
    """
    path = folder / f"epoch_{len(state['history']):03d}.safetensors"
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in slots.items() if value is not None}
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(f"Weights are no longer finite numbers after epoch {len(state['history'])}; the last "
                         "checkpoint was kept. Lower the learning rate", bad)
    with atomic(path) as temporary:
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary,
                  metadata={"state": json.dumps(state)})
    with atomic(path.with_suffix(".sha256")) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")
    for old in _checkpoints(folder)[:-2]:
        old.with_suffix(".sha256").unlink()
        old.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [path.with_suffix(".safetensors") for path in sorted(folder.glob("epoch_*.sha256"))]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and state, after comparing its SHA-256."""
    expected = path.with_suffix(".sha256").read_text(encoding="ascii", errors="replace").split()
    if not path.exists() or [sha256(path), path.name] != expected:
        raise InputError(f"Checkpoint {path} is damaged: delete {path.stem}.* to go on from the one before",
                         ["its contents do not match its SHA-256"])

    def load() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["state"])

    return _load(path, load)


def _load(path: Path, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"Checkpoint {path} cannot be used: delete the folder to train again", [str(error)]) from error


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def _resume(folder: Path, identity: dict[str, str], model: MCNN, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the newest checkpoint into model and optimiser; return its state, or that of a beginning."""
    found = _checkpoints(folder)
    if not found:
        return {"step": 0, "history": [], "finished": False}
    tensors, state = _read(found[-1])
    other = [f"{key}: {state['identity'].get(key)} there, {value} here"
             for key, value in identity.items() if state["identity"].get(key) != value]
    if other:
        raise InputError(f"{found[-1]} belongs to another training: choose another folder, or delete this one", other)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _part(tensors, "optimiser").items():
        index, slot = key.split(".")
        # In the memory order of the weights, which the fused optimiser takes for granted.
        slots.setdefault(int(index), {})[slot] = value.to(memory_format=torch.channels_last) if value.dim() == 4 else value

    def load() -> None:
        model.load_state_dict(_part(tensors, "model"))
        optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})

    _load(found[-1], load)
    return {key: state[key] for key in ("step", "history", "finished")}
