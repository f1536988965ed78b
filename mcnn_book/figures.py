"""The book's figures: each function draws on one Matplotlib Axes, given first, and returns it.

Colours hold for colour-blind readers and on paper: channels are blue, magenta and green,
quantities cividis (blue small, yellow large, as in the paper's Fig. 3a), and classes differ
by marker as well as by colour. Backgrounds are white, so pages may be dark. Figures are made for
``layout="constrained"`` and a page some 7 inches wide, and drawn at 150 dots per inch.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from pandas.io.formats.style import Styler
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from mcnn_core.analysis.response import hill
from mcnn_core.profiles import row_names
from mcnn_core.screen import CONTROL

CHANNEL_COLOURS = np.array(
    [(0.2, 0.45, 1), (0.95, 0, 0.85), (0.1, 0.9, 0.2), (1, 0.75, 0), (0, 0.8, 0.9), (0.7, 0.7, 0.7)]
)


"""DNA blue, actin magenta, tubulin green, as in BBBC021's channel order; then amber, cyan, grey."""


PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#555555"]


MARKERS = "osD^vP"


SMALL: dict[str, Any] = {"fontsize": 8}


TITLE_LINE = 0.16


"""Height of one line of a title in a contact sheet, inches."""


LONGEST = 36


"""Characters of a name in a figure; of a longer one the middle becomes an ellipsis."""


COLOUR_WORDS = ("blue", "magenta", "green", "amber", "cyan", "grey")


"""`CHANNEL_COLOURS` in words."""


# A $ in a compound's name is no formula.
plt.rcParams.update({"figure.dpi": 150, "text.parse_math": False})


def short(name: object, most: int = LONGEST) -> str:
    """Return a name as a figure can hold it.

    Each line is cut to `most` characters, its end (the dose) kept, and never taken for a hidden
    label.
    """
    lines = [re.sub(r"\s", " ", line) for line in str(name).split("\n")]
    lines = [line if len(line) <= most else line[: most - 10] + "…" + line[-9:] for line in lines]
    return (" " if lines[0].startswith("_") else "") + "\n".join(lines)


def colour_words(channels: Sequence[str]) -> str:
    """Say in which colours `composite` shows the channels: "DNA blue, actin magenta"."""
    if len(channels) == 1:
        return f"{channels[0]} in grey"
    return ", ".join(
        f"{channel} {colour}" for channel, colour in zip(channels, COLOUR_WORDS, strict=False)
    )


