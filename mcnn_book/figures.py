"""The book's figures: each function draws on one Matplotlib Axes, given first, and returns it.

Colours hold for colour-blind readers and on paper: channels are blue, magenta and green,
quantities cividis (blue small, yellow large, as in the paper's Fig. 3a), and classes differ
by marker as well as by colour. Backgrounds are white, so pages may be dark. Figures are made for
``layout="constrained"`` and a page some 7 inches wide, and drawn at 150 dots per inch.

seaborn draws matrices, distributions, lines and scatters of classes. What it lacks is written here:
fields of a screen, and intervals that are known beforehand (seaborn computes its own).
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from pandas.io.formats.style import Styler
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from scipy.special import expit
from seaborn.matrix import dendrogram

from mcnn_core.screen import CONTROL, row_names

CHANNEL_COLOURS = np.array(
    [(0.2, 0.45, 1), (0.95, 0, 0.85), (0.1, 0.9, 0.2), (1, 0.75, 0), (0, 0.8, 0.9), (0.7, 0.7, 0.7)]
)


"""DNA blue, actin magenta, tubulin green, as in BBBC021's channel order; then amber, cyan, grey."""


PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#555555"]


MARKERS = "osD^vP"


SMALL: dict[str, Any] = {"fontsize": 8}


ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 3} | SMALL


BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} | SMALL


"""Where legends stand that would cover something within the axes."""


DOTS: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0, "estimator": None}


"""seaborn's lines through every point, whose marks otherwise have a white edge."""


RING: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "linestyle": "none"}


MOST_CELLS = 1500  #: rows of a matrix that are drawn cell by cell
CELLS: dict[str, Any] = {"xticklabels": False, "yticklabels": False}


TITLE_LINE = 0.16


"""Height of one line of a title in a contact sheet, inches."""


LONGEST = 36


"""Characters of a name in a figure; of a longer one the middle becomes an ellipsis."""


COLOUR_WORDS = ("blue", "magenta", "green", "amber", "cyan", "grey")


"""`CHANNEL_COLOURS` in words."""


# A $ in a compound's name is no formula; legends, seaborn's too, have no frame.
plt.rcParams.update({"figure.dpi": 150, "legend.frameon": False, "text.parse_math": False})


def short(name: object, most: int = LONGEST) -> str:
    """Return a name as a figure can hold it.

    Each line is cut to `most` characters, its end (the dose) kept, and never taken for a hidden
    label.
    """
    lines = [re.sub(r"\s", " ", line) for line in str(name).split("\n")]
    lines = [line if len(line) <= most else line[: most - 10] + "…" + line[-9:] for line in lines]
    return (" " if lines[0].startswith("_") else "") + "\n".join(lines)


