"""The engine: training, batches and features, alike on CPU and GPU.

It holds how to train, batches made on the device, steps of the optimiser, and features.

Only torch and NumPy are needed here. The device, the precision and the place of the pixels are
chosen by what the machine is: a GPU where there is one, bfloat16 where it is measured to be faster,
and 8-bit pixels kept on the GPU where they fit. What is drawn at random is drawn on the CPU from
one generator, so that every device, and every number of processes, sees the same views. What we had
to choose is marked [ours].
"""

import ctypes
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mcnn_core.errors import InputError
from mcnn_core.model import MCNN, by_rows

PIXELS_AT_ONCE = 2**21  # whole fields of 1024 x 1280 go through a CPU one by one: memory stays flat
FREE_SHARE = 0.6  # of a GPU's free memory that pixels may take; the rest is for activations
CHECK_EVERY = 32  # steps between looks at a GPU's numbers: each look waits for it


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int  #: each draws about as many fields as there are training fields
    batch: int  #: fields per step, of all processes together
    optimiser: str  #: "sgd" or "adamw"
    learning_rate: float  #: the highest rate
    #: "steps": a tenth after every 9 epochs; "one-cycle": cosine up over 20 % of all steps, and
    #: down
    schedule: str
    momentum: float = 0.9  #: of SGD
    #: factor of the squared L2 norm, as Caffe's (the paper prints the norm unsquared)
    weight_decay: float = 5e-4
    clip: float = 5.0  #: largest norm of the gradient
    #: part of each side shown in training, at random places; features see the full field
    crop: float = 1.0
    #: flip along each axis, and transpose if square: so all right-angle rotations that fit occur
    flips: bool = True
    jitter_gain: float = 0.0  #: multiply each channel of each field by exp(jitter_gain * N(0, 1))
    jitter_offset: float = 0.0  #: and add jitter_offset * N(0, 1), in standard units
    #: "float32", "bfloat16", or "auto": bfloat16 where it is measured to be faster
    precision: str = "auto"
    seed: int = 0  #: of weights, batches, augmentation and dropout
    #: stop after so many steps, where the one-cycle schedule then ends
    max_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        choices = {
            "optimiser": ("sgd", "adamw"),
            "schedule": ("steps", "one-cycle"),
            "precision": ("auto", "float32", "bfloat16"),
        }
        problems = [
            f"{key} {getattr(self, key)!r} is none of {', '.join(values)}"
            for key, values in choices.items()
            if getattr(self, key) not in values
        ]
        problems += [
            f"{key} {getattr(self, key)} is not positive"
            for key in ("epochs", "batch", "learning_rate", "clip", "crop")
            if getattr(self, key) <= 0
        ]
        problems += [f"crop {self.crop} is more than 1"] * (self.crop > 1)
        if problems:
            raise InputError("This is no recipe for training", problems)


RECIPES = {
    # [ours] rate, momentum, decay, batch, clip, the factor of 0.1 per 9 epochs, and flips as
    # augmentation.
    "published": Recipe(epochs=27, batch=16, optimiser="sgd", learning_rate=5e-3, schedule="steps"),
    "default": Recipe(
        epochs=120,
        batch=32,
        optimiser="adamw",
        learning_rate=4e-3,
        schedule="one-cycle",
        weight_decay=1e-2,
        crop=0.5,
        jitter_gain=0.2,
        jitter_offset=0.15,
    ),
}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0.

    It is a function of the step alone, so it needs no saving.
    """
    if recipe.schedule == "steps":
        return recipe.learning_rate * 0.1 ** (step // steps_per_epoch // 9)
    last, lowest = total_steps(recipe, steps_per_epoch) - 1, recipe.learning_rate / 25
    warm = 0.2 * (last + 1) - 1
    start, end, part = (
        (lowest, recipe.learning_rate, step / warm)
        if step < warm
        else (recipe.learning_rate, lowest * 1e-4, (step - warm) / (last - warm))
    )
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return the number of steps of a whole training."""
    return min(recipe.epochs * steps_per_epoch, recipe.max_steps or sys.maxsize)


# The machine ---------------------------------------------------------------


