"""Check and time the engine on a GPU, in one command of at most ten minutes.

    # needs torch (2.11 or later), numpy and pandas alone, on Python 3.11 or 3.12
    python benchmarks/gpu.py
    # tiny sizes, also on a CPU: tries the command out, its times mean nothing
    python benchmarks/gpu.py --small

256 distinct fields of 1024 x 1280 x 3 are drawn (bright blurred spots on a noisy background, not
the book's simulator) and repeated to the stated counts; they are in host memory, so that no disk is
timed. Training has 103 surrogate classes and 1,208 fields as the annotated treatments of BBBC021
have without taxol's controls, and 104 classes and 2,528 fields as with them. What does not fit the
time is timed in part and said to be extrapolated.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.plain_network import Embedding, Training
from mcnn_book.command import reporting
from mcnn_core.features import activations
from mcnn_core.machine.device import bfloat16, device, reproducible
from mcnn_core.machine.fields import Fields
from mcnn_core.machine.files import refuse_existing
from mcnn_core.model import CONFIGS, MCNN, macs
from mcnn_core.training import RECIPES, Trainer, draw, optimiser_for


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    height: int
    width: int
    distinct: int  #: fields that are drawn
    training: tuple[tuple[int, int], ...]  #: classes and fields
    embedded: int  #: fields
    network: str
    epochs: int
    seconds: float  #: for each timing
    square: int  #: side of the matrices whose product is the arithmetic peak


FULL = Sizes(1024, 1280, 256, ((103, 1208), (104, 2528)), 13_200, "published", 27, 45.0, 8192)
SMALL = Sizes(128, 128, 8, ((4, 16), (5, 24)), 24, "published", 2, 0.1, 256)


class Repeated:
    """An array of fields that repeats the rows of a smaller one."""

    def __init__(self, rows: np.ndarray, n: int):
        self.rows, self.shape = rows, (n, *rows.shape[1:])

    def __len__(self) -> int:
        """Return the number of fields."""
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one field."""
        return self.rows[row % len(self.rows)]


def spots(n: int, height: int, width: int) -> np.ndarray:
    """Draw fields of bright blurred spots on a noisy background: (n, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    fields = np.empty((n, height, width, 3), np.uint8)
    for field in fields:
        light = np.kron(rng.gamma(0.3, 60, (height // 16, width // 16, 3)), np.ones((16, 16, 1)))
        light = (light + np.roll(light, 8, axis=0) + np.roll(light, 8, axis=1)) / 3
        field[:] = (light + rng.normal(20, 6, light.shape)).clip(0, 255)
    return fields


def synchronised(work: Callable[[], object]) -> float:
    """Return the wall seconds of `work`, with all that it left to the GPU."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the lowest wall seconds of `repeats` calls of `work`, after one that is not timed."""
    work()
    return min(synchronised(work) for _ in range(repeats))


def peaks(sizes: Sizes) -> dict[str, float]:
    """Return what the machine can do: products in FLOP/s, copies in bytes/s."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.randn(sizes.square, sizes.square, device=device()).to(dtype)
        found[f"{name} product, FLOP/s"] = (
            2 * sizes.square**3 / best(lambda matrix=matrix: matrix @ matrix)
        )
    block = torch.zeros(sizes.square**2 * 4, dtype=torch.uint8, device=device())
    other = torch.empty_like(block)
    found["copy on the device, byte/s"] = 2 * len(block) / best(lambda: other.copy_(block))
    host = torch.zeros(len(block), dtype=torch.uint8)
    host = host.pin_memory() if device().type == "cuda" else host
    found["copy from pinned memory, byte/s"] = len(block) / best(
        lambda: block.copy_(host, non_blocking=True)
    )
    return found


class Ours:
    """Steps of the package's loop; `steps(n)` takes n more."""

    def __init__(
        self,
        pixels,
        labels: np.ndarray,
        config: str,
        recipe,
        resident: bool = True,
    ):
        torch.manual_seed(0)
        n, height, width, channels = pixels.shape
        self.model = (
            MCNN(CONFIGS[config], int(labels.max()) + 1, channels, height, width)
            .to(device())
            .train()
        )
        self.fields = Fields(pixels, np.arange(n) if resident else None)
        optimiser = optimiser_for(self.model, recipe)
        self.trainer = Trainer(self.model, optimiser, self.fields, labels, recipe)
        self.rng = np.random.default_rng(0)

    def steps(self, n: int) -> float:
        """Take n steps at a low rate; return their mean loss."""
        recipe, fields = self.trainer.recipe, len(self.trainer.labels)
        rows = [self.rng.choice(fields, recipe.batch, replace=False) for _ in range(n)]
        with reproducible(0, 0) as rng:
            *_, (_, sums) = self.trainer.steps(rows, [recipe.learning_rate / 100] * n, rng)
        return float(sums[0] / sums[2])


def rate(steps: Callable[[int], object], batch: int, seconds: float) -> float:
    """Return fields per second of a loop, over about so many seconds, its first steps left out."""
    steps(2)
    n = max(2, int(seconds / max(synchronised(lambda: steps(2)) / 2, 1e-3)))
    return n * batch / synchronised(lambda: steps(n))


def twenty_steps(precision: str) -> float:
    """Return the mean loss of twenty steps on small fields.

    It is what devices and precisions must agree in.
    """
    recipe = replace(RECIPES["default"], batch=12, precision=precision)
    return Ours(spots(24, 64, 96), np.arange(24) % 4, "default", recipe).steps(20)