def by_number(name: str) -> str:
    """Return a key for sorting by which Week2 comes before Week10, and no two names are equal."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(12), name) + "\n" + name


def colour_words(channels: Sequence[str]) -> str:
    """Say in which colours `composite` shows the channels: "DNA blue, actin magenta"."""
    if len(channels) == 1:
        return f"{channels[0]} in grey"
    return ", ".join(map(" ".join, zip(channels, COLOUR_WORDS, strict=False)))


def panels(n: int, height: float = 2.9, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of `n` panels, two in a line, and their axes."""
    lines = -(-n // 2)
    style: dict[str, Any] = {"squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(lines, 2, figsize=(7.2, height * lines), sharey=sharey, **style)
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

    `form` goes to ``Styler.format``. A concentration keeps all its digits.
    """
    if "concentration" in table:
        form["formatter"] = {"concentration": "{:g}"} | form.get("formatter", {})
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
        length, left, bottom = bar / pixel_size, 0.04 * width, height - 0.048 * width
        ax.add_patch(Rectangle((left, bottom), length, 0.016 * width, color="white"))
        ax.text(left, bottom - 0.016 * width, f"{bar:g} µm", color="white", va="bottom", **SMALL)
    below: dict[str, Any] = {"ha": "center", "va": "top", "transform": ax.transAxes, **SMALL}
    for c, name in enumerate(channels):
        colour = CHANNEL_COLOURS[c] * 0.75 if len(channels) > 1 else "black"
        x, name = (c + 0.5) / len(channels), short(name, 60 // len(channels))
        ax.text(x, -0.03, name, color=colour, **below)
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
        corner = (i % columns) / columns, 1 - (i // columns + 1) / rows
        place = (*corner, 0.97 / columns, share / rows)
        show_field(ax.inset_axes(place), field, None if i else pixel_size, title=title)
    return ax


def sheet_size(
    fields: Sequence[np.ndarray], titles: Sequence[str], columns: int = 4, width: float = 7.2
) -> tuple[float, float]:
    """Return the size of the figure that a `contact_sheet` of these fields fills.

    Width and height are in inches.
    """
    height, across = fields[0].shape[:2]
    line = 0.97 * width / columns * height / across + _title_height(titles)
    return width, -(-len(fields) // columns) * line


def _title_height(titles: Sequence[str]) -> float:
    return 0.1 + TITLE_LINE * (1 + min(2, max(title.count("\n") for title in titles)))


def plate_map(ax: Axes, table: pd.DataFrame, column: str, label: str = "") -> Axes:
    """Show one plate's wells, coloured by a column of the table.

    A colour bar stands for numbers, a legend for words. Wells of several rows (sites) show their
    first value; wells without rows stay white.
    """
    wells = table.drop_duplicates("Metadata_Well")
    row, number = wells["Metadata_Well"].str[:-2], wells["Metadata_Well"].str[-2:].astype(int)
    rows = sorted(set(row), key=lambda row: (len(row), row))
    columns = range(number.min(), number.max() + 1)
    label = label or short(column.removeprefix("Metadata_"))
    if pd.api.types.is_numeric_dtype(wells[column]):
        shown = pd.DataFrame(np.nan, rows, columns)
        for place in zip(row, number, wells[column], strict=True):
            shown.loc[place[:2]] = place[2]
        _heat(ax, shown, label, square=False, linewidths=1)
    else:
        figure_size = ax.figure.figure.get_size_inches()
        mark = 0.5 * 72 * min(figure_size / (len(columns) + 3, len(rows) + 2))
        x, y = number - columns[0] + 0.5, row.map(rows.index) + 0.5
        _scatter(ax, x, y, *_classes(wells[column], "(none)"), int(mark**2 * 0.8))
        _legend(ax, label, min(1, 7 / mark))
    size: dict[str, Any] = {"fontsize": 5} if len(columns) > 24 else {}
    ax.set_xticks(np.arange(len(columns)) + 0.5, map(str, columns), **size)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, **size)
    ax.set(xlabel="column", ylabel="row", xlim=(0, len(columns)), ylim=(len(rows), 0))
    return ax


def _classes(values: Sequence, unnamed: str) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Return the name of each value in a figure, and a colour and a marker for each name.

    These pairs are unique for the 24 values that a legend can hold, and grey is the negative
    control's alone. `unnamed` stands for "".
    """
    names: dict[str, str] = {}
    for value in sorted(set(values), key=by_number):
        name = short(value or unnamed)
        while name in names.values():  # values that differ in the middle stay different classes
            name += " "
        names[value] = name
    styles = {name: (PALETTE[i % 7], MARKERS[i % 6]) for i, name in enumerate(names.values())}
    if CONTROL in styles:
        styles[CONTROL] = (PALETTE[7], "X")
    return [names[value] for value in values], styles


def _scatter(
    ax: Axes, x: Any, y: Any, kinds: Sequence[str], styles: Mapping[str, tuple[str, str]], size: int
) -> None:
    """Scatter points in the colour and with the marker of their kind; `styles` has all of them."""
    kind = np.asarray(kinds, object)
    colours = {kind: colour for kind, (colour, _) in styles.items()}
    markers = {kind: marker for kind, (_, marker) in styles.items()}
    order = {"hue_order": list(styles), "style_order": list(styles)}
    style = {"palette": colours, "markers": markers, "s": size, "linewidth": 0}
    sns.scatterplot(x=np.asarray(x), y=np.asarray(y), hue=kind, style=kind, ax=ax, **order, **style)


def _legend(ax: Axes, title: str = "", markerscale: float = 1) -> None:
    """List the classes right of the axes, or their number where they are too many to tell apart."""
    handles, _ = ax.get_legend_handles_labels()
    if len(handles) > 24:
        ax.legend_ = None  # seaborn's
        ax.set_title(f"{len(handles)} different values, marks repeat", loc="right", fontsize=9)
    else:
        ax.legend(title=title, markerscale=markerscale, **BESIDE)


def histograms(ax: Axes, plates: Mapping[str, np.ndarray], bins: np.ndarray, xlabel: str) -> Axes:
    """Draw one line per plate: the share of its pixels in each bin of intensity.

    Up to 8 plates are named.
    """
    few, middles = len(plates) <= 8, (bins[1:] + bins[:-1]) / 2
    # pixels are counted here, as seaborn would hold each as a row of a table; and it takes no
    # array of bins together with weights
    style: dict[str, Any] = {"bins": list(bins), "element": "step", "fill": False, "linewidth": 1}
    for i, (plate, values) in enumerate(plates.items()):
        share = np.histogram(np.ravel(values), bins)[0] / np.size(values) * 100
        style |= {"color": PALETTE[i if few else 0], "alpha": 0.8 if few else 0.3}
        sns.histplot(x=middles, weights=share, label=short(plate), ax=ax, **style)
    if few:
        ax.legend(title="plate", **SMALL)
    ax.set(xlabel=xlabel, ylabel="pixels (%)")
    return ax


def loss_curves(ax: Axes, history: pd.DataFrame, classes: int | None = None) -> Axes:
    """Draw the loss (left) and the training accuracy (right) of each epoch.

    `classes` adds the loss of a guess.
    """
    right = ax.twinx()
    percent = history.assign(accuracy=history["accuracy"] * 100)
    for side, column, marker, colour in ((ax, "loss", "o", 0), (right, "accuracy", "s", 1)):
        style = {"color": PALETTE[colour], "marker": marker, "label": column, "legend": False}
        sns.lineplot(percent, x="epoch", y=column, ax=side, **style, **DOTS)
    if classes:
        guess = f"guessing among {classes}"
        ax.axhline(np.log(classes), color=PALETTE[0], linestyle=":", label=guess)
    ax.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    right.set(ylabel="surrogate classes recognised (%)", ylim=(0, 100))
    right.legend(handles=ax.get_lines() + right.get_lines(), **ABOVE)
    return ax


def by_layer(ax: Axes, table: pd.DataFrame, column: str, label: str, log: bool = False) -> Axes:
    """Draw a column of `mcnn_book.training.first_steps` over the layers, averaged over scales."""
    names, style = table["layer"].unique(), {"markers": ["o", "s"], "dashes": ["", (2, 2)]}
    places = table.assign(layer=table["layer"].map({name: n for n, name in enumerate(names)}))
    sns.lineplot(
        places,
        x="layer",
        y=column,
        hue="initialisation",
        style="moment",
        palette=PALETTE[:2],
        errorbar=None,
        ax=ax,
        **style,
    )
    ax.set(xlabel="", ylabel=label)
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())
    else:
        ax.set_ylim(0, None)
    return ax


def scree(ax: Axes, explained: np.ndarray) -> Axes:
    """Draw the cumulative variance that the principal components explain."""
    share = np.cumsum(explained) * 100
    components = np.arange(1, len(share) + 1)
    sns.lineplot(x=components, y=share, color=PALETTE[0], marker="o", ax=ax, **DOTS)
    ax.axhline(99, color=PALETTE[4], linestyle=":")
    style: dict[str, Any] = {"color": PALETTE[4], "va": "top", **SMALL}
    ax.text(0.02, 98.5, "99 %", transform=ax.get_yaxis_transform(), **style)
    ax.set(xlabel="principal components", ylabel="variance explained (%)")
    ax.set_ylim(min(share[0], 90) - 2, 101)
    return ax


def _heat(
    ax: Axes, values: Any, label: str, square: bool = True, cmap: str = "cividis", **style: Any
) -> None:
    """Draw a matrix with its colour bar; the middle of a cell is at whole numbers + 0.5."""
    bar: dict[str, Any] = {"label": label, "shrink": 0.8}
    if len(values) > MOST_CELLS:  # as an image: no page shows so many cells one by one
        shown = ax.imshow(values, extent=(0, len(values), len(values), 0), cmap=cmap, **style)
        ax.figure.colorbar(shown, ax=ax, **bar)
        ax.set(xticks=[], yticks=[])
        return
    sns.heatmap(values, square=square, cmap=cmap, cbar_kws=bar, ax=ax, **CELLS, **style)


def _name_cells(ax: Axes, table: pd.DataFrame) -> None:
    """Write the names of columns and rows at a matrix."""
    rows, columns = (np.arange(n) + 0.5 for n in table.shape)
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(columns, map(short, table.columns), **slanted, **SMALL)
    ax.set_yticks(rows, map(short, table.index), rotation=0, **SMALL)


def _outline(ax: Axes, start: int, stop: int, **style: Any) -> None:
    """Draw a square around the rows and columns from `start` to `stop` of a matrix."""
    side = stop - start
    ax.add_patch(Rectangle((start, start), side, side, fill=False, **style))


def _blocks(labels: np.ndarray) -> list[tuple[str, int, int]]:
    """Return (label, start, stop) of each run of equal labels."""
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1), len(labels)]
    return [(labels[start], start, stop) for start, stop in pairwise(edges)]


