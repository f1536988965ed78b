"""Interactive figures for a page without server or network.

They are: distance matrix, table, concentration curves. Each is HTML that holds its own data; the
first one shown in a notebook also brings Bokeh, the library that draws it. So after running that
cell again, run the whole notebook before saving it. Names of compounds and mechanisms are not
trusted: they reach the page as text, never as HTML.
"""

import base64
import html
import io
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from bokeh.document import Document
from bokeh.embed import components
from bokeh.layouts import row
from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    LinearColorMapper,
    Model,
    NumeralTickFormatter,
    SaveTool,
    WheelZoomTool,
)
from bokeh.models.annotations import BoxAnnotation, ColorBar, Legend, LegendItem, Span
from bokeh.models.widgets import (
    Button,
    DataTable,
    NumberFormatter,
    Select,
    StringFormatter,
    TableColumn,
    TextInput,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure
from bokeh.resources import Resources
from PIL import Image

from mcnn_book.figures import PALETTE
from mcnn_core.errors import InputError
from mcnn_core.screen import CONTROL

COLOURS = [*PALETTE[:7], "#332288", "#117733", "#882255", "#999933", "#AA4499"]


"""One colour each for a dozen mechanisms; the negative control is black."""


MARKERS = ["circle", "square", "diamond", "triangle", "inverted_triangle", "plus"]


EMPHASISED = 3


"""Mechanisms in colour next to the annotated one: those most similar at any concentration."""


THUMBNAIL = 128


"""Longer side of a thumbnail, pixels."""


STEP = 1e-4


"""Resolution of the distances in the page.

16 bits hold 0 to 6.5, and a cosine distance is at most 2.
"""


STYLE = """<style>
.interactive-card { background: #fff; color: #222; color-scheme: light;
  font-size: 0.85rem; margin: 0; padding: 0.75rem; text-align: left; }
.interactive-card p { color: #222; margin: 0.3rem 5px; min-height: 1.2em; overflow-wrap: anywhere; }
.interactive-card .beside { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.interactive-card .drawing { flex: 4 1 20rem; min-width: 0; }
.interactive-card .pair { align-content: start; display: grid; flex: 1 1 9rem; gap: 0 0.75rem; }
.interactive-card .pair { grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
.interactive-card .pair > p { grid-column: 1 / -1; }
.interactive-card .pair > div { min-height: 13rem; }
.interactive-card .pair img { margin: 5px; padding: 0 !important; width: 8rem; }
.interactive-card .pair img:not([src]) { display: none; }
</style>
"""


SAVE = """
// A spreadsheet would run a name that begins like a formula; after an apostrophe it is text.
const plain = (value) =>
  typeof value === "string" && /^'*[=+@\\t\\r-]/.test(value) &&
  !(value.trim() && Number.isFinite(+value)) ? `'${value}` : String(value)
const quote = (value) =>
  /[",\\r\\n]/.test(value) ? `"${plain(value).replaceAll('"', '""')}"` : plain(value)
function save(name, rows) {
  const link = document.createElement("a")
  const text = rows.map((row) => row.map(quote).join(",") + "\\r\\n").join("")
  link.href = URL.createObjectURL(new Blob(["\\ufeff", text], {type: "text/csv"}))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}
"""


TOUCH = """
// A finger scrolls the page across a plot until a tool is chosen.
if (matchMedia("(pointer: coarse)").matches)
  for (const tool of plot.toolbar.tools) if (tool.type === "BoxZoomTool") tool.active = false
"""


POINT = """
const n = names.length, at = {row: Math.floor(cb_obj.y), column: Math.floor(cb_obj.x)}
if (!Object.values(at).every((i) => i >= 0 && i < n)) return
const part = (name) => document.getElementById(card).querySelector(`[data-part=${name}]`)
part("distance").textContent =
  `cosine distance ${(source.data.image[0][at.row * n + at.column] * step).toFixed(3)}`
for (const [name, i] of Object.entries(at)) {
  part(name).querySelector("img").src = thumbnails[i]
  part(name).querySelector("b").textContent = names[i]
  part(name).querySelector("span").textContent = notes[i]
}
"""


MARK = """
const wanted = cb_obj.value_input.trim().toLowerCase(), n = names.length, start = [], stop = []
const hits = names.map((name, i) =>
  wanted !== "" && `${name}\\n${mechanisms[i]}`.toLowerCase().includes(wanted))
hits.forEach((hit, i) => {
  if (hit && !hits[i - 1]) start.push(i)
  if (hit && !hits[i + 1]) stop.push(i + 1)
})
bands.data = {start, stop}
const found = wanted === "" ? "" : `${hits.filter(Boolean).length} of ${n} treatments match`
document.getElementById(card).querySelector("[data-part=count]").textContent = found
"""


SAVE_MATRIX = (
    SAVE
    + """
const n = names.length, distances = source.data.image[0]
const lines = names.map((name, i) => [name,
  ...Array.from({length: n}, (_, j) => (distances[i * n + j] * step).toFixed(4))])
save("distances.csv", [["treatment", ...names], ...lines])
"""
)


SEARCH = """
const words = cb_obj.value_input.toLowerCase().split(/\\s+/).filter(Boolean)
const columns = searched.map((name) => source.data[name]), length = source.get_length()
const shown = Array.from({length}, (_, i) => {
  const text = columns.map((column) => column[i]).join("\\n").toLowerCase()
  return words.every((word) => text.includes(word))
})
filter.booleans = shown
document.getElementById(card).querySelector("[data-part=count]").textContent =
  `${shown.filter(Boolean).length} of ${length} rows`
"""


SAVE_TABLE = (
    SAVE
    + """
const columns = grid.columns.map((column) => source.data[column.field])
const order = cb_context.index.find_one(grid).data.index  // the rows shown, as they are sorted
save("table.csv", [titles, ...Array.from(order, (i) =>
  columns.map((column) => Number.isNaN(column[i]) ? "" : column[i]))])
"""
)


SHOW = """
const c = compounds.indexOf(select.value), fit = fits[c],
  round = (value) => Number(value.toPrecision(3))
sources.forEach((source, m) => {
  const top = emphasised[c].includes(m), colour = top ? colours[m] : "#c4c4c4",
    level = top ? "overlay" : "glyph"
  source.data = panels[c][m]
  lines[m].glyph.setv({line_color: colour, line_width: top ? 2.5 : 1})
  bars[m].glyph.setv({line_color: colour})
  dots[m].glyph.setv({line_color: colour, fill_color: colour, size: top ? 8 : 4})
  for (const drawn of [lines[m], bars[m], dots[m]]) drawn.level = level
})
const found = Number.isFinite(fit.ec50),
  bounded = Number.isFinite(fit.low) && Number.isFinite(fit.high)
span.setv({location: found ? fit.ec50 : 1, visible: found})
band.setv({left: bounded ? fit.low : 1, right: bounded ? fit.high : 1, visible: bounded})
const bounds = bounded ? ` (${round(fit.low)} to ${round(fit.high)} µM)` : "",
  ec50 = found && `EC50 ${round(fit.ec50)} µM${bounds}`
document.getElementById(card).querySelector("[data-part=fit]").textContent =
  [fit.status, ec50].filter(Boolean).join(": ")
"""


READ = """
const away = (x, y) => Math.hypot(
  Math.log(x / cb_obj.x) / Math.log(plot.x_range.end / plot.x_range.start), (y - cb_obj.y) / 2)
const seen = sources.flatMap(({data}, m) =>
  lines[m].visible ? data.x.map((x, i) => ({m, i, far: away(x, data.y[i])})) : [])
const near = seen.reduce((best, point) => point.far < best.far ? point : best, {far: 0.05})
if (near.far === 0.05) return
const {x, y, mad, n} = sources[near.m].data, i = near.i
const reading = `${mechanisms[near.m]} at ${Number(x[i].toPrecision(3))} µM: ${y[i].toFixed(2)} \
± ${mad[i].toFixed(2)} (median ± MAD of ${n[i]} wells)`
document.getElementById(card).querySelector("[data-part=point]").textContent = reading
"""


FIT = (
    TOUCH
    + """
const columns = Math.floor((document.getElementById(card).clientWidth - 110) / 190),
  ncols = Math.max(1, Math.min(3, columns))
legend.ncols = ncols
plot.height = 340 + 23 * Math.ceil(legend.items.length / ncols)
"""
)


TURN = (
    "const n = compounds.length; "
    "select.value = compounds[(compounds.indexOf(select.value) + by + n) % n]"
)


MATRIX_LAYOUT = """{controls}<p data-part="count" role="status"></p>
<div class="beside"><div class="drawing">{plot}</div><div class="pair">
<p data-part="distance">Point at a cell, or tap it, to see its two treatments. \
Pinching, or Ctrl with the wheel, zooms.</p>
<div data-part="row"><img class="dark-light" alt=""><p><b></b><br><span></span></p></div>
<div data-part="column"><img class="dark-light" alt=""><p><b></b><br><span></span></p></div>
</div></div>"""


CURVES_LAYOUT = """{controls}<p data-part="fit" role="status"></p>
<p data-part="point">Point at a mark, or tap it, to read it. \
A click in the legend hides a line.</p>{plot}"""


HEADER = (
    ".slick-header-columns .slick-header-column "
    "{ height: 3.8em; line-height: 1.2; white-space: normal; }"
)


class Interactive:
    """HTML that a notebook shows.

    The first one shown in a process is given the library, and keeps it.
    """

    carrier: ClassVar["Interactive | None"] = None

    def __init__(self, body: str):
        self.body = body

    def _repr_html_(self) -> str:
        Interactive.carrier = Interactive.carrier or self
        return (library() if Interactive.carrier is self else "") + self.body


def library() -> str:
    """Return the style of the cards and the scripts of Bokeh, some 2 MB of HTML."""
    return (
        STYLE
        + Resources(
            mode="inline", components=["bokeh", "bokeh-widgets", "bokeh-tables"], log_level="warn"
        ).render_js()
    )


def data_uri(image: np.ndarray, side: int = THUMBNAIL, quality: int = 80) -> str:
    """Return a (h, w, 3) uint8 image as an address that holds it.

    It is a JPEG of at most `side` pixels a side.
    """
    small, file = Image.fromarray(image), io.BytesIO()
    small.thumbnail((side, side))
    small.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _new_id() -> str:
    return f"card-{uuid.uuid4().hex}"


def _card(
    card: str, layout: str, alt: str, roots: Mapping[str, Model], *ready: CustomJS
) -> Interactive:
    """Set each root in its place in the layout, which names it in braces.

    `ready` runs once all are drawn.
    """
    document = Document()
    for root in roots.values():
        document.add_root(root)
    document.js_on_event("document_ready", *ready)
    script, elements = components(dict(roots))
    return Interactive(_figure(card, layout.format(**elements), alt) + script)


def _figure(card: str, content: str, alt: str) -> str:
    opening = (
        f'<figure id="{card}" class="interactive-card tex2jax_ignore mathjax_ignore" '
        f'role="group" aria-label="{html.escape(alt)}">'
    )
    return f"{opening}{content}</figure>"


def _need(frame: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        raise InputError(
            f"this figure needs the columns {', '.join(columns)}; these are missing", missing
        )


def _plot(name: str, **options) -> figure:
    """Return an empty plot, saved as `name`.

    The wheel zooms with Ctrl only, or no one could scroll past it.
    """
    wheel = WheelZoomTool(modifiers={"ctrl": True})
    plot = figure(
        tools=["pan", "box_zoom", wheel, "reset", SaveTool(filename=name)],
        active_drag="box_zoom",
        active_scroll=wheel,
        sizing_mode="stretch_width",
        toolbar_location="right",
        **options,
    )
    plot.toolbar.logo = None
    return plot


def _on_point(plot: figure, point: CustomJS) -> None:
    for event in ("mousemove", "tap"):
        plot.js_on_event(event, point)


def _controls(hint: str, search: CustomJS, save: CustomJS) -> Model:
    text, button = (
        TextInput(title="Search", placeholder=hint, sizing_mode="stretch_width"),
        Button(label="Download CSV", width=120, align="end"),
    )
    text.js_on_change("value_input", search)
    button.js_on_click(save)
    return row(text, button, sizing_mode="stretch_width")


def matrix(
    distances: np.ndarray,
    table: pd.DataFrame,
    thumbnails: Sequence[np.ndarray],
    alt: str = "Distance matrix of all treatments",
) -> Interactive:
    """Show the ordered distances of all treatments (Supplementary Table 7).

    Pointing at one shows both treatments. Blue is near, yellow is far; white squares are clusters,
    red bands what a search has found.

    Parameters
    ----------
    distances : (n, n) array
        Cosine distances in the order to be shown; the page holds 4 decimals.
    table : DataFrame
        The n treatments in that order: ``name``, ``cluster`` and perhaps ``Metadata_MoA``.
    thumbnails : sequence of n (h, w, 3) uint8 arrays
        An image of each treatment.
    alt : str
        What the figure is, for those who cannot see it.

    Raises
    ------
    InputError
        If the numbers of treatments differ or a column is missing.
    """
    _need(table, "name", "cluster")
    n, card = len(table), _new_id()
    if distances.shape != (n, n) or len(thumbnails) != n:
        raise InputError(
            f"expected distances and thumbnails of {n} treatments, found {distances.shape} and "
            f"{len(thumbnails)}"
        )
    names, clusters = table["name"].astype(str).tolist(), table["cluster"].to_numpy()
    mechanisms = table["Metadata_MoA"].fillna("").tolist() if "Metadata_MoA" in table else [""] * n
    notes = [
        f"cluster {cluster}" + (f", {mechanism}" if mechanism else "")
        for cluster, mechanism in zip(clusters, mechanisms, strict=True)
    ]
    source = ColumnDataSource({"image": [np.round(distances.clip(0) / STEP).astype(np.uint16)]})
    bands = ColumnDataSource({"start": [], "stop": []})
    plot = _matrix_plot(source, bands, clusters, max(float(distances.max()), STEP))
    known = {"card": card, "names": names, "source": source, "step": STEP}
    _on_point(
        plot,
        CustomJS(
            args=known | {"notes": notes, "thumbnails": [data_uri(image) for image in thumbnails]},
            code=POINT,
        ),
    )
    search = CustomJS(
        args={"card": card, "names": names, "mechanisms": mechanisms, "bands": bands}, code=MARK
    )
    controls = _controls(
        "part of a name or mechanism", search, CustomJS(args=known, code=SAVE_MATRIX)
    )
    return _card(
        card,
        MATRIX_LAYOUT,
        alt,
        {"controls": controls, "plot": plot},
        CustomJS(args={"plot": plot}, code=TOUCH),
    )


def _matrix_plot(
    source: ColumnDataSource, bands: ColumnDataSource, clusters: np.ndarray, largest: float
) -> figure:
    """Draw distances up to `largest`, a square around each run of equal clusters, and bands.

    The bands go across from ``start`` to ``stop``.
    """
    n = len(clusters)
    edges = np.array([0, *(np.flatnonzero(clusters[1:] != clusters[:-1]) + 1), n])
    plot = _plot("distances", aspect_ratio=0.95, x_range=(0, n), y_range=(n, 0))
    plot.axis.visible = plot.grid.visible = False
    # Bokeh's stub lacks color_mapper, its documentation has it.
    plot.image(  # type: ignore[call-arg]
        "image",
        x=0,
        y=0,
        dw=n,
        dh=n,
        source=source,
        color_mapper=LinearColorMapper(palette=Cividis256, low=0, high=largest / STEP),
    )
    plot.quad(
        left=edges[:-1],
        right=edges[1:],
        top=edges[:-1],
        bottom=edges[1:],
        fill_color=None,
        line_color="white",
    )
    plot.quad(left=0, right=n, top="start", bottom="stop", source=bands, color="red", alpha=0.3)
    plot.quad(left="start", right="stop", top=0, bottom=n, source=bands, color="red", alpha=0.3)
    scale = LinearColorMapper(palette=Cividis256, low=0, high=largest)
    plot.add_layout(
        ColorBar(
            color_mapper=scale,
            title="cosine distance",
            height=10,
            padding=2,
            margin=0,
            title_standoff=2,
        ),
        "below",
    )
    return plot


def table(
    frame: pd.DataFrame, formats: Mapping[str, str] = {}, alt: str = "Searchable table"
) -> Interactive:
    """Show a table to sort and to search.

    One is the similarity of wells to mechanisms (Supplementary Table 6). A row stays if every word
    of the search occurs in its text columns. CSV holds the rows shown, as they are sorted, at full
    precision.

    Parameters
    ----------
    frame : DataFrame
        Columns of numbers stay numbers, all others are shown as text.
    formats : mapping of str to str
        How columns of numbers are written, such as ``"0.000"``; by default ``"0.00"``, whole
        numbers ``"0"``.
    alt : str
        What the table is, for those who cannot see it.
    """
    card, titles = _new_id(), [str(name) for name in frame]
    data, columns, searched = _columns(frame, titles, formats)
    source, chosen = ColumnDataSource(data), BooleanFilter()
    grid = DataTable(
        source=source,
        columns=columns,
        view=CDSView(filter=chosen),
        index_position=None,
        reorderable=False,
        autosize_mode="none",
        sizing_mode="stretch_width",
        height=430,
        stylesheets=[HEADER],
    )
    search = CustomJS(
        args={"card": card, "source": source, "filter": chosen, "searched": searched}, code=SEARCH
    )
    save = CustomJS(args={"grid": grid, "source": source, "titles": titles}, code=SAVE_TABLE)
    layout = (
        '{controls}<p data-part="count" role="status">'
        f"{len(frame)} of {len(frame)} rows</p>{{grid}}"
    )
    return _card(
        card,
        layout,
        alt,
        {"controls": _controls("words, all of which must occur", search, save), "grid": grid},
    )


def _columns(
    frame: pd.DataFrame, titles: Sequence[str], formats: Mapping[str, str]
) -> tuple[dict[str, Any], list[TableColumn], list[str]]:
    """Return the columns of a table as data, as what is shown, and the names of those of text."""
    data: dict[str, Any] = {}
    columns, searched = [], []
    for i, title in enumerate(titles):
        values, field = frame.iloc[:, i], f"column{i}"
        longest = max(map(len, ["figure", *title.split()]))
        shown: StringFormatter  # of which NumberFormatter is a kind
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            default = "0" if pd.api.types.is_integer_dtype(values) else "0.00"
            data[field] = values.to_numpy(float, na_value=np.nan)
            shown = NumberFormatter(format=formats.get(title, default), text_align="right")
        else:
            data[field] = values.astype(object).where(values.notna(), "").map(str).tolist()
            shown = StringFormatter()
            searched.append(field)
            longest = max(longest, min(20, max(map(len, data[field]), default=0)))
        # The grid takes a title as HTML, and a cell as text.
        width = 22 + 6 * longest
        columns.append(
            TableColumn(field=field, title=html.escape(title), formatter=shown, width=width)
        )
    return data, columns, searched


def _panels(
    points: pd.DataFrame, compounds: list, mechanisms: list
) -> tuple[list[list[dict]], list[list[int]]]:
    """Return what to draw of each compound and mechanism.

    Return also which mechanisms of each compound are drawn in colour.
    """
    points = points.sort_values("concentration").assign(
        low=points["median"] - points["mad"], high=points["median"] + points["mad"]
    )
    points["ring"] = points["median"].where(points["annotated"])
    drawn = points.round(dict.fromkeys(("median", "mad", "low", "high", "ring"), 4)).rename(
        columns={"concentration": "x", "median": "y"}
    )
    of_one = {
        key: part[["x", "y", "mad", "low", "high", "n", "ring"]].to_dict("list")
        for key, part in drawn.groupby(["compound", "mechanism"])
    }
    nothing = drawn.iloc[:0][["x", "y", "mad", "low", "high", "n", "ring"]].to_dict("list")
    peaks = (
        points.groupby(["compound", "mechanism"])["median"]
        .max()
        .sort_values(ascending=False, kind="stable")
    )
    annotated = points[points["annotated"]].groupby("compound")["mechanism"].unique()
    tops = [
        {*annotated.get(compound, []), *peaks[compound].index[:EMPHASISED]}
        for compound in compounds
    ]
    return (
        [
            [of_one.get((compound, mechanism), nothing) for mechanism in mechanisms]
            for compound in compounds
        ],
        [[m for m, mechanism in enumerate(mechanisms) if mechanism in top] for top in tops],
    )


def _draw(plot: figure, first: list[dict]) -> dict[str, list]:
    """Draw each mechanism's line, bars, marks and rings, to be filled anew for each compound.

    Bars and rings hide with the line.
    """
    drawn: dict[str, list] = {
        "sources": [ColumnDataSource(data) for data in first],
        "lines": [],
        "bars": [],
        "dots": [],
    }
    for m, source in enumerate(drawn["sources"]):
        line, bars = (
            plot.line("x", "y", source=source),
            plot.segment("x", "low", "x", "high", source=source),
        )
        dots = plot.scatter("x", "y", source=source, marker=MARKERS[m % len(MARKERS)])
        ring = plot.scatter(
            "x",
            "ring",
            source=source,
            size=18,
            fill_color=None,
            line_color="#222",
            line_dash=[4, 3],
        )
        for other in (bars, ring):
            line.js_link("visible", other, "visible")
        for name, renderer in (("lines", line), ("bars", bars), ("dots", dots)):
            drawn[name].append(renderer)
    return drawn


def curves(
    points: pd.DataFrame,
    fits: pd.DataFrame,
    alt: str = "Similarity to each mechanism against concentration",
) -> Interactive:
    """Browse all compounds: similarity to each mechanism against concentration.

    This is Supplementary Fig. 1. The annotated mechanism and the `EMPHASISED` most similar are
    coloured, the others grey. Bars are one median absolute deviation (MAD) to each side, dashed
    rings annotated concentrations, the vertical line and its band the EC50 that was fitted.

    Parameters
    ----------
    points : DataFrame
        One row per ``compound``, ``concentration`` (uM, above 0) and ``mechanism``: ``median`` and
        ``mad`` of the similarity (0 to 2) over ``n`` wells, and whether that is ``annotated``
        (bool); `mcnn_core.analysis.response.curves` returns it. Without points the figure says *not
        available*.
    fits : DataFrame
        One row per ``compound``: ``ec50`` with its bounds ``low`` and ``high`` (uM, NaN where there
        is none), and what came of it in words, ``status``; from
        `mcnn_core.analysis.response.potency`.
    alt : str
        What the figure is, for those who cannot see it.

    Raises
    ------
    InputError
        If a column is missing or a concentration is not above 0.
    """
    _need(points, "compound", "concentration", "mechanism", "median", "mad", "n", "annotated")
    _need(fits, "compound", "ec50", "low", "high", "status")
    bad = points.loc[~(points["concentration"] > 0), "compound"].astype(str).unique()
    if len(bad):
        raise InputError(
            "concentrations on a logarithmic axis are above 0 uM; these compounds have others",
            list(bad),
        )
    card = _new_id()
    if points.empty:
        return Interactive(_figure(card, "<p>not available</p>", alt))
    compounds = list(dict.fromkeys(points["compound"]))
    mechanisms = sorted(set(points["mechanism"]), key=lambda name: (name == CONTROL, name))
    panels, emphasised = _panels(points, compounds, mechanisms)
    ends = points["concentration"].min() / 2, points["concentration"].max() * 2
    plot = _plot("curves", height=480, x_axis_type="log", x_range=ends, y_range=(-0.05, 2.05))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "concentration (µM)", "similarity (0 to 2)"
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[000000]")
    drawn, named = _draw(plot, panels[0]), {"card": card, "compounds": compounds}
    legend = _legend(mechanisms, drawn)
    plot.add_layout(legend, "below")
    colours = [COLOURS[m % len(COLOURS)] for m in range(len(mechanisms))]
    if CONTROL in mechanisms:
        colours[-1] = "#000000"
    select = Select(
        title="Compound", options=compounds, value=compounds[0], sizing_mode="stretch_width"
    )
    known = fits.set_index("compound").reindex(compounds).fillna({"status": ""})
    look = {"panels": panels, "emphasised": emphasised, "colours": colours}
    look |= {"select": select, "fits": known.to_dict("records"), **_potency(plot)}
    show = CustomJS(code=SHOW, args=drawn | named | look)
    select.js_on_change("value", show)
    seen = {"card": card, "plot": plot, "mechanisms": mechanisms}
    _on_point(plot, CustomJS(args=drawn | seen, code=READ))
    controls = row(select, *_turns(select, compounds), sizing_mode="stretch_width")
    fit = CustomJS(args={"card": card, "plot": plot, "legend": legend}, code=FIT)
    return _card(card, CURVES_LAYOUT, alt, {"controls": controls, "plot": plot}, fit, show)


def _legend(mechanisms: list[str], drawn: dict[str, list]) -> Legend:
    """Name the lines of the mechanisms; a click hides one."""
    items = [
        LegendItem(
            label={"value": name if len(name) <= 26 else name[:25] + "…"}, renderers=[line, dot]
        )
        for name, line, dot in zip(mechanisms, drawn["lines"], drawn["dots"], strict=True)
    ]
    return Legend(
        items=items,
        click_policy="hide",
        ncols=3,
        location="top_left",
        label_text_font_size="12px",
        border_line_color=None,
    )


def _potency(plot: figure) -> dict[str, Model]:
    """Add to a plot the line of an EC50, ``span``, and the band of its interval, ``band``."""
    found: dict[str, Any] = {
        "span": Span(dimension="height", line_color="#222", visible=False),
        "band": BoxAnnotation(fill_color=PALETTE[5], fill_alpha=0.2, visible=False),
    }
    for mark in found.values():
        plot.add_layout(mark)
    return found


def _turns(select: Select, compounds: list) -> list[Button]:
    """Return the buttons that go to the previous and the next compound."""
    buttons = []
    for label, width, by in (("Previous", 80, -1), ("Next", 60, 1)):
        button = Button(label=label, width=width, align="end")
        args = {"select": select, "compounds": compounds, "by": by}
        button.js_on_click(CustomJS(args=args, code=TURN))
        buttons.append(button)
    return buttons