def panels(n: int, height: float = 2.9, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of `n` panels, two in a line, and their axes."""
    figure, axes = plt.subplots(
        -(-n // 2),
        2,
        figsize=(7.2, height * -(-n // 2)),
        sharey=sharey,
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat[n:]:
        ax.remove()
    return figure, list(axes.flat[:n])


def composite(field: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) float image in 0..1 of a (H, W, C) uint8 field.

    One channel alone is grey, more than three are dimmed.
    """
    channels = field.shape[-1]
    colours = CHANNEL_COLOURS[:channels] * min(1, 3 / channels) if channels > 1 else np.ones((1, 3))
    return np.clip(field.astype(np.float32) / 255 @ colours, 0, 1)


def listing(table: pd.DataFrame, index: bool = False, **form) -> Styler:
    """Return a table for a page, in which every name is text: no markup, no mathematics.

    `form` goes to ``Styler.format``.
    """
    shown = (
        table.style.format(escape="html", **form)
        .format_index(escape="html")
        .format_index(escape="html", axis="columns")
    )
    shown = shown.set_table_attributes('class="mathjax_ignore"')
    return shown if index else shown.hide(axis="index")


def _bare(ax: Axes) -> Axes:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def not_available(ax: Axes) -> Axes:
    """Say in place of a figure that there is nothing to show; the page says why."""
    _bare(ax).text(0.5, 0.5, "not available", ha="center", va="center", transform=ax.transAxes)
    return ax


def show_field(
    ax: Axes,
    field: np.ndarray,
    pixel_size: float | None = None,
    bar: float = 20,
    channels: Sequence[str] = (),
    title: str = "",
) -> Axes:
    """Show a (H, W, C) uint8 field in colours, with a scale bar of `bar` um.

    `pixel_size` is in um per pixel; where it is unknown there is no bar. `channels` names
    each colour below the field.
    """
    _bare(ax).imshow(composite(field), interpolation="nearest")
    ax.set_title(short(title), fontsize=8, pad=3)
    height, width = field.shape[:2]
    if pixel_size:
        length, left, bottom = bar / pixel_size, 0.04 * width, 0.94 * height
        ax.add_patch(Rectangle((left, bottom), length, 0.02 * height, color="white"))
        ax.text(left, bottom - 0.02 * height, f"{bar:g} µm", color="white", va="bottom", **SMALL)
    for c, name in enumerate(channels):
        colour = CHANNEL_COLOURS[c] * 0.75 if len(channels) > 1 else "black"
        ax.text(
            (c + 0.5) / len(channels),
            -0.03,
            short(name, 60 // len(channels)),
            color=colour,
            ha="center",
            va="top",
            transform=ax.transAxes,
            **SMALL,
        )
    return ax


def contact_sheet(
    ax: Axes,
    fields: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 4,
    pixel_size: float | None = None,
) -> Axes:
    """Show fields in a grid, each with its title; the first carries the scale bar.

    `sheet_size` gives the figure that fits.
    """
    rows = -(-len(fields) // columns)
    titles = ["\n".join(map(short, title.split("\n")[:3])) for title in titles]
    # figure.figure is the whole figure, also where the axes are in a part of one
    share = 1 - _title_height(titles) / (ax.figure.figure.get_size_inches()[1] / rows)
    _bare(ax)
    for i, (field, title) in enumerate(zip(fields, titles, strict=True)):
        place = (
            (i % columns) / columns,
            1 - (i // columns + 1) / rows,
            0.97 / columns,
            share / rows,
        )
        show_field(ax.inset_axes(place), field, None if i else pixel_size, title=title)
    return ax


def sheet_size(
    fields: Sequence[np.ndarray], titles: Sequence[str], columns: int = 4, width: float = 7.2
) -> tuple[float, float]:
    """Return the size of the figure that a `contact_sheet` of these fields fills.

    Width and height are in inches.
    """
    height, across = fields[0].shape[:2]
    return width, -(-len(fields) // columns) * (
        0.97 * width / columns * height / across + _title_height(titles)
    )


def _title_height(titles: Sequence[str]) -> float:
    return 0.1 + TITLE_LINE * (1 + min(2, max(title.count("\n") for title in titles)))


def plate_map(ax: Axes, table: pd.DataFrame, column: str, label: str = "") -> Axes:
    """Show one plate's wells, coloured by a column of the table.

    A colour bar stands for numbers, a legend for words. Wells of several rows (sites) show their
    first value; wells without rows stay white.
    """
    wells = table.drop_duplicates("Metadata_Well").set_index("Metadata_Well")[column]
    rows, columns = wells.index.str[:-2], wells.index.str[-2:].astype(int)
    label = label or short(column.removeprefix("Metadata_"))
    letters, numbers = (
        sorted(set(rows), key=lambda row: (len(row), row)),
        range(columns.min(), columns.max() + 1),
    )
    x, y = columns, rows.map(letters.index)
    size = 0.5 * 72 * min(ax.figure.figure.get_size_inches() / (len(numbers) + 3, len(letters) + 2))
    if pd.api.types.is_numeric_dtype(wells):
        shown = ax.scatter(x, y, size**2, wells, cmap="cividis", marker="s")
        ax.figure.colorbar(shown, ax=ax, label=label)
    else:
        for value, colour, marker in _styles(wells):
            here = wells == value
            ax.scatter(
                x[here],
                y[here],
                size**2 * 0.8,
                color=colour,
                marker=marker,
                label=short(value or "(none)"),
            )
        _legend(ax, label, min(1, 7 / size))
    ax.set(
        xlabel="column",
        ylabel="row",
        xticks=list(numbers),
        yticks=range(len(letters)),
        yticklabels=letters,
        xlim=(numbers[0] - 0.7, numbers[-1] + 0.7),
        ylim=(len(letters) - 0.3, -0.7),
    )
    return ax


def _styles(values: pd.Series) -> list[tuple[str, str, str]]:
    """Give each distinct value a colour and a marker.

    Together they are unique for the 24 values that a legend can hold.
    """
    return [(value, PALETTE[i % 8], MARKERS[i % 6]) for i, value in enumerate(sorted(set(values)))]


def _legend(ax: Axes, title: str = "", markerscale: float = 1) -> None:
    """List the classes right of the axes, or their number where they are too many to tell apart."""
    handles, _ = ax.get_legend_handles_labels()
    if len(handles) > 24:
        ax.set_title(f"{len(handles)} different values, marks repeat", loc="right", fontsize=9)
    else:
        ax.legend(
            title=title,
            bbox_to_anchor=(1.01, 1),
            loc="upper left",
            markerscale=markerscale,
            frameon=False,
            **SMALL,
        )


def histograms(ax: Axes, plates: Mapping[str, np.ndarray], bins: np.ndarray, xlabel: str) -> Axes:
    """Draw one line per plate: the share of its pixels in each bin of intensity.

    Up to 8 plates are named.
    """
    few = len(plates) <= 8
    for i, (plate, values) in enumerate(plates.items()):
        share = np.histogram(np.ravel(values), bins)[0] / np.size(values)
        ax.stairs(
            share * 100,
            bins,
            color=PALETTE[i if few else 0],
            label=short(plate),
            alpha=0.8 if few else 0.3,
        )
    if few:
        ax.legend(title="plate", frameon=False, **SMALL)
    ax.set(xlabel=xlabel, ylabel="pixels (%)")
    return ax


def loss_curves(ax: Axes, history: pd.DataFrame, classes: int | None = None) -> Axes:
    """Draw the loss (left) and the training accuracy (right) of each epoch.

    `classes` adds the loss of a guess.
    """
    ax.plot(
        history["epoch"], history["loss"], color=PALETTE[0], marker="o", markersize=3, label="loss"
    )
    if classes:
        ax.axhline(
            np.log(classes), color=PALETTE[0], linestyle=":", label=f"guessing among {classes}"
        )
    ax.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    right = ax.twinx()
    right.plot(
        history["epoch"],
        history["accuracy"] * 100,
        color=PALETTE[1],
        marker="s",
        markersize=3,
        label="accuracy",
    )
    right.set(ylabel="surrogate classes told right (%)", ylim=(0, 100))
    handles = ax.get_lines() + right.get_lines()
    right.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
        frameon=False,
        **SMALL,
    )
    return ax


def scree(ax: Axes, explained: np.ndarray) -> Axes:
    """Draw the cumulative variance that the principal components explain."""
    share = np.cumsum(explained) * 100
    ax.plot(np.arange(1, len(share) + 1), share, color=PALETTE[0], marker="o", markersize=3)
    ax.axhline(99, color=PALETTE[4], linestyle=":")
    ax.text(
        0.02, 98.5, "99 %", color=PALETTE[4], va="top", transform=ax.get_yaxis_transform(), **SMALL
    )
    ax.set(
        xlabel="principal components",
        ylabel="variance explained (%)",
        ylim=(min(share[0], 90) - 2, 101),
    )
    return ax


def _outline(ax: Axes, start: int, stop: int, **style: Any) -> None:
    """Draw a square around the rows and columns from `start` to `stop` of a matrix."""
    side = stop - start
    ax.add_patch(Rectangle((start - 0.5, start - 0.5), side, side, fill=False, **style))


def _blocks(labels: np.ndarray) -> list[tuple[str, int, int]]:
    """Return (label, start, stop) of each run of equal labels."""
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1), len(labels)]
    return [(labels[start], start, stop) for start, stop in pairwise(edges)]


def distance_matrix(
    ax: Axes,
    distances: np.ndarray,
    table: pd.DataFrame,
    frame: tuple[int, int] | None = None,
    only: tuple[int, int] | None = None,
) -> Axes:
    """Show cosine distances between treatments, in blocks of one mechanism (Fig. 3a).

    Blue is near and yellow far.

    Parameters
    ----------
    distances : (n, n) array
        In the order of `table`, which `mcnn_core.analysis.distances.order_by` gives.
    table : DataFrame
        Treatment profiles in that order.
    frame : (start, stop), optional
        Rows to frame in red, that another panel shows larger.
    only : (start, stop), optional
        Show these rows alone, on the colours of the whole, and name each by compound and dose (Fig.
        3b).
    """
    first, last = only or (0, len(table))
    part = table.iloc[first:last]
    shown = ax.imshow(
        distances[first:last, first:last],
        cmap="cividis",
        vmin=0,
        vmax=max(float(distances.max()), 1e-9),
    )
    blocks = _blocks(part["Metadata_MoA"].to_numpy())
    ax.set(xticks=[], xlabel="treatments, in the order of the rows")
    ax.set_yticks(
        [(start + stop - 1) / 2 for _, start, stop in blocks],
        [short(label) for label, _, _ in blocks],
        **SMALL,
    )
    for _, start, _ in blocks[1:]:
        ax.axhline(start - 0.5, color="white", linewidth=0.6)
        ax.axvline(start - 0.5, color="white", linewidth=0.6)
    if frame:
        start, stop = frame
        _outline(ax, start, stop, edgecolor="red", linewidth=2)
    if only:
        doses = part["Metadata_Concentration"].map(
            lambda dose: "" if np.isnan(dose) else f" {dose:g} µM"
        )
        names = part["Metadata_Compound"].where(part["Metadata_Compound"] != "", row_names(part))
        ax.secondary_yaxis("right").set_yticks(range(len(part)), names.map(short) + doses, **SMALL)
    ax.figure.colorbar(shown, ax=ax, label="cosine distance", shrink=0.8)
    return ax


def confusion_matrix(ax: Axes, counts: pd.DataFrame) -> Axes:
    """Show true (rows) against predicted (columns) mechanisms.

    Numbers count treatments, colour is the share of a row, grey a row without queries.
    """
    if counts.empty:
        return not_available(ax)
    values = counts.to_numpy()
    total = values.sum(axis=1, keepdims=True)
    share = np.where(total > 0, values / total.clip(min=1) * 100, np.nan)
    ax.set_facecolor("0.85")
    shown = ax.imshow(share, cmap="cividis", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(values), strict=True):
        colour = "black" if share[row, column] > 55 else "white"
        ax.text(column, row, values[row, column], ha="center", va="center", color=colour, **SMALL)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_xticks(
        range(len(counts)),
        map(short, counts.columns),
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        **SMALL,
    )
    ax.set_yticks(range(len(counts)), map(short, counts.index), **SMALL)
    ax.figure.colorbar(shown, ax=ax, label="of the true mechanism (%)", shrink=0.8)
    return ax


def accuracy_bars(ax: Axes, table: pd.DataFrame) -> Axes:
    """Compare methods: one line each, a mark per seed with its Wilson interval.

    A dashed line is an exact floor. `table` is what `mcnn_core.analysis.methods.comparison` returns, of one
    protocol; a boolean column ``recorded`` tells results of ``make study`` (open marks) from those
    of this run (filled).
    """
    if table.empty:
        return not_available(ax)
    methods = list(dict.fromkeys(table["method"]))
    recorded = table["recorded"] if "recorded" in table else pd.Series(False, table.index)
    for method, rows in table.groupby("method"):
        lines = methods.index(method) + np.linspace(-0.2, 0.2, len(rows)) * (len(rows) > 1)
        for line, (index, row) in zip(lines, rows.iterrows(), strict=True):
            if pd.isna(row["low"]):
                ax.plot([0, row["overall"] * 100], [line, line], color="0.5", linestyle="--")
                ax.plot(row["overall"] * 100, line, color="0.5", marker="|", markersize=10)
                continue
            colour = PALETTE[1] if recorded[index] else PALETTE[0]
            ax.plot(
                [row["low"] * 100, row["high"] * 100], [line, line], color=colour, linewidth=1.5
            )
            ax.plot(
                row["overall"] * 100,
                line,
                color=colour,
                marker="s" if recorded[index] else "o",
                markerfacecolor="white" if recorded[index] else colour,
            )
    for label, marker, fill, colour in (
        ("this run", "o", PALETTE[0], PALETTE[0]),
        ("recorded", "s", "white", PALETTE[1]),
    ):
        if (recorded == (label == "recorded")).any():
            ax.plot([], [], color=colour, marker=marker, markerfacecolor=fill, label=label)
    ax.plot([], [], color="0.5", linestyle="--", marker="|", label="expected, no image")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, **SMALL)
    ax.set(
        xlabel="right mechanism (% of treatments, 95 % interval)",
        xlim=(0, 100),
        ylim=(len(methods) - 0.5, -0.5),
    )
    ax.set_yticks(range(len(methods)), [method.replace("_", ", ") for method in methods])
    ax.grid(axis="x", color="0.9")
    return ax


