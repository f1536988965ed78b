"""What a screen will cost: seconds, memory and disk of each stage.

The rates are those that `make bench` has measured. Each stage has one kind of work: grey values for
what touches pixels, multiply-accumulates for the network, fields for the tables, profiles for
distances. `make bench` measures the seconds at a few sizes; here they are read off the line through
those points in logarithms. Below the first they stay, for a fixed part is left; beyond the last
they grow as between the last two, in proportion at least.
"""

from collections.abc import Sequence
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


TIFF_HEADER = 400  #: bytes of a TIFF beside its pixels


def training_macs(model: MCNN) -> int:
    """Return the multiply-accumulates of one field's way forward and back.

    Each layer is passed three times: forward, for the gradient of its weights and for that of its
    input. The first convolutions of each scale see pixels, whose gradient nobody needs: they are
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


def predict(
    bench: dict[str, Any],
    n_fields: int,
    height: int,
    width: int,
    channels: int,
    n_classes: int,
    epochs: int = 120,
    cores: int = 2,
    training: int | None = None,
    sites: int = 4,
    network: str = "default",
    bin: int | None = None,
) -> pd.DataFrame:
    """Predict every stage of a screen on processors like the one that was measured.

    Parameters
    ----------
    bench : dict
        What `read_bench` returned.
    n_fields, height, width, channels : int
        Raw fields; two bytes per pixel and channel.
    n_classes : int
        Surrogate classes.
    epochs, cores : int
        Cores share the fields in `STAGES` that are not in `ALONE`, without loss (assumed).
    training : int, optional
        Fields that are trained on; all of them by default.
    sites : int
        Fields per well: as many fewer profiles are compared.
    network : str
        Name in ``mcnn_core.model.CONFIGS``, trained by the recipe of that kind.
    bin : int, optional
        As in pre-processing; `mcnn_core.preprocessing.auto_bin` by default.

    Returns
    -------
    DataFrame
        One row per stage: stage, seconds, memory_bytes (peak of its largest process), disk_bytes
        (what it leaves).
    """
    counts = {
        "n_fields": n_fields,
        "height": height,
        "width": width,
        "channels": channels,
        "epochs": epochs,
        "cores": cores,
        "sites": sites,
    }
    bad = [f"{key} {value}" for key, value in counts.items() if value < 1] + [
        f"network {network!r}"
    ] * (network not in CONFIGS)
    if bad:
        raise InputError(f"counts are 1 or more, and a network is one of {', '.join(CONFIGS)}", bad)
    rows, base = bench_rows(bench), bench["base_bytes"]
    recipe = RECIPES["published" if network.startswith("published") else "default"]
    training, n_classes = n_fields if training is None else training, max(n_classes, 2)
    bin = auto_bin((height, width), n_fields) if bin is None else bin
    field = (height // bin, width // bin)
    sides = [
        side + extra
        for side, extra in zip(field, padding(field, multiple_of(CONFIGS[network])), strict=True)
    ]
    with torch.device("meta"):  # counted, not computed
        model = MCNN(CONFIGS[network], n_classes, min(channels, 6), *sides)
    grey, small, pixels, wells = (
        height * width * channels,
        sides[0] * sides[1] * channels,
        sides[0] * sides[1],
        max(2, n_fields // sites),
    )

    def cost(stage: str, work: float, load: float, units: float = 1.0) -> tuple[float, float]:
        here = rows[
            (rows["stage"] == stage) & rows["network"].isin(["", network.partition("-")[0]])
        ]
        if here.empty:
            raise MissingStageError(
                f"make bench has not measured stage {stage} of network {network!r}"
            )
        nearest = here.iloc[np.abs(np.log(here["load"] / load)).argmin()]
        seconds = (
            units
            * read_off(here["work"], here["seconds"], work)
            * (1 if stage in ALONE else bench["cores"] / cores)
        )
        # in this order, or integers overflow
        return seconds, base + max(nearest["peak"] - base, 0.0) * (load / nearest["load"])

    at_once = max(1, min(64, PIXELS_AT_ONCE // pixels))
    found = {
        "simulate": cost("simulate", grey, grey, n_fields),
        "preprocess": cost("preprocess", grey, grey * cores / bench["cores"], n_fields),
        "train": cost(
            "train",
            training_macs(model) * recipe.crop**2,
            recipe.batch * small * recipe.crop**2,
            epochs * training,
        ),
        "embed": cost("embed", macs(model), at_once * small, n_fields),
        "profiles": cost("profiles", n_fields, n_fields),
        "distances": cost("distances", wells, wells**2),
    }
    kept = n_fields * (CONFIGS[network].hidden * 4)
    disk = {
        "simulate": n_fields * (2 * grey + TIFF_HEADER * channels),
        "preprocess": n_fields * small,
        "train": 2 * 3 * 4 * parameters(model),
        "embed": kept,
        "profiles": 3 * kept,
        "distances": 0,
    }
    table = pd.DataFrame(
        [
            {"stage": stage, "seconds": seconds, "memory_bytes": memory, "disk_bytes": disk[stage]}
            for stage, (seconds, memory) in found.items()
        ]
    )
    # pages of the store that stay in memory
    table.loc[table["stage"] == "train", "memory_bytes"] += training * small
    return table.astype({"memory_bytes": int, "disk_bytes": int})


def growth(bench: dict[str, Any], fields: Sequence[int], **screen: Any) -> pd.DataFrame:
    """Return `predict` for screens that differ in the number of fields alone.

    Its columns are there, and ``n_fields``. `screen` is the rest of what `predict` takes;
    ``training``, if given, is kept as the share that it is of ``n_fields``.
    """
    share = screen.pop("training", None)
    share = 1.0 if share is None else share / screen["n_fields"]
    rest = {key: value for key, value in screen.items() if key != "n_fields"}
    return pd.concat(
        [
            predict(bench, int(n), training=max(1, int(share * n)), **rest).assign(n_fields=int(n))
            for n in fields
        ],
        ignore_index=True,
    )


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
    epochs: int = 120,
    cores: int = 2,
) -> pd.DataFrame:
    """Return `predict` for a screen that exists already.

    The rates are those in ``book/recorded/bench.json``. The default network at the size that
    pre-processing chooses; columns stage, seconds, memory_bytes, disk_bytes.
    """
    table = predict(read_bench(), n_fields, height, width, channels, n_classes, epochs, cores)
    return table[table["stage"] != "simulate"].reset_index(drop=True)