@lru_cache(maxsize=1)
def device() -> torch.device:
    """Return this process's device: its GPU where there is one, else the CPU.

    torchrun numbers the GPUs.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cuda", torch.cuda.current_device())
    _keep_memory()
    return torch.device("cpu")


def _keep_memory() -> None:
    """Have glibc keep freed memory.

    Activations of many megabytes are otherwise returned to the system and zeroed anew in every
    step, which takes up to a third of the time. No other C library knows these settings, or needs
    them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def bfloat16(precision: str = "auto") -> bool:
    """Whether to compute convolutions in bfloat16: "auto" means where it is faster here."""
    return _bfloat16_is_faster(device().type) if precision == "auto" else precision == "bfloat16"


@lru_cache(maxsize=2)
def _bfloat16_is_faster(kind: str) -> bool:
    """Multiply matrices in both precisions.

    That a processor has instructions for bfloat16 does not tell: with AMX they are several times as
    fast as float32, without it they can take twice as long. So a clear margin decides, not noise.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    if not (able.get("amx_bf16") or able.get("avx512_bf16") or able.get("bf16")):
        return False  # emulated: slower than float32
    threads = torch.get_num_threads()
    # Threads that wait for each other on a busy machine would measure that.
    torch.set_num_threads(1)
    try:
        pairs = [
            (_product_seconds(torch.bfloat16), _product_seconds(torch.float32)) for _ in range(16)
        ]
    finally:
        torch.set_num_threads(threads)
    quickest = np.min(pairs, axis=0)
    return bool(quickest[0] < 0.8 * quickest[1])


def _product_seconds(dtype: torch.dtype, side: int = 512) -> float:
    """Return the wall time of a product of two square matrices on the CPU."""
    matrix = torch.ones(side, side, dtype=dtype)
    began = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - began


@contextmanager
def reproducible(seed: int, epoch: int, rank: int = 0) -> Iterator[np.random.Generator]:
    """Derive all randomness of an epoch from seed and epoch.

    Yield NumPy's generator, the same in every process. torch's serves dropout, which each process
    draws for its own part of a batch.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(
            int(np.random.SeedSequence([seed, 2, epoch, *[rank] * (rank > 0)]).generate_state(1)[0])
        )
        yield np.random.default_rng([seed, 3, epoch])


# Pixels --------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What is random about the views of one batch of n fields."""

    corners: np.ndarray  #: (n, 2) int: top and left of each crop
    turns: np.ndarray  #: (n, 3) int, 0 or 1: flip vertically, flip horizontally, transpose
    noise: np.ndarray  #: (2, n, C, 1, 1) float32, standard normal: of gain and of offset

    def __getitem__(self, part: slice) -> "Draw":
        """Return what is random about a part of the fields."""
        return Draw(self.corners[part], self.turns[part], self.noise[:, part])


def draw(
    rng: np.random.Generator, n: int, shape: Sequence[int], size: tuple[int, int], flips: bool
) -> Draw:
    """Draw views of `size` (height, width) of n fields of `shape` (H, W, C)."""
    corners = rng.integers((shape[0] - size[0], shape[1] - size[1]), size=(n, 2), endpoint=True)
    turns = rng.integers(2, size=(n, 3)) * flips
    turns[:, 2] *= size[0] == size[1]
    return Draw(corners, turns, rng.standard_normal((2, n, shape[2], 1, 1), dtype=np.float32))