def embedding(ax: Axes, points: np.ndarray, labels: pd.Series, xlabel: str, ylabel: str) -> Axes:
    """Scatter (n, 2) points; every label has its own pair of colour and marker."""
    labels = np.asarray(labels)
    for value, colour, marker in _styles(labels):
        x, y = points[labels == value].T
        ax.scatter(
            x,
            y,
            s=22,
            color=colour,
            marker=marker,
            linewidths=0,
            label=short(value or "not annotated"),
        )
    _legend(ax)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def simulated_and_real(
    ax: Axes,
    x: np.ndarray,
    simulated: np.ndarray,
    real: np.ndarray,
    channels: Sequence[str],
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Axes:
    """Set curves of simulated fields (lines) against real ones (open marks).

    Both are (C, len(x)), `x` optionally logarithmic.
    """
    for c, channel in enumerate(channels):
        colour = CHANNEL_COLOURS[c] * 0.75
        ax.plot(x, simulated[c], color=colour, label=f"{channel}, simulated")
        ax.plot(
            x,
            real[c],
            color=colour,
            linestyle="none",
            marker=MARKERS[c % 6],
            markerfacecolor="white",
            label=f"{channel}, real",
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, **SMALL)
    return ax


def method_overview(
    ax: Axes,
    groups: Mapping[str, Sequence[np.ndarray]],
    features: np.ndarray,
    distances: np.ndarray,
    labels: Sequence[str],
) -> Axes:
    """Draw the paper's Fig. 1 from a run.

    It shows fields by surrogate class, network, features, distances and tree.

    Parameters
    ----------
    groups : mapping
        Surrogate class to its fields, (H, W, C) uint8; three or four classes of two or three
        fields.
    features : (n, d) array
        Profiles of some treatments.
    distances : (n, n) array
        Cosine distances between them.
    labels : sequence of str
        Their names.
    """
    _bare(ax).set(xlim=(0, 1), ylim=(0, 1))
    heads = {
        0.13: "fields, grouped by\nsurrogate class",
        0.385: "M-CNN learns to tell\nthe classes apart",
        0.585: "its features,\none row a treatment",
        0.85: "cosine distances\nand tree",
    }
    for x, text in heads.items():
        ax.text(x, 0.87, text, ha="center", va="bottom", fontsize=9)
    step = 0.82 / len(groups)
    for g, (name, fields) in enumerate(groups.items()):
        bottom = 0.84 - (g + 1) * step
        for f, field in enumerate(fields):
            show_field(
                ax.inset_axes(
                    (f * 0.26 / len(fields), bottom + 0.05, 0.25 / len(fields), step - 0.06)
                ),
                field,
            )
        ax.text(0.13, bottom + 0.045, short(name), ha="center", va="top", **SMALL)
    for scale in range(3):  # the same field at several scales, each through its own convolutions
        for layer in range(3):
            height = 0.2 / 1.5**scale
            ax.add_patch(
                Rectangle(
                    (0.31 + layer * 0.022, 0.68 - scale * 0.22 - height / 2),
                    0.014,
                    height,
                    facecolor=PALETTE[5],
                    edgecolor="black",
                    linewidth=0.6,
                )
            )
    for x, height, text in ((0.415, 0.36, "fusion"), (0.45, 0.24, "128")):
        ax.add_patch(
            Rectangle(
                (x, 0.46 - height / 2),
                0.018,
                height,
                facecolor=PALETTE[1],
                edgecolor="black",
                linewidth=0.6,
            )
        )
        ax.text(x + 0.009, 0.45 - height / 2, text, ha="center", va="top", **SMALL)
    ax.text(0.334, 0.14, "scales", ha="center", va="top", **SMALL)
    for start, stop, y in (
        (0.265, 0.3, 0.46),
        (0.378, 0.41, 0.46),
        (0.475, 0.5, 0.46),
        (0.665, 0.69, 0.46),
    ):
        ax.add_patch(
            FancyArrowPatch((start, y), (stop, y), arrowstyle="-|>", mutation_scale=12, color="0.3")
        )
    alone = {"leaves": [0], "dcoord": [], "icoord": []}
    tree = (
        dendrogram(linkage(squareform(distances, checks=False), "average"), no_plot=True)
        if len(distances) > 1
        else alone
    )
    order = tree["leaves"]
    rows = _bare(ax.inset_axes((0.51, 0.1, 0.15, 0.74)))
    largest = float(np.percentile(np.abs(features), 95))
    rows.imshow(
        features[order],
        cmap="cividis",
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
    )
    matrix = _bare(ax.inset_axes((0.7, 0.1, 0.15, 0.74)))
    matrix.imshow(
        distances[np.ix_(order, order)], cmap="cividis", aspect="auto", interpolation="nearest"
    )
    branches = _bare(ax.inset_axes((0.855, 0.1, 0.06, 0.74)))
    for heights, leaves in zip(tree["dcoord"], tree["icoord"], strict=True):
        branches.plot(heights, leaves, color="black", linewidth=0.8)
    branches.set(ylim=(10 * len(order), 0))
    for place, row in enumerate(order):
        ax.text(
            0.92, 0.84 - (place + 0.5) * 0.74 / len(order), short(labels[row]), va="center", **SMALL
        )
    return ax


def similarity_heat(ax: Axes, table: pd.DataFrame) -> Axes:
    """Show similarities, 0 to 2, of named rows to mechanisms (columns).

    The largest of each row is marked.
    """
    if table.empty:
        return not_available(ax)
    shown = ax.imshow(
        table, cmap="cividis", vmin=min(1.0, float(np.nanmin(table))), vmax=2, aspect="auto"
    )
    for row, column in enumerate(np.nanargmax(table.to_numpy(), axis=1)):
        ax.plot(
            column, row, marker="o", markersize=5, markerfacecolor="none", markeredgecolor="black"
        )
    ax.set_xticks(
        range(table.shape[1]),
        map(short, table.columns),
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        **SMALL,
    )
    ax.set_yticks(range(len(table)), map(short, table.index), **SMALL)
    ax.figure.colorbar(shown, ax=ax, label="similarity (2 - cosine distance)", shrink=0.8)
    return ax


def _log_axis(ax: Axes, xlabel: str) -> Axes:
    """Make x logarithmic, with numbers at powers of ten alone."""
    ax.set(xscale="log", xlabel=xlabel)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def _power_of_ten(value: float) -> str:
    """Return a power of ten as in 10⁵; those from 0.01 to 1,000 written out."""
    if 0.009 < value < 2_000:
        return f"{value:g}"
    return "10" + str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def response_curves(ax: Axes, points: pd.DataFrame, most: int = 3) -> Axes:
    """Draw similarity against concentration for one compound (Fig. 4a).

    Shown are medians with MAD, annotated doses ringed. `points` are the rows of
    `mcnn_core.analysis.response.curves` of that compound. Drawn are the mechanisms it is annotated with, the
    negative control, and those that come first at some dose, `most` in all.
    """
    if points.empty:
        return not_available(ax)
    first = (
        points.loc[points.groupby("concentration")["median"].idxmax(), "mechanism"]
        .value_counts()
        .index
    )
    styles = {value: (colour, marker) for value, colour, marker in _styles(points["mechanism"])}
    chosen = [
        name
        for name in dict.fromkeys([*points.loc[points["annotated"], "mechanism"], CONTROL, *first])
        if name in styles
    ][:most]
    for mechanism in chosen:
        part = points[points["mechanism"] == mechanism].sort_values("concentration")
        colour, marker = ("0.35", "s") if mechanism == CONTROL else styles[mechanism]
        ax.errorbar(
            part["concentration"],
            part["median"],
            part["mad"],
            color=colour,
            marker=marker,
            markersize=4,
            capsize=2,
            linewidth=1,
            label=short(mechanism),
        )
        ringed = part[part["annotated"]]
        ax.plot(
            ringed["concentration"],
            ringed["median"],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=colour,
            markeredgewidth=0.8,
        )
    _log_axis(ax, "concentration (µM)").set(ylabel="similarity")
    ax.set_title(short(points["compound"].iloc[0]), fontsize=9)
    ax.legend(frameon=False, fontsize=7)
    return ax


def dose_effect(ax: Axes, dose: np.ndarray, effect: np.ndarray, fitted: pd.Series) -> Axes:
    """Show the effect of each well against concentration, and the fitted curve.

    Controls stand at the left; the curve comes with the interval of its EC50. `fitted` is a row of
    `mcnn_core.analysis.response.potency`.
    """
    tested = np.unique(dose[dose > 0])
    left = tested[0] / 10
    ax.plot(dose[dose > 0], effect[dose > 0], "o", color=PALETTE[0], markersize=4, label="wells")
    ax.plot(
        np.full((dose == 0).sum(), left),
        effect[dose == 0],
        "s",
        color="0.5",
        markersize=3,
        label="controls",
    )
    if fitted["status"] == "fit":
        x = np.geomspace(left, tested[-1], 200)
        ax.plot(
            x,
            hill(x, fitted["bottom"], fitted["top"], np.log10(fitted["ec50"]), fitted["hill"]),
            color=PALETTE[4],
        )
        ax.axvline(fitted["ec50"], color=PALETTE[4], linestyle=":", label="EC50")
        ax.axvspan(fitted["low"], fitted["high"], color=PALETTE[4], alpha=0.15, linewidth=0)
    _log_axis(ax, "concentration (µM)").set(ylabel="effect")
    ax.set_title(f"{short(fitted['compound'])}:\n{fitted['status']}", fontsize=9)
    ax.legend(frameon=False, fontsize=7)
    return ax


def potency_intervals(ax: Axes, potency: pd.DataFrame, true: pd.Series | None = None) -> Axes:
    """Draw the EC50 of every compound with its interval.

    `true` (indexed by compound) adds the planted values as crosses.
    """
    if potency.empty:
        return not_available(ax)
    rows = potency.sort_values(["ec50", "compound"], na_position="first", ignore_index=True)
    fitted = rows[rows["status"] == "fit"]
    error = [fitted["ec50"] - fitted["low"], fitted["high"] - fitted["ec50"]]
    ax.errorbar(
        fitted["ec50"],
        fitted.index,
        xerr=error,
        fmt="o",
        color=PALETTE[0],
        markersize=4,
        linewidth=1,
        label="EC50, 95 % interval",
    )
    if true is not None:
        ax.plot(
            rows["compound"].map(true),
            rows.index,
            "x",
            color=PALETTE[4],
            markersize=5,
            label="planted EC50",
        )
    for row, status in rows.loc[rows["status"] != "fit", "status"].items():
        ax.text(
            0.99,
            row,
            status,
            ha="right",
            va="center",
            fontsize=6,
            color="0.35",
            transform=ax.get_yaxis_transform(),
        )
    _log_axis(ax, "EC50 (µM)").set(ylim=(-1, len(rows)))
    # Room for the reasons.
    ax.set_xlim(right=ax.get_xlim()[1] * (100 if len(fitted) < len(rows) else 1))
    ax.set_yticks(range(len(rows)), rows["compound"].map(short), fontsize=7)
    ax.legend(frameon=False, loc="upper left", **SMALL)
    return ax


def ordered_matrix(ax: Axes, distances: np.ndarray, clusters: np.ndarray) -> Axes:
    """Show cosine distances in the order of the leaves of a tree (Supplementary Table 7).

    Each cluster of two or more is framed.
    """
    shown = ax.imshow(
        distances,
        cmap="cividis",
        vmin=0,
        vmax=max(float(distances.max()), 1e-9),
        interpolation="nearest",
    )
    for _, start, stop in _blocks(np.asarray(clusters)):
        if stop - start > 1:
            _outline(ax, start, stop, edgecolor="white", linewidth=0.6)
    ax.set(
        xlabel="treatments, in the order of the leaves",
        ylabel="treatments, in the order of the leaves",
    )
    ax.figure.colorbar(shown, ax=ax, label="cosine distance", shrink=0.8)
    return ax


def novelty_map(ax: Axes, novel: pd.DataFrame) -> Axes:
    """Set how far each unannotated treatment lies against how well its replicates agree.

    The distance is that to everything known. `novel` is what `mcnn_core.analysis.novelty.novelty` returned;
    dotted lines are the agreement that controls reach, one for each number of replicates.
    """
    if novel.empty:
        return not_available(ax)
    kinds = {
        "no effect seen": ~novel["active"],
        "in a cluster with something known": novel["active"] & ~novel["novel"],
        "novel": novel["novel"],
    }
    colours = ("0.6", PALETTE[0], PALETTE[4])
    for (label, here), colour, marker in zip(kinds.items(), colours, "o^s", strict=True):
        ax.scatter(
            novel.loc[here, "agreement"],
            novel.loc[here, "score"],
            s=18,
            color=colour,
            marker=marker,
            linewidths=0,
            label=f"{label} ({here.sum()})",
        )
    for threshold in novel["threshold"].dropna().unique():
        ax.axvline(threshold, color="0.3", linestyle=":")
    ax.set(
        xlabel="agreement of replicate wells (cosine)",
        ylabel="cosine distance to the nearest\nannotated treatment or control",
    )
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, **SMALL)
    return ax