def _distances(ax: Axes, distances: np.ndarray, largest: float) -> None:
    _heat(ax, distances, "cosine distance", vmin=0, vmax=max(largest, 1e-9))


def distance_matrix(
    ax: Axes,
    distances: np.ndarray,
    table: pd.DataFrame,
    frame: tuple[int, int] | None = None,
    only: tuple[int, int] | None = None,
) -> Axes:
    """Show cosine distances between treatments, in blocks of one mechanism (Fig. 3a).

    Blue is near and yellow far. `table` holds the treatments in the order of `distances`: by
    mechanism, compound and concentration. `frame` is the first row to frame in red, and the
    one after the last; `only` shows such rows alone, on the colours of the whole, and names each by
    compound and dose (Fig. 3b).
    """
    first, last = only or (0, len(table))
    part = table.iloc[first:last]
    _distances(ax, distances[first:last, first:last], float(distances.max()))
    blocks = _blocks(part["Metadata_MoA"].to_numpy())
    ax.set(xlabel="treatments, in the order of the rows")
    middles = [(start + stop) / 2 for _, start, stop in blocks]
    turn: dict[str, Any] = {"rotation": 90 if only else 0, "va": "center"}
    ax.set_yticks(middles, [short(label) for label, _, _ in blocks], **turn, **SMALL)
    for _, start, _ in blocks[1:]:
        ax.axhline(start, color="white", linewidth=0.6)
        ax.axvline(start, color="white", linewidth=0.6)
    if frame:
        _outline(ax, *frame, edgecolor="red", linewidth=2)
    if only:
        dose = part["Metadata_Concentration"]
        doses = dose.map(" {:g} µM".format).where(dose.notna(), "")
        names = part["Metadata_Compound"].where(part["Metadata_Compound"] != "", row_names(part))
        right = ax.secondary_yaxis("right")
        right.set_yticks(np.arange(len(part)) + 0.5, names.map(short) + doses, **SMALL)
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
    numbers = np.where(values > 0, values.astype(str), "")
    label = "of the true mechanism (%)"
    _heat(ax, share, label, vmin=0, vmax=100, annot=numbers, fmt="", annot_kws=SMALL)
    ax.set(xlabel="predicted", ylabel="true", facecolor="0.85")
    _name_cells(ax, counts)
    return ax


def _intervals(ax: Axes, y: pd.Series | np.ndarray, rows: pd.DataFrame, **style: Any) -> None:
    """Draw marks with intervals; the three columns of `rows` are value, lower and upper end."""
    value, low, high = (rows.iloc[:, column] for column in range(3))
    # a share of 0 or 1 lies outside its own interval by a rounding error
    error = [(value - low).clip(lower=0), (high - value).clip(lower=0)]
    ax.errorbar(value, y, xerr=error, **style)


