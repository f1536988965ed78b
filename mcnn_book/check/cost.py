"""What a screen will cost: seconds, memory and disk of each stage.

The rates are those that `make bench` has measured. Each stage has one kind of work: grey values for
what touches pixels, multiply-accumulates for the network, fields for the tables, profiles for
distances. `make bench` measures the seconds at a few sizes; here they are read off the line through
those points in logarithms. Below the first they stay, for a fixed part is left; beyond the last
they grow as between the last two, in proportion at least.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mcnn_book.workspace import find_root
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.features import PIXELS_AT_ONCE
from mcnn_core.machine.files import read_json
from mcnn_core.model import CONFIGS, MCNN, _trace, macs, multiple_of, parameters
from mcnn_core.preprocessing import auto_bin, padding
from mcnn_core.training import RECIPES

STAGES = ("simulate", "preprocess", "train", "embed", "profiles", "distances")


ALONE = ("profiles", "distances")  #: stages that further cores do not speed up


TIFF_HEADER = 400  #: bytes of a TIFF next to its pixels


def training_macs(model: MCNN) -> int:
    """Return the multiply-accumulates of one field's way forward and back.

    Each layer is passed three times: forward, for the gradient of its weights and for that of its
    input. The first convolutions of each scale see pixels, whose gradient no one needs: they are
    passed twice.
    """
    first = sum(
        int(np.prod(shape[1:])) * layer.weight[0].numel()
        for name, layer, shape in _trace(model)
        if isinstance(layer, nn.Conv2d) and name.startswith("scales.") and name.endswith(".0")
    )
    return 3 * macs(model) - first


def read_bench(name: str = "bench.json") -> dict[str, Any]:
    """Return what ``make bench`` recorded in ``book/recorded``.

    MissingStageError if there is nothing.
    """
    path = find_root() / "book" / "recorded" / name
    if not path.exists():
        raise MissingStageError(f"{path} is missing: run make bench first")
    return read_json(path)


def bench_rows(bench: dict[str, Any]) -> pd.DataFrame:
    """Return one row per measured case.

    Columns: stage, case, network, unit, units (per repeat), work (per unit), load (what is held in
    memory at once), seconds (median, per unit), share (of the limit's speed), ratio with ratio_low
    and ratio_high (textbook's time by ours in the same repeat), peak and textbook_peak (bytes); NaN
    where there is no textbook or no limit.
    """
    rows = []
    for row in bench["rows"]:
        ours = np.asarray(row["ours"]["seconds"])
        ratios = (
            np.asarray(row["textbook"]["seconds"]) / ours
            if row.get("textbook")
            else np.array([np.nan])
        )
        middle = float(np.median(ours))
        limit = row.get("limit", {})
        rows.append(
            {
                **{
                    key: row[key]
                    for key in ("stage", "case", "network", "unit", "units", "work", "load")
                },
                "seconds": middle / row["units"],
                "share": limit["seconds"] / middle if limit else np.nan,
                "bound": limit.get("what", ""),
                "ratio": np.median(ratios),
                "ratio_low": ratios.min(),
                "ratio_high": ratios.max(),
                "peak": row["ours"]["peak_bytes"],
                "textbook_peak": row["textbook"]["peak_bytes"] if row.get("textbook") else np.nan,
            }
        )
    return pd.DataFrame(rows)


def read_off(work: Sequence[float], value: Sequence[float], wanted: float) -> float:
    """Return the value at `wanted` on the line through measured points in logarithms.

    Below the first point it is that of the first; beyond the last see above.
    """
    x, y = np.log(np.asarray(work)), np.log(np.asarray(value))
    order = np.argsort(x)
    x, y, at = x[order], y[order], np.log(wanted)
    if at > x[-1]:
        last = (y[-1] - y[-2]) / (x[-1] - x[-2]) if len(x) > 1 else 1.0
        return float(np.exp(y[-1] + max(last, 1.0) * (at - x[-1])))
    return float(np.exp(np.interp(at, x, y)))


@dataclass(frozen=True)
class Workload:
    """A screen, and how it is to be analysed; InputError where that cannot be."""

    n_fields: int
    height: int  #: of a raw field, pixels of two bytes per channel
    width: int
    channels: int
    n_classes: int  #: surrogate classes
    epochs: int = 80
    cores: int = 2  #: they share the fields in stages not in `ALONE`, without loss (assumed)
    training: int | None = None  #: fields that are trained on; all of them by default
    sites: int = 4  #: fields per well: as many fewer profiles are compared
    network: str = "default"  #: in ``mcnn_core.model.CONFIGS``, trained by the recipe of that kind
    bin: int | None = None  #: `mcnn_core.preprocessing.auto_bin` by default

    def __post_init__(self) -> None:
        """Refuse counts below 1 and unknown networks."""
        counts = ("n_fields", "height", "width", "channels", "epochs", "cores", "sites")
        bad = [
            f"{key}: expected 1 or more, got {getattr(self, key)}"
            for key in counts
            if getattr(self, key) < 1
        ]
        if self.network not in CONFIGS:
            bad.append(f"network: expected one of {', '.join(CONFIGS)}, got {self.network!r}")
        if bad:
            raise InputError("The cost of such a screen cannot be predicted", bad)

    def model(self) -> MCNN:
        """Return the network that it would train, for counting: nothing is computed."""
        size = auto_bin((self.height, self.width), self.n_fields) if self.bin is None else self.bin
        config, field = CONFIGS[self.network], (self.height // size, self.width // size)
        extra = padding(field, multiple_of(config))
        sides = [side + more for side, more in zip(field, extra, strict=True)]
        with torch.device("meta"):
            return MCNN(config, max(self.n_classes, 2), min(self.channels, 6), *sides)


def predict(bench: dict[str, Any], screen: Workload) -> pd.DataFrame:
    """Predict every stage of a screen on processors like the one that was measured.

    `bench` is what `read_bench` returned. Returns one row per stage: stage, seconds, memory_bytes
    (peak of its largest process), disk_bytes (what it leaves).
    """
    n, model = screen.n_fields, screen.model()
    grey = screen.height * screen.width * screen.channels
    pixels = model.spec[3] * model.spec[4]
    small, kept = pixels * screen.channels, n * (model.config.hidden * 4)
    recipe = RECIPES["published" if screen.network.startswith("published") else "default"]
    training = n if screen.training is None else screen.training
    crop, at_once = recipe.crop**2, max(1, min(64, PIXELS_AT_ONCE // pixels))
    wells = max(2, n // screen.sites)
    stages = {  # the work of a unit, what is in memory at once, units, and bytes left on disk
        "simulate": (grey, grey, n, n * (2 * grey + TIFF_HEADER * screen.channels)),
        "preprocess": (grey, grey * screen.cores / bench["cores"], n, n * small),
        "train": (
            training_macs(model) * crop,
            recipe.batch * small * crop,
            screen.epochs * training,
            2 * 3 * 4 * parameters(model),
        ),
        "embed": (macs(model), at_once * small, n, kept),
        "profiles": (n, n, 1, 3 * kept),
        "distances": (wells, wells**2, 1, 0),
    }
    measured, rows = bench_rows(bench), []
    kind = measured["network"].isin(["", screen.network.partition("-")[0]])
    for stage, (work, load, units, disk) in stages.items():
        cases = measured[kind & (measured["stage"] == stage)]
        if cases.empty:
            raise MissingStageError(
                f"make bench has not measured stage {stage} of network {screen.network!r}"
            )
        one = read_off(cases["work"], cases["seconds"], work)
        memory = _peak(cases, bench["base_bytes"], load)
        seconds = units * one * (1 if stage in ALONE else bench["cores"] / screen.cores)
        memory += training * small * (stage == "train")  # pages of the store that stay in memory
        rows.append((stage, seconds, memory, disk))
    table = pd.DataFrame(rows, columns=["stage", "seconds", "memory_bytes", "disk_bytes"])
    return table.astype({"memory_bytes": int, "disk_bytes": int})


def _peak(cases: pd.DataFrame, base: float, load: float) -> float:
    """Return the peak of memory at a load in bytes, `base` of which does not grow with it."""
    nearest = cases.iloc[np.abs(np.log(cases["load"] / load)).argmin()]
    # in this order, or integers overflow
    return base + max(nearest["peak"] - base, 0.0) * (load / nearest["load"])


def growth(bench: dict[str, Any], fields: Sequence[int], screen: Workload) -> pd.DataFrame:
    """Return `predict` for screens that differ in the number of fields alone.

    Its columns, and ``n_fields``. The share of the fields that is trained on stays that of
    `screen`.
    """
    share = 1.0 if screen.training is None else screen.training / screen.n_fields
    sizes = [replace(screen, n_fields=int(n), training=max(1, int(share * n))) for n in fields]
    parts = [predict(bench, size).assign(n_fields=size.n_fields) for size in sizes]
    return pd.concat(parts, ignore_index=True)


def passes(table: pd.DataFrame, column: str, bound: float) -> pd.Series:
    """Return the number of fields at which each stage of a `growth` table passes a bound.

    It is read off in logarithms; NaN where a stage does not pass it.
    """
    found = {}
    for stage, part in table.groupby("stage", sort=False):
        above = np.flatnonzero(part[column].to_numpy() > bound)
        found[stage] = np.nan
        if len(above) and above[0] > 0:
            ends = part.iloc[above[0] - 1 : above[0] + 1]
            found[stage] = float(
                np.exp(np.interp(np.log(bound), np.log(ends[column]), np.log(ends["n_fields"])))
            )
    return pd.Series(found, name="n_fields")


def money(
    table: pd.DataFrame, cores: int, core_hour: float, gb_month: float, months: float = 1.0
) -> pd.Series:
    """Return what the stages of `predict` cost.

    There is a price per core and hour, and one per 10^9 bytes and month for what they leave on
    disk.
    """
    used = np.where(table["stage"].isin(ALONE), 1, cores)
    return (
        table["seconds"] / 3600 * used * core_hour + table["disk_bytes"] / 1e9 * gb_month * months
    )


def beside(predicted: pd.DataFrame, large: dict[str, Any]) -> pd.DataFrame:
    """Return predicted and measured values of one screen, by stage.

    Parameters
    ----------
    predicted : DataFrame
        What `predict` returned for ``large["screen"]``.
    large : dict
        ``book/recorded/bench-large.json``.

    Returns
    -------
    DataFrame
        Indexed by stage; for seconds, memory_bytes and disk_bytes each the measured value,
        ``<name>_predicted`` and ``<name>_error`` (predicted by measured, minus 1; NaN where nothing
        was measured).
    """
    table = pd.DataFrame(large["stages"]).set_index("stage")
    predicted = predicted.set_index("stage").loc[table.index]
    columns: dict[str, pd.Series] = {}
    for name in ("seconds", "memory_bytes", "disk_bytes"):
        measured = table[name].where(table[name] > 0)
        columns |= {
            name: table[name],
            f"{name}_predicted": predicted[name],
            f"{name}_error": predicted[name] / measured - 1,
        }
    return pd.DataFrame(columns)


def estimate(
    n_fields: int,
    height: int,
    width: int,
    channels: int,
    n_classes: int,
    epochs: int = 80,
    cores: int = 2,
) -> pd.DataFrame:
    """Return `predict` for a screen that exists already.

    The rates are those in ``book/recorded/bench.json``. The default network at the size that
    pre-processing chooses; columns stage, seconds, memory_bytes, disk_bytes.
    """
    screen = Workload(n_fields, height, width, channels, n_classes, epochs, cores)
    table = predict(read_bench(), screen)
    return table[table["stage"] != "simulate"].reset_index(drop=True)