def distinctness_map(ax: Axes, scored: pd.DataFrame, chosen: pd.DataFrame) -> Axes:
    """Set each treatment's distance to the nearest reference against that to its replicates.

    The chosen treatments are numbered in their order. `scored` and `chosen` are what
    `mcnn_book.study.choosing.distinctness` and `mcnn_book.study.choosing.choose` returned. On the line both
    distances are equal.
    """
    if scored.empty:
        return not_available(ax)
    end = 1.05 * float(scored[["own", "other"]].max().max())
    ax.plot([0, end], [0, end], color="0.3", linestyle=":", label="both equal")
    here = scored.set_index("treatment").loc[chosen["treatment"]]
    rest = scored[~scored["treatment"].isin(chosen["treatment"])]
    ax.scatter(
        rest["own"], rest["other"], s=16, color="0.6", linewidths=0, label="other treatments"
    )
    ax.scatter(
        here["own"],
        here["other"],
        s=30,
        color=PALETTE[4],
        marker="^",
        linewidths=0,
        label=f"the first {len(here)} chosen",
    )
    places = here[["own", "other"]].to_numpy()
    for number, place in enumerate(places, 1):
        right, above = (places - place).T / end
        # Then the number goes to the left, off the next mark's.
        crowded = ((right > 0) & (right < 0.04) & (np.abs(above) < 0.04)).any()
        ax.annotate(
            str(number),
            place,
            xytext=(-4 if crowded else 4, 2),
            ha="right" if crowded else "left",
            textcoords="offset points",
            fontsize=7,
        )
    ax.set(
        xlabel="mean cosine distance to the own replicates",
        ylabel="mean cosine distance to the\nnearest negative controls",
        xlim=(0, end),
        ylim=(0, end),
    )
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, **SMALL)
    return ax