def _range_bands(ax: Axes, methods: Sequence[str], fresh: pd.DataFrame) -> None:
    """Draw a band from the least to the largest accuracy of each method."""
    drawn = fresh.dropna(subset="low").groupby("method")["overall"].agg(["min", "max"]) * 100
    drawn = drawn.reindex(methods).dropna()
    y = [methods.index(name) for name in drawn.index]
    wide = drawn["max"] - drawn["min"]
    if y:
        ax.barh(y, wide, 0.7, drawn["min"], color="0.85", zorder=0, label="range of fresh screens")


def accuracy_bars(ax: Axes, table: pd.DataFrame, fresh: pd.DataFrame | None = None) -> Axes:
    """Compare methods: one line each, a mark per seed with its Wilson interval.

    A dashed line is an exact floor. `table` is what `mcnn_core.analysis.methods.comparison`
    returns, of one protocol; a boolean column ``recorded`` tells results of ``make study`` (open
    marks) from those of this run (filled). A grey band is the range of a method in `fresh`, a
    table of the same kind from other screens.
    """
    if table.empty:
        return not_available(ax)
    table = table.reset_index(drop=True)
    methods = list(dict.fromkeys(table["method"]))
    recorded = table.get("recorded", pd.Series(False, table.index)).astype(bool)
    seeds = table.groupby("method")["method"]
    shift = seeds.cumcount() / (seeds.transform("size") - 1).clip(lower=1) - 0.5
    y = table["method"].map(methods.index) + 0.4 * shift.where(seeds.transform("size") > 1, 0)
    percent = table[["overall", "low", "high"]] * 100
    floor = table["low"].isna()
    for label, marker, colour, fill, here in (
        ("this run", "o", PALETTE[0], PALETTE[0], ~recorded),
        ("recorded", "s", PALETTE[1], "white", recorded),
    ):
        if here.any():
            style = {"fmt": marker, "color": colour, "markerfacecolor": fill, "label": label}
            _intervals(ax, y[here & ~floor], percent[here & ~floor], **style)
    expected = percent.loc[floor, "overall"]
    line = ax.hlines(y[floor], 0, expected, color="0.5", linestyle="--", label="expected, no image")
    ax.plot(expected, y[floor], "|", color="0.5", markersize=10)
    if fresh is not None:
        _range_bands(ax, methods, fresh)
    ax.legend(handles=[*ax.containers, line], **ABOVE)
    ax.set(
        xlabel="right mechanism\n(% of treatments, 95 % interval)",
        xlim=(0, 100),
        ylim=(len(methods) - 0.5, -0.5),
    )
    ax.set_yticks(range(len(methods)), [method.replace("_", ", ") for method in methods])
    ax.grid(axis="x", color="0.9")
    return ax


def embedding(ax: Axes, points: np.ndarray, labels: pd.Series, xlabel: str, ylabel: str) -> Axes:
    """Scatter (n, 2) points; every label has its own pair of colour and marker."""
    kinds, styles = _classes(labels, "not annotated")
    _scatter(ax, points[:, 0], points[:, 1], kinds, styles, 22)
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
) -> Axes:
    """Set curves of simulated fields (lines) against real ones (open marks).

    Both are (C, len(x)), `x` is shown logarithmic.
    """
    for c, channel in enumerate(channels):
        colour = CHANNEL_COLOURS[c] * 0.75
        ax.plot(x, simulated[c], color=colour, label=f"{channel}, simulated")
        style = {"color": colour, "markerfacecolor": "white", "label": f"{channel}, real"}
        ax.plot(x, real[c], MARKERS[c % 6], **style)
    _log_axis(ax, xlabel).set(ylabel=ylabel)
    ax.legend(**SMALL)
    return ax


def _network(ax: Axes) -> None:
    """Sketch the network: scales, each through its own convolutions, then fused."""
    # middle of the left edge, width and height of each layer
    layers = [
        (0.31 + layer * 0.022, 0.68 - scale * 0.22, 0.014, 0.2 / 1.5**scale, PALETTE[5])
        for scale in range(3)
        for layer in range(3)
    ]
    last = [(0.415, 0.46, 0.018, 0.36, PALETTE[1]), (0.45, 0.46, 0.018, 0.24, PALETTE[1])]
    for x, y, width, height, colour in layers + last:
        box = (x, y - height / 2), width, height
        ax.add_patch(Rectangle(*box, facecolor=colour, edgecolor="black", linewidth=0.6))
    for x, y, text in ((0.334, 0.14, "scales"), (0.424, 0.27, "fusion"), (0.459, 0.33, "128")):
        ax.text(x, y, text, ha="center", va="top", **SMALL)
    for start, stop in ((0.265, 0.3), (0.378, 0.41), (0.475, 0.5), (0.665, 0.69)):
        ends = (start, 0.46), (stop, 0.46)
        ax.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12, color="0.3"))


def _tree(ax: Axes, distances: np.ndarray) -> list[int]:
    """Draw the tree of treatments, root at the right, and return the order of its leaves."""
    if len(distances) == 1:
        return [0]
    links = linkage(squareform(distances, checks=False), "average")
    style = {"tree_kws": {"color": "black", "linewidths": 0.8}, "label": False}
    tree = dendrogram(distances, linkage=links, axis=0, rotate=True, ax=ax, **style)
    ax.invert_xaxis()
    return tree.reordered_ind


