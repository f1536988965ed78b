"""The engine: training, batches and features, alike on CPU and GPU.

It holds how to train, batches made on the device, steps of the optimiser, and features.

Only torch and NumPy are needed here. The device, the precision and the place of the pixels are
chosen by what the machine is: a GPU where there is one, bfloat16 where it is measured to be faster,
and 8-bit pixels kept on the GPU where they fit. What is drawn at random is drawn on the CPU from
one generator, so that every device, and every number of processes, sees the same views. What we had
to choose is marked [ours].
"""

import ast
import dataclasses
import hashlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.machine import checkpoint
from mcnn_core.machine.device import bfloat16, device, reproducible
from mcnn_core.machine.files import claim, exclusive, in_build, refuse_foreign, write_table
from mcnn_core.machine.parallel import Team, team
from mcnn_core.model import (
    CONFIGS,
    MCNN,
    NetworkConfig,
    by_rows,
    digest,
    multiple_of,
    read_yaml,
    write_yaml,
)
from mcnn_core.surrogate import BalancedBatches, training_fields

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


def activations(
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
    found = np.empty((len(rows), model.config.hidden), dtype=np.float32)
    with torch.inference_mode():
        starts = range(0, len(rows), batch)
        ahead = _ahead(fields.whole(rows[start : start + batch]) for start in starts)
        for start, views in zip(starts, ahead, strict=True):
            found[start : start + batch] = (
                model.embed(model.standardise(views), bf16).float().cpu().numpy()
            )
            seen(len(views))
    return found


KIND = "trained network"  #: what the marker of the folder says (`mcnn_core.machine.files.claim`)


def train(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    recipe: Recipe,
    folder: str | Path,
    names: Sequence[str] | None = None,
    progress: bool = True,
    start: MCNN | None = None,
) -> pd.DataFrame:
    """Train an M-CNN, or go on with one that was interrupted; return at once if it is finished.

    Parameters
    ----------
    store : Store
        Pre-processed fields: ``pixels`` (n, H, W, C) uint8, ``manifest["sha256"]``, ``verify``.
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
        A trained network whose weights to begin with, for the same fields. Its classes are the
        first of `labels`, which may have more: the score of a new class begins with random weights.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, accuracy (of the fields as augmented), learning_rate,
        seconds.

    Raises
    ------
    InputError
        If the folder holds what `train` has not written, if another run trains in it, if pixels to
        train on are not as they were written, if the folder holds a damaged checkpoint or one of
        another training, if `start` is a network for other fields or more classes, or if the loss
        is not a finite number: the fields of the batch are named, the last good checkpoint stays.
    """
    with team() as us, _held(Path(folder), us):
        return _train(
            store,
            np.asarray(labels),
            network,
            recipe,
            Path(folder),
            names,
            progress and us.rank == 0,
            start,
            us,
        )


@contextmanager
def _held(folder: Path, us: Team) -> Iterator[None]:
    """Hold the folder of a training for the first of its processes."""
    if us.rank == 0:
        claim(folder, KIND)
        with exclusive(folder):
            yield
    else:
        yield


def _train(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    recipe: Recipe,
    folder: Path,
    names: Sequence[str] | None,
    progress: bool,
    start: MCNN | None,
    us: Team,
) -> pd.DataFrame:
    if len(labels) != len(store.pixels):
        raise InputError(
            f"{len(store.pixels)} fields in the store, but {len(labels)} labels: both must come "
            "from one table"
        )
    names = names if names is not None else [f"row {row}" for row in range(len(labels))]
    model = untrained_model(store, labels, network, recipe.seed)
    if start is not None:
        _begin_with(model, start)
    from tqdm import tqdm  # here, since steps alone need no more than torch, NumPy and pandas

    model = model.to(device()).train()
    optimiser = optimiser_for(model, recipe)
    sampler = BalancedBatches(labels, recipe.batch, recipe.seed)
    total = total_steps(recipe, len(sampler))
    identity = _identity(store, labels, model, recipe) | (
        {} if start is None else {"start": digest(start)}
    )
    state = checkpoint.resume(folder, identity, model, optimiser)
    state["by"] = state["by"] if in_build() else "command"
    # Measured once for a whole training, whatever a resumed run would measure.
    if recipe.precision == "auto":
        measured = "bfloat16" if bfloat16() else "float32"
        state["precision"] = measured if state["precision"] == "auto" else state["precision"]
        recipe = replace(recipe, precision=state["precision"])
    us.wait()  # all have read the folder before one writes to it
    if us.rank == 0:
        write_yaml(folder / "network.yml", model, asdict(recipe))
    if state["step"] >= total:
        if us.rank == 0:  # it may have been lost since
            write_table(folder / "history.csv", pd.DataFrame(state["history"]))
        return pd.DataFrame(state["history"])
    if us.rank == 0:
        store.verify(np.flatnonzero(labels >= 0))
    fields, spread = Fields(store.pixels, np.flatnonzero(labels >= 0)), us.spread(model)
    with tqdm(
        total=total, initial=state["step"], disable=not progress, desc="training", unit="batch"
    ) as bar:
        while state["step"] < total:
            epoch, first, began = len(state["history"]), state["step"], time.perf_counter()
            steps = min(len(sampler), total - first)
            rates = [learning_rate(recipe, first + step, len(sampler)) for step in range(steps)]

            def seen(done: int, loss: float, accuracy: float) -> None:
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
                bar.update(done)

            try:
                with reproducible(recipe.seed, epoch, us.rank) as rng:
                    sums = run_steps(
                        spread,
                        optimiser,
                        fields,
                        labels,
                        islice(sampler.batches(epoch), steps),
                        rates,
                        recipe,
                        rng,
                        us.rank,
                        us.size,
                        seen,
                    )
            except FloatingPointError as error:
                raise InputError(
                    f"The loss is not a finite number in epoch {epoch + 1}; the last checkpoint "
                    "was kept. Look at these fields, or lower the learning rate",
                    [names[row] for row in error.args[0]],
                ) from None
            sums = us.total(sums)
            loss, accuracy = (sums[:2] / sums[2]).tolist()
            state["step"] += steps
            state["history"].append(
                {
                    "epoch": epoch + 1,
                    "loss": loss,
                    "accuracy": accuracy,
                    "learning_rate": rates[-1],
                    "seconds": time.perf_counter() - began,
                }
            )
            state["finished"] = state["step"] >= total
            if us.rank == 0:
                write_table(folder / "history.csv", pd.DataFrame(state["history"]))
                checkpoint.save(folder, {**state, "identity": identity}, model, optimiser)
            us.wait()
    return pd.DataFrame(state["history"])


def make_way(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    recipe: Recipe,
    folder: str | Path,
    as_given: bool = True,
) -> None:
    """Delete the checkpoints of another training, if ``make book`` has trained them.

    They are deleted if they belong to another training than this one and ``make book`` has trained
    them. They follow from the parameters of the book, so that `train`, which refuses such a folder,
    can replace them; a line says in what they differ.

    Parameters
    ----------
    store, labels, network, recipe, folder
        As of `train`.
    as_given : bool
        Whether `recipe` is what the parameters of a book say, so that a message can name those that
        would use the network.

    Raises
    ------
    InputError
        If they belong to another training that a command, or a notebook run by hand, has made or
        continued: it may have taken days. All that differs is listed.
    """
    folder = Path(folder)
    refuse_foreign(folder, KIND)
    found = checkpoint.checkpoints(folder)
    if not found:
        return
    state, model = (
        checkpoint.read(found[-1])[1],
        untrained_model(store, labels, network, recipe.seed),
    )
    there, here = state["identity"], _identity(store, np.asarray(labels), model, recipe)
    other = checkpoint.differences(there, here)
    if other and state["by"] != "book":
        use = _parameters(there, here, model, recipe) if as_given else ""
        raise InputError(
            f"{folder} holds a network that was not trained by make book alone, "
            "and with other settings: "
            + (
                f'to use it, add PARAMS="{use}" to make book, for all chapters that train; '
                if use
                else ""
            )
            + "to train another, name another OUT, or delete that folder",
            other,
        )
    if other:
        # To stderr, which a build shows and leaves out of its pages.
        print(
            f"{folder}: the network that make book trained before with other settings makes way "
            f"({'; '.join(other)})",
            file=sys.stderr,
        )
        for path in found:
            path.with_suffix(".sha256").unlink()
            path.unlink()


def _parameters(there: dict[str, str], here: dict[str, str], model: MCNN, recipe: Recipe) -> str:
    """Return the ``PARAMS`` by which a book trains as was trained there.

    They are in words of chapter 5; "" if there are none.
    """
    if {**there, "network": "", "recipe": ""} != {**here, "network": "", "recipe": ""}:
        return ""
    free = ("epochs", "batch", "max_steps")

    def named(told: str, given: dict[str, Any]) -> list[str]:
        return [
            name
            for name, one in RECIPES.items()
            if repr(replace(one, seed=recipe.seed, **given)) == told
        ]

    networks = [
        name
        for name, config in CONFIGS.items()
        if repr((config, *model.spec[1:])) == there.get("network")
        and multiple_of(config) == multiple_of(model.config)
    ]
    with suppress(KeyError, ValueError, TypeError, SyntaxError):  # a recipe of another version
        fields = checkpoint.parts(there["recipe"])
        given = {key: ast.literal_eval(fields[key]) for key in free}
        recipes = named(there["recipe"], given)
        if networks and recipes:
            same = recipes == named(repr(recipe), {key: getattr(recipe, key) for key in free})
            pairs: dict[str, str | int] = (
                {"network": networks[0]} if there.get("network") != here["network"] else {}
            )
            pairs |= {} if same else {"recipe": recipes[0]}
            pairs |= {
                key: value or 0
                for key, value in given.items()
                if not same or value != getattr(recipe, key)
            }
            return " ".join(f"{key}={value}" for key, value in pairs.items())
    return ""


def untrained_model(store: Any, labels: np.ndarray, network: NetworkConfig, seed: int = 0) -> MCNN:
    """Return the network that training with `seed` begins with, in eval mode.

    It is the baseline of random weights.
    """
    _, height, width, channels = store.pixels.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MCNN(network, int(np.max(labels)) + 1, channels, height, width)
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    # A hundred tell mean and spread of grey levels.
    fields = (store.pixels[row] for row in rows[:: max(1, len(rows) // 100)])
    mean, square = np.mean(
        [(f.mean((0, 1)), np.square(f, dtype=np.float64).mean((0, 1))) for f in fields], axis=0
    )
    std = np.sqrt(square - mean**2)
    model.grey_mean.copy_(torch.from_numpy(mean)[:, None, None])
    model.grey_std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0))[:, None, None])
    return model.eval()


def _begin_with(model: MCNN, start: MCNN) -> None:
    """Give a network the weights of another one, which may have fewer classes."""
    (config, classes, *field), (their_config, their_classes, *their_field) = model.spec, start.spec
    if (config, field) != (their_config, their_field) or their_classes > classes:
        raise InputError(
            "Training can only begin with a network of the same kind, for the same fields and no "
            "more classes",
            [f"network to begin with: {start.spec}", f"network to train: {model.spec}"],
        )
    weights, own = start.state_dict(), model.state_dict()
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = torch.cat([weights[key].to(own[key].device), own[key][their_classes:]])
    model.load_state_dict(weights)


def augmented(
    store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, row: int, n: int
) -> list[np.ndarray]:
    """Return `n` views of one field as training shows it, back in grey levels.

    They are (h, w, C) uint8, for looking at.
    """
    model, rng = (
        untrained_model(store, labels, network).to(device()),
        np.random.default_rng(recipe.seed),
    )
    size = crop_size(model, recipe)
    drawn = draw(rng, n, store.pixels.shape[1:], size, recipe.flips)
    x = augment(model, Fields(store.pixels).views(np.full(n, row), size, drawn), recipe, drawn)
    grey = x * model.grey_std + model.grey_mean
    return list(grey.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def load_model(folder: str | Path) -> MCNN:
    """Return the trained network of a folder that `train` has finished, in eval mode.

    Raises MissingStageError if training has not begun or not finished, InputError if a file is
    damaged.
    """
    found = checkpoint.checkpoints(folder := Path(folder))
    if not found:
        raise MissingStageError(
            f"{folder} holds no trained network: run the notebook on training first"
        )
    tensors, state = checkpoint.read(found[-1])
    if not state["finished"]:
        raise MissingStageError(
            f"Training in {folder} stopped in epoch {len(state['history']) + 1}: run it to its end "
            "first"
        )
    model, _ = read_yaml(folder / "network.yml")
    if repr(model.spec) != state["identity"]["network"]:
        raise InputError(
            f"{folder / 'network.yml'} is not the network of {found[-1]}: run the training again "
            "to write it"
        )
    checkpoint.load_weights(found[-1], tensors, model)
    return model.eval()


def _identity(store: Any, labels: np.ndarray, model: MCNN, recipe: Recipe) -> dict[str, str]:
    """Return what a checkpoint must share with a training that goes on from it."""
    classes = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    return {
        "network": repr(model.spec),
        "recipe": repr(recipe),
        "surrogate classes": classes,
        "store": store.manifest["sha256"],
    }


def with_controls(recipe: Recipe, table: pd.DataFrame) -> Recipe:
    """Return a recipe for training with the negative controls as one more class.

    An epoch draws as many fields as there are training fields, so the many controls lengthen it;
    the epochs are cut in proportion, and every class is seen about as often as without controls.
    """
    share = training_fields(table).sum() / training_fields(table, controls=True).sum()
    return dataclasses.replace(recipe, epochs=max(1, round(recipe.epochs * share)))