def agreement() -> list[tuple[str, bool, str]]:
    """Check that precision, device and place of the pixels do not change what is computed.

    Of each check: name, whether it holds, figures.
    """
    pixels, rng = spots(24, 64, 96), np.random.default_rng(1)
    rows = rng.integers(24, size=16)
    kept, read = Fields(pixels, np.arange(24)), Fields(pixels)
    drawn = draw(rng, 16, pixels.shape[1:], (32, 32), True)
    here, streamed = (
        fields.views(rows, (32, 32), drawn.corners, drawn.turns).cpu() for fields in (kept, read)
    )
    same = torch.equal(here, streamed)
    checks = [
        (
            "resident and streamed pixels: equal bytes",
            same,
            "resident" if kept.resident is not None else "nothing is resident on a CPU",
        )
    ]
    # A process that sees no GPU computes the reference.
    alone = subprocess.run(
        [sys.executable, __file__, "--reference"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    reference = float(alone.stdout)
    for precision in ("float32", "bfloat16"):
        loss = twenty_steps(precision)
        checks.append(
            (
                f"mean loss of 20 steps, {precision} here against float32 on a CPU: within 2 %",
                abs(loss / reference - 1) < 0.02,
                f"{loss:.4f}, {reference:.4f}",
            )
        )
    return checks


def measure(sizes: Sizes) -> dict[str, object]:
    """Run all checks and timings; print each as it comes."""
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name()
        if device().type == "cuda"
        else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bfloat16": bfloat16(),
    }

    def say(key: str, value: object, unit: str = "") -> None:
        found[key] = value
        print(
            f"{key:64s} {value:12.4g} {unit}"
            if isinstance(value, float)
            else f"{key:64s} {value} {unit}",
            flush=True,
        )

    for key, value in list(found.items()):
        say(key, value)
    for name, holds, figures in agreement():
        say(name, f"{'yes' if holds else 'NO'} ({figures})")
        found[name] = holds
    for name, value in peaks(sizes).items():
        say(name, value)
    drawn = spots(sizes.distinct, sizes.height, sizes.width)
    recipe = replace(RECIPES["published"], batch=16 if sizes is FULL else 4)
    arithmetic = found[f"{'bfloat16' if bfloat16() else 'float32'} product, FLOP/s"]
    per_field = macs(MCNN(CONFIGS[sizes.network], 103, 3, sizes.height, sizes.width)) * 2
    for classes, n in sizes.training:
        pixels, labels, title = (
            Repeated(drawn, n),
            np.arange(n) % classes,
            f"training, {classes} classes, {n:,} fields",
        )
        ours = Ours(pixels, labels, sizes.network, recipe)
        speed = rate(ours.steps, recipe.batch, sizes.seconds)
        say(f"{title}: pixels resident", ours.fields.resident is not None)
        say(f"{title}: ours", speed, "fields/s")
        say(f"{title}: {sizes.epochs} epochs, extrapolated", sizes.epochs * n / speed, "s")
        say(f"{title}: share of the arithmetic peak", 3 * per_field * speed / arithmetic)
        if n == sizes.training[0][1]:
            first, model = speed, ours.model
            del ours
            say(
                f"{title}: streamed",
                rate(
                    Ours(pixels, labels, sizes.network, recipe, resident=False).steps,
                    recipe.batch,
                    sizes.seconds / 3,
                ),
                "fields/s",
            )
            plain = Training(
                MCNN(CONFIGS[sizes.network], classes, 3, sizes.height, sizes.width),
                pixels,
                labels,
                recipe,
                4,
                device(),
            )
            say(
                f"{title}: textbook ({plain.workers} workers)",
                rate(plain.take, recipe.batch, sizes.seconds / 2),
                "fields/s",
            )
            say(
                f"{title}: ours by textbook",
                first / found[f"{title}: textbook ({plain.workers} workers)"],
            )
            del plain
    pixels, title = (
        Repeated(drawn, sizes.embedded),
        f"embedding, {sizes.embedded:,} fields from host memory",
    )
    list(activations(model, pixels, range(64), 64, "auto"))
    seconds = synchronised(
        lambda: list(activations(model, pixels, range(sizes.embedded), 64, "auto"))
    )
    say(title, seconds, "s")
    say(f"{title}: share of the arithmetic peak", per_field * sizes.embedded / seconds / arithmetic)
    say(
        f"{title}: share of the copy from pinned memory",
        drawn[0].nbytes * sizes.embedded / seconds / found["copy from pinned memory, byte/s"],
    )
    few = max(8, sizes.embedded // 100)
    plain = Embedding(model, Repeated(drawn, few), 16, device())
    say("embedding: ours by textbook", sizes.embedded / seconds / (few / synchronised(plain.run)))
    if device().type == "cuda":
        say("peak memory of the device", torch.cuda.max_memory_allocated() / 1e9, "GB")
    return found


def main() -> None:
    """Check, time and print; write the figures as JSON if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, also on a CPU")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        print(twenty_steps("float32"))
        return
    if device().type == "cpu" and not options.small:
        sys.exit("error: there is no GPU here; --small tries the command out on a CPU")
    with reporting():
        refuse_existing(options.json)
    began = time.perf_counter()
    found = measure(SMALL if options.small else FULL)
    print(f"all of it took {time.perf_counter() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if any(
        value is False for key, value in found.items() if "within" in key or "equal bytes" in key
    ):
        sys.exit("error: the checks marked NO do not hold")


if __name__ == "__main__":
    main()