def method_overview(
    ax: Axes,
    groups: Mapping[str, Sequence[np.ndarray]],
    features: np.ndarray,
    distances: np.ndarray,
    labels: Sequence[str],
) -> Axes:
    """Draw the paper's Fig. 1 from a run.

    It shows fields by surrogate class, network, features, distances and tree. `groups` are three
    or four surrogate classes with two or three fields each, (H, W, C) uint8. `features` (n, d),
    cosine `distances` (n, n) and `labels` are those of some treatments.
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
        bottom, width = 0.84 - (g + 1) * step, 0.26 / len(fields)
        for f, field in enumerate(fields):
            place = (f * width, bottom + 0.05, 0.25 / len(fields), step - 0.06)
            show_field(ax.inset_axes(place), field)
        ax.text(0.13, bottom + 0.045, short(name), ha="center", va="top", **SMALL)
    _network(ax)
    order = _tree(_bare(ax.inset_axes((0.855, 0.1, 0.06, 0.74))), distances)
    rows = ax.inset_axes((0.51, 0.1, 0.15, 0.74))
    largest = float(np.percentile(np.abs(features), 95))
    style: dict[str, Any] = {"cmap": "cividis", "cbar": False, **CELLS}
    sns.heatmap(features[order], vmin=-largest, vmax=largest, ax=rows, **style)
    matrix = ax.inset_axes((0.7, 0.1, 0.15, 0.74))
    sns.heatmap(distances[np.ix_(order, order)], ax=matrix, **style)
    for line, row in enumerate(order):
        y = 0.84 - (line + 0.5) * 0.74 / len(order)
        ax.text(0.92, y, short(labels[row]), va="center", **SMALL)
    return ax


def similarity_heat(ax: Axes, table: pd.DataFrame) -> Axes:
    """Show similarities, 0 to 2, of named rows to mechanisms (columns).

    Blue is near, as in matrices of distances. The largest of each row is marked.
    """
    if table.empty:
        return not_available(ax)
    least = min(1.0, float(np.nanmin(table)))
    _heat(ax, table, "similarity (2 - cosine distance)", False, "cividis_r", vmin=least, vmax=2)
    largest = np.nanargmax(table.to_numpy(), axis=1)
    rows = np.arange(len(table))
    ax.plot(largest + 0.5, rows + 0.5, color="white", markersize=5, **RING)
    ax.set(xlabel="", ylabel="")
    _name_cells(ax, table)
    return ax


class _LogTicks(LogLocator):
    """Powers of ten where an axis has three of them, else 1, 2 and 5 times these, else more."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        for subs in ((1,), (1, 2, 5), range(1, 10)):
            self.set_params(subs=subs)
            ticks = super().tick_values(vmin, vmax)
            if sum(vmin <= tick <= vmax for tick in ticks) >= 3:
                return ticks
        return MaxNLocator(4).tick_values(vmin, vmax)


def _log_axis(ax: Axes, xlabel: str) -> Axes:
    """Make x logarithmic, with numbers at round values alone."""
    ax.set(xscale="log", xlabel=xlabel)
    ax.xaxis.set_major_locator(_LogTicks())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    return ax


def _power_of_ten(value: float) -> str:
    """Return a power of ten as in 10⁵; those from 0.01 to 1,000 written out."""
    if 0.009 < value < 2_000:
        return f"{value:g}"
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "10" + str(round(np.log10(value))).translate(raised)


def noise_curves(ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Axes:
    """Draw noise against brightness, a line per channel.

    `curves` are pairs of `mcnn_book.simulate.field_statistics.noise`, the noise relative.
    """
    for c, (channel, (brightness, noise)) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": PALETTE[c], "marker": MARKERS[c], "markersize": 4}
        ax.plot(brightness, noise, label=short(channel), **style)
    _log_axis(ax, "brightness (camera counts)")
    ax.set(title=title, ylabel="noise, relative", ylim=(0, None))
    ax.legend(**SMALL)
    return ax


def response_curves(ax: Axes, points: pd.DataFrame, most: int = 3) -> Axes:
    """Draw similarity against concentration for one compound (Fig. 4a).

    Shown are medians with MAD, annotated doses ringed. `points` are the rows of
    `mcnn_core.analysis.response.curves` of that compound. Drawn are the mechanisms it is annotated
    with, the negative control, and those that come first at some dose, `most` in all.
    """
    if points.empty:
        return not_available(ax)
    best = points.loc[points.groupby("concentration")["median"].idxmax(), "mechanism"]
    mechanisms = sorted(set(points["mechanism"]))
    annotated = points.loc[points["annotated"], "mechanism"]
    order = dict.fromkeys([*annotated, CONTROL, *best.value_counts().index])
    for mechanism in [name for name in order if name in mechanisms][:most]:
        part = points[points["mechanism"] == mechanism].sort_values("concentration")
        i = mechanisms.index(mechanism)
        control = mechanism == CONTROL
        colour, marker = ("0.35", "x") if control else (PALETTE[i % 7], MARKERS[i % 6])
        style: dict[str, Any] = {"color": colour, "marker": marker, "label": short(mechanism)}
        x, y = part["concentration"], part["median"]
        ax.errorbar(x, y, part["mad"], markersize=4, capsize=2, linewidth=1, **style)
        ringed = part["annotated"]
        ax.plot(x[ringed], y[ringed], color=colour, markersize=11, markeredgewidth=0.8, **RING)
    _log_axis(ax, "concentration (µM)").set(ylabel="similarity")
    ax.set_title(short(points["compound"].iloc[0]), fontsize=9)
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.24))  # off the curves
    return ax