class Fields:
    """The 8-bit fields of a store as a device reads them.

    On a GPU the fields to train on stay resident where they fit; where they do not, and on a CPU,
    only the pixels of a view are read, from the memory-mapped store. Both give the same bytes.

    Parameters
    ----------
    pixels : (n, H, W, C) uint8 array
        Usually memory-mapped.
    rows : (k,) int array, optional
        Rows that will be asked for again and again; without them nothing is kept on the device.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray | None = None):
        self.pixels, self.resident = pixels, None
        _, height, width, channels = pixels.shape
        if (
            rows is None
            or device().type == "cpu"
            or len(rows) * height * width * channels > FREE_SHARE * torch.cuda.mem_get_info()[0]
        ):
            return
        self.slots = np.zeros(len(pixels), np.int64)
        self.slots[rows] = np.arange(len(rows))
        self.resident = torch.empty(
            (len(rows), height, width, channels), dtype=torch.uint8, device=device()
        )
        for start in range(0, len(rows), 64):
            part = np.stack([pixels[row] for row in rows[start : start + 64]])
            self.resident[start : start + len(part)].copy_(torch.from_numpy(part))

    def views(self, rows: np.ndarray, size: tuple[int, int], drawn: Draw) -> torch.Tensor:
        """Return crops, turned as drawn: (n, h, w, C) uint8 tensor.

        Resident ones are on the device, others pinned for it.
        """
        return (
            self._cut(rows, size, drawn)
            if self.resident is None
            else self._gather(self.resident, rows, size, drawn)
        )

    def whole(self, rows: np.ndarray) -> torch.Tensor:
        """Return whole fields as they are stored: (n, H, W, C) uint8 tensor.

        It is pinned where there is a GPU.
        """
        return _pinned(np.stack([self.pixels[row] for row in rows]))

    def _cut(self, rows: np.ndarray, size: tuple[int, int], drawn: Draw) -> torch.Tensor:
        fields = []
        for row, (top, left), (down, across, diagonal) in zip(
            rows, drawn.corners, drawn.turns, strict=True
        ):
            field = self.pixels[row][top : top + size[0], left : left + size[1]][
                :: -1 if down else 1, :: -1 if across else 1
            ]
            fields.append(field.transpose(1, 0, 2) if diagonal else field)
        return _pinned(np.stack(fields))

    def _gather(
        self, resident: torch.Tensor, rows: np.ndarray, size: tuple[int, int], drawn: Draw
    ) -> torch.Tensor:
        places = [
            first[:, None] + np.where(flip[:, None], np.arange(side)[::-1], np.arange(side))
            for first, flip, side in zip(drawn.corners.T, drawn.turns[:, :2].T, size, strict=True)
        ]  # rows and columns within each field
        at, y, x = (
            torch.from_numpy(place).to(resident.device) for place in (self.slots[rows], *places)
        )
        fields = resident[at[:, None, None], y[:, :, None], x[:, None, :]]
        diagonal = np.flatnonzero(drawn.turns[:, 2])
        if len(diagonal):
            fields[diagonal] = fields[diagonal].transpose(1, 2)
        return fields


def _pinned(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device().type == "cuda" else tensor


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Make the next two items in a thread while one is used, where a GPU does the computing.

    A CPU has no one to spare.
    """
    if device().type == "cpu":
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(2))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item


def crop_size(model: MCNN, recipe: Recipe) -> tuple[int, int]:
    """Return height and width of what training shows, which the scales of the network can halve."""
    if recipe.crop < 1 and not model.config.average:
        raise InputError(
            "A network that flattens its last layer takes whole fields: use crop=1, or a network "
            "that averages"
        )
    fit = 2 ** (len(model.config.scales) - 1)
    _, _, _, height, width = model.spec
    return max(fit, int(height * recipe.crop) // fit * fit), max(
        fit, int(width * recipe.crop) // fit * fit
    )


def augment(model: MCNN, views: torch.Tensor, recipe: Recipe, drawn: Draw) -> torch.Tensor:
    """Standardise a batch on the device and jitter each channel of each field.

    Gain and offset are jittered; the result is (n, C, h, w) float32.
    """
    x = model.standardise(views)
    gain, offset = torch.from_numpy(drawn.noise).to(x.device).view(2, len(x), 1, -1)
    by_rows(x).mul_(torch.exp(recipe.jitter_gain * gain).repeat(1, 1, x.shape[3])).add_(
        (recipe.jitter_offset * offset).repeat(1, 1, x.shape[3])
    )
    return x


# Steps ---------------------------------------------------------------------