def _case_names(rows: pd.DataFrame) -> list[str]:
    return [
        f"{row.stage}, {row.case}" + f" ({row.network})" * bool(row.network)
        for row in rows.itertuples()
    ]


def bench_ratios(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Show by how much each case is faster than its textbook version.

    Drawn are median and range over repeats (`mcnn_book.check.cost.bench_rows`).
    """
    rows = rows.dropna(subset="ratio")
    y = np.arange(len(rows))[::-1]
    ax.hlines(y, rows["ratio_low"], rows["ratio_high"], color=PALETTE[0])
    ax.plot(rows["ratio"], y, MARKERS[0], color=PALETTE[0])
    ax.axvline(1, color="0.6", lw=1)
    _log_axis(ax, "textbook's time / our time")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    ax.set_yticks(y, _case_names(rows), fontsize=8)
    return ax


def bench_shares(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Show how close each case comes to its limit, by what the limit is.

    The rows are those of `mcnn_book.check.cost.bench_rows`.
    """
    rows = rows.dropna(subset="share")
    y = pd.Series(np.arange(len(rows))[::-1], rows.index)
    kinds = rows.groupby("bound", sort=False)
    for (kind, part), colour, marker in zip(kinds, PALETTE, MARKERS, strict=False):
        ax.plot(part["share"], y[part.index], marker, color=colour, label=kind)
    ax.axvline(1, color="0.6", lw=1)
    _log_axis(ax, "share of the limit's speed")
    ax.set_yticks(y, _case_names(rows), fontsize=8)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.3, -0.12 - 0.6 / len(rows)),
        ncols=2,
        frameon=False,
        **SMALL,
    )
    return ax


def growth_curves(
    ax: Axes,
    table: pd.DataFrame,
    column: str,
    ylabel: str,
    marks: Mapping[str, float],
    line: float | None = None,
) -> Axes:
    """Show a column of `mcnn_book.check.cost.growth` against the number of fields, a curve per stage.

    `marks` name some numbers, `line` is a bound.
    """
    stages = table.groupby("stage", sort=False)
    for (stage, part), colour, marker in zip(stages, PALETTE, MARKERS, strict=False):
        ax.plot(
            part["n_fields"],
            part[column],
            marker,
            ls="-",
            color=colour,
            label=stage,
            markevery=4,
            ms=4,
        )
    for name, place in marks.items():
        ax.axvline(place, color="0.6", lw=1)
        ax.text(
            place,
            0.99,
            f"{name} ",
            rotation=90,
            ha="right",
            va="top",
            transform=ax.get_xaxis_transform(),
            **SMALL,
        )
    if line is not None:
        ax.axhline(line, color="0.3", ls="--", lw=1)
    _log_axis(ax, "fields").set(yscale="log", ylabel=ylabel)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: _power_of_ten(value))
    _legend(ax)
    return ax