def dose_effect(ax: Axes, dose: np.ndarray, effect: np.ndarray, fitted: pd.Series) -> Axes:
    """Show the effect of each well against concentration, and the fitted curve.

    Controls stand at the left; the curve comes with the interval of its EC50. `fitted` is a row of
    `mcnn_core.analysis.response.potency`.
    """
    tested = np.unique(dose[dose > 0])
    left = tested[0] / 10
    styles = {"wells": (PALETTE[0], "o"), "controls": ("0.5", "s")}
    kinds = np.where(dose == 0, "controls", "wells").tolist()
    _scatter(ax, np.where(dose == 0, left, dose), effect, kinds, styles, 20)
    if fitted["status"] == "fit":
        x = np.geomspace(left, tested[-1], 200)
        # `mcnn_core.analysis.response.hill`, which is not imported: a change to the fit redraws no
        # figure
        rise = expit(fitted["hill"] * np.log(x / fitted["ec50"]))
        curve = fitted["bottom"] + (fitted["top"] - fitted["bottom"]) * rise
        ax.plot(x, curve, color=PALETTE[4])
        ax.axvline(fitted["ec50"], color=PALETTE[4], linestyle=":", label="EC50")
        ax.axvspan(fitted["low"], fitted["high"], color=PALETTE[4], alpha=0.15, linewidth=0)
    _log_axis(ax, "concentration (µM)").set(ylabel="effect")
    reasons = [fitted[key] for key in ("status", "caution") if fitted[key] not in ("fit", "")]
    title = [short(fitted["compound"]), textwrap.fill("; ".join(reasons), 34)]
    ax.set_title("\n".join(filter(None, title)), fontsize=9)
    ax.legend(fontsize=7, borderpad=1)  # off the wells, as it has marks like theirs
    return ax


def potency_intervals(ax: Axes, potency: pd.DataFrame, true: pd.Series | None = None) -> Axes:
    """Draw the EC50 of every compound with its interval; open marks have a caution.

    `true` (indexed by compound) adds the planted values as crosses.
    """
    if potency.empty:
        return not_available(ax)
    rows = potency.sort_values(["ec50", "compound"], na_position="first", ignore_index=True)
    fitted = rows[rows["status"] == "fit"]
    sound = fitted["caution"] == ""
    style = {"color": PALETTE[0], "markersize": 4, "linewidth": 1, "fmt": "o"}
    for part, face, name in (
        (fitted[sound], PALETTE[0], "EC50, 95 % interval"),
        (fitted[~sound], "white", "EC50, interval not to be trusted"),
    ):
        if len(part):
            ends = part[["ec50", "low", "high"]]
            _intervals(ax, part.index, ends, markerfacecolor=face, label=name, **style)
    if true is not None:
        known = rows["compound"].map(true)
        ax.plot(known, rows.index, "x", color=PALETTE[4], markersize=5, label="planted EC50")
    beside: dict[str, Any] = {"va": "center", "transform": ax.get_yaxis_transform()}
    for row, status in rows.loc[rows["status"] != "fit", "status"].items():
        ax.text(1.01, row, status, fontsize=6, color="0.35", **beside)
    _log_axis(ax, "EC50 (µM)").set(ylim=(-1, len(rows)))
    ax.set_yticks(range(len(rows)), rows["compound"].map(short), fontsize=7)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**ABOVE)
    return ax


def corrected_potencies(ax: Axes, potency: pd.DataFrame) -> Axes:
    """Draw the EC50s of a screen before and after a correction by place, one line per compound.

    `potency` is what `mcnn_book.real_plates.lincs` returned first; compounds without an EC50 before
    and after are left out.
    """
    rows = potency.dropna(subset=["ec50", "ec50 corrected"], how="all")
    rows = rows.sort_values(["ec50", "ec50 corrected"], ignore_index=True)
    for shift, after, colour, label in (
        (0.15, "", PALETTE[0], "as they are"),
        (-0.15, " corrected", PALETTE[4], "corrected by place"),
    ):
        part = rows[[f"{name}{after}" for name in ("ec50", "low", "high")]].dropna()
        style = {"color": colour, "markersize": 4, "linewidth": 1, "label": label}
        _intervals(ax, part.index + shift, part, fmt="o", **style)
    _log_axis(ax, "EC50 (µM), with its interval").set(ylim=(-1, len(rows)))
    ax.set_yticks(range(len(rows)), rows["compound"].map(short), fontsize=7)
    ax.legend(**ABOVE)
    return ax


def ordered_matrix(ax: Axes, distances: np.ndarray, clusters: np.ndarray) -> Axes:
    """Show cosine distances in the order of the leaves of a tree (Supplementary Table 7).

    Each cluster of two or more is framed.
    """
    _distances(ax, distances, float(distances.max()))
    for _, start, stop in _blocks(np.asarray(clusters)):
        if stop - start > 1:
            _outline(ax, start, stop, edgecolor="white", linewidth=0.6)
    order = f"{len(distances)} profiles, in the order of the leaves"
    ax.set(xlabel=order, ylabel=order)
    return ax


def novelty_map(ax: Axes, novel: pd.DataFrame) -> Axes:
    """Set how far each unannotated treatment lies against how well its replicates agree.

    The distance is that to everything known. `novel` is what `mcnn_core.analysis.novelty.novelty`
    returned; dotted lines are the agreement that controls reach, one for each number of replicates.
    """
    if novel[["agreement", "score"]].dropna().empty:
        return not_available(ax)
    kind = np.where(novel["novel"], 2, novel["active"].astype(int))
    names = ["no effect seen", "in a cluster with something known", "novel"]
    names = [f"{name} ({(kind == i).sum()})" for i, name in enumerate(names)]
    styles = dict(zip(names, (("0.6", "o"), (PALETTE[0], "^"), (PALETTE[4], "s")), strict=True))
    _scatter(ax, novel["agreement"], novel["score"], [names[i] for i in kind], styles, 18)
    for threshold in novel["threshold"].dropna().unique():
        ax.axvline(threshold, color="0.3", linestyle=":")
    ax.set(
        xlabel="agreement of replicate wells (cosine)",
        ylabel="cosine distance to the nearest\nannotated treatment or control",
    )
    ax.legend(**ABOVE)
    return ax