def optimiser_for(model: MCNN, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; its rate is set before every step."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay, fused=True)


def run_steps(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    fields: Fields,
    labels: np.ndarray,
    batches: Iterable[np.ndarray],
    rates: Iterable[float],
    recipe: Recipe,
    rng: np.random.Generator,
    rank: int = 0,
    ranks: int = 1,
    seen: Callable[[int, float, float], object] = lambda done, loss, accuracy: None,
) -> np.ndarray:
    """Take one step of the optimiser per batch.

    Parameters
    ----------
    network : nn.Module
        An `MCNN` in training mode on the device, or that network wrapped for several processes.
    optimiser : Optimizer
    fields : Fields
    labels : (n,) int array
    batches : iterable of int arrays
        Rows of the fields of each step.
    rates : iterable of float
        Learning rate of each step.
    recipe : Recipe
    rng : Generator
        Of the augmentation.
    rank, ranks : int
        This process among all that share each batch. All draw for the whole batch, and each
        computes its part.
    seen : function
        Called with the steps since the last call, and mean loss and accuracy so far: after every
        step on a CPU, now and then on a GPU.

    Returns
    -------
    (3,) float64 array
        Summed loss, right answers, and fields, of this process.

    Raises
    ------
    FloatingPointError
        If a loss or a gradient is not finite; its argument is the rows of that batch.
    """
    model = cast(MCNN, getattr(network, "module", network))
    size, bf16 = crop_size(model, recipe), bfloat16(recipe.precision)
    sums = np.zeros(3)
    waiting: list[tuple[np.ndarray, int, torch.Tensor]] = []

    def made() -> Iterator[tuple]:
        for rows in batches:
            drawn, part = (
                draw(rng, len(rows), fields.pixels.shape[1:], size, recipe.flips),
                slice(rank, None, ranks),
            )
            yield rows, rows[part], fields.views(rows[part], size, drawn[part]), drawn[part]

    def settle() -> None:
        for rows, mine, numbers in waiting:
            loss, right, norm = numbers.tolist()
            if not math.isfinite(loss + norm):
                raise FloatingPointError(rows)
            sums[:] += loss, right, mine
        if waiting:
            seen(len(waiting), sums[0] / sums[2], sums[1] / sums[2])
        waiting.clear()

    for (rows, mine, views, drawn), rate in zip(_ahead(made()), rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        x, y = augment(model, views, recipe, drawn), torch.from_numpy(labels[mine]).to(device())
        optimiser.zero_grad(set_to_none=True)
        scores = network(x, bf16)
        loss = F.cross_entropy(scores, y, reduction="sum")
        # Processes average their gradients: this is the mean over the whole batch whatever the
        # sizes of the parts.
        (loss * (ranks / len(rows))).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        waiting.append(
            (rows, len(mine), torch.stack([loss.detach(), (scores.argmax(1) == y).sum(), norm]))
        )
        if len(waiting) >= (1 if x.device.type == "cpu" else CHECK_EVERY):
            settle()
        optimiser.step()
    settle()
    return sums


def embed(
    model: MCNN,
    fields: Fields,
    rows: Sequence[int] | np.ndarray,
    batch: int = 64,
    seen: Callable[[int], object] = lambda n: None,
    precision: str = "auto",
) -> np.ndarray:
    """Send whole fields, not augmented, through the network.

    Parameters
    ----------
    model : MCNN
        Trained or not; it is put in eval mode (no dropout, fixed normalisation) and on the device.
    fields : Fields
    rows : sequence or array of int
    batch : int
        Fields at a time, fewer where they are large.
    seen : function
        Called with the number of fields done since the last call.
    precision : str
        As in `Recipe`.

    Returns
    -------
    (n, 128) float32 array
        Activations of the fully connected layer after its ReLU, in the order of `rows`.
    """
    rows = np.asarray(rows)
    model, bf16 = model.to(device()).eval(), bfloat16(precision)
    at_once = PIXELS_AT_ONCE * (1 if device().type == "cpu" else 32)
    batch = max(1, min(batch, at_once // int(np.prod(fields.pixels.shape[1:3]))))
    activations = np.empty((len(rows), model.config.hidden), dtype=np.float32)
    with torch.inference_mode():
        starts = range(0, len(rows), batch)
        ahead = _ahead(fields.whole(rows[start : start + batch]) for start in starts)
        for start, views in zip(starts, ahead, strict=True):
            activations[start : start + batch] = (
                model.embed(model.standardise(views), bf16).float().cpu().numpy()
            )
            seen(len(views))
    return activations