def _free_places(ax: Axes, marks: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    """Return for each mark, in parts of the axes, a shift in points to a place off all the rest."""
    taken = list(np.vstack([marks, others]) * ax.figure.figure.get_size_inches() * 72 * 0.75)
    shifts = []
    angles = np.deg2rad([30, 150, -30, -150, 90, -90, 0, 180])
    tried = [d * np.array([np.cos(a), np.sin(a)]) for d in (8, 16, 24, 32) for a in angles]
    for mark in taken[: len(marks)]:
        free = (d for d in tried if np.hypot(*(np.array(taken) - mark - d).T).min() > 7)
        shifts.append(next(free, tried[0]))
        taken.append(mark + shifts[-1])
    return shifts


def distinctness_map(ax: Axes, scored: pd.DataFrame, chosen: pd.DataFrame) -> Axes:
    """Set each treatment's distance to the nearest reference against that to its replicates.

    The chosen treatments are numbered in their order. `scored` and `chosen` are what
    `mcnn_book.study.choosing.distinctness` and `mcnn_book.study.choosing.choose` returned. On the
    line both distances are equal.
    """
    if scored.empty:
        return not_available(ax)
    end = 1.05 * float(scored[["own", "other"]].max().max())
    ax.plot([0, end], [0, end], color="0.3", linestyle=":", label="both equal")
    first, others = f"the first {len(chosen)} chosen", "other treatments"
    kinds = np.where(scored["treatment"].isin(chosen["treatment"]), first, others).tolist()
    styles = {others: ("0.6", "o"), first: (PALETTE[4], "^")}
    _scatter(ax, scored["own"], scored["other"], kinds, styles, 20)
    here = scored.set_index("treatment").loc[chosen["treatment"]]
    places = here[["own", "other"]].to_numpy()
    around = scored.loc[[kind == others for kind in kinds], ["own", "other"]].to_numpy()
    for number, (place, shift) in enumerate(
        zip(places, _free_places(ax, places / end, around / end), strict=True)
    ):
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center"}
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        far = np.hypot(*shift) > 10
        style |= {"fontsize": 7, "arrowprops": line if far else None}
        ax.annotate(str(number + 1), place, xytext=tuple(shift), **style)
    ax.set(
        xlabel="mean cosine distance to the own replicates",
        ylabel="mean cosine distance to the\nnearest negative controls",
        xlim=(0, end),
        ylim=(0, end),
    )
    ax.legend(**ABOVE)
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
    _intervals(ax, y, rows[["ratio", "ratio_low", "ratio_high"]], fmt="o", color=PALETTE[0])
    ax.axvline(1, color="0.6", lw=1)
    _log_axis(ax, "textbook's time / our time")
    ax.set_yticks(y, _case_names(rows), fontsize=8)
    return ax


def bench_shares(ax: Axes, rows: pd.DataFrame) -> Axes:
    """Show how close each case comes to its limit, by what the limit is.

    The rows are those of `mcnn_book.check.cost.bench_rows`.
    """
    rows = rows.dropna(subset="share")
    y = np.arange(len(rows))[::-1]
    styles = dict(zip(rows["bound"].unique(), zip(PALETTE, MARKERS, strict=False), strict=False))
    _scatter(ax, rows["share"], y, rows["bound"], styles, 36)
    ax.axvline(1, color="0.6", lw=1)
    _log_axis(ax, "share of the limit's speed")
    ax.set_yticks(y, _case_names(rows), fontsize=8)
    ax.legend(loc="upper center", bbox_to_anchor=(0.3, -0.12 - 0.6 / len(rows)), ncols=2, **SMALL)
    return ax


def growth_curves(
    ax: Axes,
    table: pd.DataFrame,
    column: str,
    ylabel: str,
    marks: Mapping[str, float],
    line: float | None = None,
) -> Axes:
    """Show a column of a table of `growth` against the number of fields, a curve per stage.

    The table is from `mcnn_book.check.cost`. `marks` name some numbers, `line` is a bound.
    """
    stages = table["stage"].nunique()
    styles = {"palette": PALETTE[:stages], "markers": list(MARKERS[:stages]), "dashes": False}
    names = {"x": "n_fields", "y": column, "hue": "stage", "style": "stage"}
    sns.lineplot(table, markevery=4, ax=ax, **names, **styles, **DOTS)
    upright: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "top", **SMALL}
    for name, place in marks.items():
        ax.axvline(place, color="0.6", lw=1)
        ax.text(place, 0.99, f"{name} ", transform=ax.get_xaxis_transform(), **upright)
    if line is not None:
        ax.axhline(line, color="0.3", ls="--", lw=1)
    _log_axis(ax, "fields").set(yscale="log", ylabel=ylabel)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: _power_of_ten(value))
    _legend(ax)
    return ax


def activity_map(ax: Axes, table: pd.DataFrame) -> Axes:
    """Set the p-value of each group of `mcnn_core.analysis.activity` against its mean precision."""
    if table.empty:
        return not_available(ax)
    words = {True: "told apart (q < 0.05)", False: "not told apart"}
    kind = table["significant"].astype(bool).map(words)
    kind = kind + kind.map(kind.value_counts()).map(" ({})".format)
    palette = {name: PALETTE[4] if name.startswith("told") else "0.6" for name in kind.unique()}
    x, y = table["mean_average_precision"].astype(float), table["p_value"].astype(float)
    sns.scatterplot(x=x, y=y, hue=kind, palette=palette, s=24, ax=ax)
    ax.set(yscale="log", ylim=(1.5, min(y.min() / 1.5, 0.05)))  # with two ticks or more
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="mean average precision", ylabel="p-value of random rankings", xlim=(0, 1.02))
    ax.legend(**ABOVE)
    return ax


def beside_count(ax: Axes, table: pd.DataFrame, end: str = "") -> Axes:
    """Set distances from the controls against nuclei as a share of theirs.

    `table` is what `mcnn_book.results.beside_count` returned; `end` is "_left" for what is left
    when the count is regressed out.
    """
    if table.empty:
        return not_available(ax)
    colours = {"agree": PALETTE[4], "do not agree": "0.6", "not tested": PALETTE[0]}
    kind = table[f"replicates{end}"]
    style = {
        "hue": kind,
        "palette": colours,
        "hue_order": [one for one in colours if one in set(kind)],
    }
    x, y = table["share_of_controls"], table[f"distance{end}"].clip(lower=0.1)
    sns.scatterplot(x=x, y=y, s=14, linewidth=0, alpha=0.7, ax=ax, **style)
    ax.legend(title="replicates", title_fontsize=8, **SMALL)
    ax.axhline(1, color="0.6", lw=1, zorder=0)
    ax.axvline(1, color="0.6", lw=1, zorder=0)
    ax.set(xlabel="nuclei, as a share of the controls'", ylabel="distance, 1: a control's")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    return ax


def occlusion_heat(ax: Axes, means: pd.DataFrame, kind: str) -> Axes:
    """Show the similarity that each mechanism loses with each "channel", or each "scale".

    `means` are those of `mcnn_core.analysis.occlusion.occlusion` by mechanism; both kinds have the
    same colours.
    """
    part = means.filter(regex=f"^{kind} ").rename(columns=lambda name: name.split(" ", 1)[1])
    if part.empty:
        return not_available(ax)
    style: dict[str, Any] = {"annot": True, "fmt": ".2f", "annot_kws": SMALL}
    ends: dict[str, Any] = {
        "vmin": min(0.0, float(means.min(axis=None))),
        "vmax": float(means.max(axis=None)),
    }
    _heat(ax, part, "similarity lost", square=False, **ends, **style)
    _name_cells(ax, part)
    ax.set(xlabel=kind, ylabel="")
    return ax


def outline_squares(ax: Axes, found: np.ndarray, side: int, most: int = 5) -> Axes:
    """Frame the `most` squares, `side` pixels wide, of the largest values on a field."""
    for n in np.argsort(found, axis=None)[::-1][:most]:
        row, column = np.unravel_index(n, found.shape)
        corner = column * side - 0.5, row * side - 0.5
        ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1.2))
    return ax


def square_heat(ax: Axes, found: np.ndarray) -> Axes:
    """Show how far the features of a field move when each of its squares is covered."""
    _heat(ax, found, "features moved (cosine)")
    return ax


def place_map(ax: Axes, table: pd.DataFrame, title: str) -> Axes:
    """Draw one value per place of a plate: rows and columns of `table` count from 0."""
    _heat(ax, table, "distance from the middle")
    rows = [chr(65 + row) if row < 26 else f"A{chr(39 + row)}" for row in table.index]
    every = [slice(None, None, -(-len(names) // 12)) for names in table.axes]
    ax.set_yticks(np.arange(len(rows))[every[0]] + 0.5, rows[every[0]], fontsize=6, rotation=0)
    columns = np.arange(table.shape[1])[every[1]]
    ax.set_xticks(columns + 0.5, table.columns[columns] + 1, fontsize=6)
    ax.set(title=title, xlabel="column", ylabel="row")
    return ax


def ways_heat(ax: Axes, ways: pd.DataFrame, column: str, mark: float) -> Axes:
    """Show a share (0 to 1) for every way of normalising, and mark those above `mark`.

    `ways` is what `mcnn_book.real_plates.grid` returned, of one protocol. `mark` is a line on the
    colour bar, and cells above it are framed.
    """
    names = ["features", "whitening"]
    table = ways.pivot_table(index="scaling", columns=names, values=column, sort=False) * 100
    style: dict[str, Any] = {"annot": True, "fmt": ".0f", "annot_kws": SMALL}
    _heat(ax, table, "right mechanism (%)", square=False, vmin=35, vmax=100, **style)
    for row, at in zip(*np.nonzero(table.to_numpy() > mark * 100), strict=True):
        ax.add_patch(Rectangle((at, row), 1, 1, fill=False, edgecolor=PALETTE[3], linewidth=2))
    ax.figure.axes[-1].axhline(mark * 100, color=PALETTE[3], linewidth=2)  # the colour bar
    titles = [f"{features},\n{whitening}" for features, whitening in table.columns]
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(np.arange(len(titles)) + 0.5, titles, fontsize=7, **slanted)
    ax.set_yticks(np.arange(len(table)) + 0.5, table.index, fontsize=7, rotation=0)
    ax.set(xlabel="", ylabel="")
    return ax
