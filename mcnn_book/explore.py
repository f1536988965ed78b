"""One page to look around in a screen: every profile a point.

It has search, colours, a lasso and the fields of each profile. The page is a single file that holds
its data, pictures and scripts and loads nothing; Bokeh draws the points, ``explore.html`` next to
this module does the rest. Names are not trusted: they reach the page as data and are shown as text.
"""

import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from bokeh.document import Document
from bokeh.models import ColumnDataSource, HoverTool, LassoSelectTool, TapTool, WheelZoomTool
from bokeh.plotting import figure
from bokeh.resources import Resources
from PIL import Image
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from mcnn_book.figures import composite
from mcnn_book.interactive import COLOURS, SAVE, data_uri
from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic
from mcnn_core.profiles import feature_matrix
from mcnn_core.screen import REQUIRED, row_names

PERPLEXITY = 30


"""About how many neighbours a point of the plane is placed by.

Fewer where there are fewer than 91 points.
"""


NEIGHBOURS = 10


"""Nearest neighbours that `kept_neighbours` counts."""


PIXELS = 30_000_000


"""Pixels of all pictures in a page, however many fields there are."""


QUALITY = 65


"""Quality of their JPEG."""


MOST_FIELDS = 9


"""Fields shown of one well."""


HEIGHT = 96


"""Rows of a field's picture at most, pixels."""


def _directions(profiles: pd.DataFrame) -> np.ndarray:
    """Return the profiles at length 1.

    Nearest by Euclidean distance is then nearest by cosine distance.
    """
    values = feature_matrix(profiles)
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(min=np.finfo(float).tiny)


def plane(profiles: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Place profiles in a plane so that near neighbours stay near.

    By t-SNE (van der Maaten & Hinton 2008, JMLR 9, 2579).

    Parameters
    ----------
    profiles : DataFrame
        Profile frame of n wells or fields.
    seed : int
        Seed of the descent, which begins at the first two principal components.

    Returns
    -------
    (n, 2) float64 array
        Places without a unit. Who is near whom means something, how far apart groups lie does not.
    """
    units = _directions(profiles)
    if len(units) < 4 or not np.ptp(units, axis=0).any():
        return np.pad(units, ((0, 0), (0, 2)))[:, :2]
    wide = np.pad(units, ((0, 0), (0, max(0, 2 - units.shape[1]))))
    tsne = TSNE(2, perplexity=min(PERPLEXITY, (len(units) - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(wide).astype(float)


def kept_neighbours(profiles: pd.DataFrame, places: np.ndarray) -> float:
    """Return which share of each profile's nearest are also its nearest in the plane.

    Its `NEIGHBOURS` nearest by cosine distance are counted.
    """
    k = min(NEIGHBOURS, len(places) - 1)
    if k < 1:
        return 1.0
    before, after = (
        NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
        for points in (_directions(profiles), places)
    )
    return float(
        np.mean([len(set(one) & set(other)) / k for one, other in zip(before, after, strict=True)])
    )


def pictures(profiles: pd.DataFrame, table: pd.DataFrame, pixels: np.ndarray) -> list[str]:
    """Return an address for each profile that holds its fields side by side, as one JPEG.

    Parameters
    ----------
    profiles : DataFrame
        Rows with ``Metadata_Plate`` and ``Metadata_Well``, and ``Metadata_Site`` if they are single
        fields.
    table : DataFrame
        The screen's table; its row i is row i of `pixels`.
    pixels : (n, H, W, C) uint8 array
        The fields: ``pixels`` of `mcnn_core.store.Store`.

    Raises
    ------
    InputError
        If a profile has no field in the table; all are named.
    """
    keys = [name for name in REQUIRED if name in profiles]
    order = table.reset_index(drop=True).sort_values("Metadata_Site", kind="stable")
    fields = {
        key: part.index[:MOST_FIELDS].tolist() for key, part in order.groupby(keys, sort=False)
    }
    wanted = list(profiles[keys].itertuples(index=False, name=None))
    missing = [
        name for name, key in zip(row_names(profiles), wanted, strict=True) if key not in fields
    ]
    if missing:
        raise InputError("these profiles have no field in the screen's table", missing)
    shown = [fields[key] for key in wanted]
    height, width = pixels.shape[1:3]
    area = PIXELS / max(1, sum(map(len, shown)))
    scale = min(1.0, HEIGHT / height, (area / (height * width)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return [_strip([pixels[row] for row in rows], size) for rows in shown]


def _strip(fields: Sequence[np.ndarray], size: tuple[int, int], gap: int = 2) -> str:
    strip = Image.new("RGB", (len(fields) * (size[0] + gap) - gap, size[1]), "white")
    for place, field in enumerate(fields):
        strip.paste(
            Image.fromarray((composite(field) * 255).astype(np.uint8)).resize(
                size, Image.Resampling.BOX
            ),
            (place * (size[0] + gap), 0),
        )
    return data_uri(np.asarray(strip), max(strip.size), QUALITY)


def _column(values: pd.Series) -> dict:
    """Return a column as the page holds it.

    Numbers (null where there is none), or texts once each and their codes.
    """
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return {"numbers": [None if pd.isna(value) else float(value) for value in values]}
    codes, texts = pd.factorize(values.astype("string").fillna(""), sort=True)
    return {"texts": texts.tolist(), "codes": codes.tolist()}


def _plot(places: np.ndarray, names: Sequence[str]) -> figure:
    """Return the points, grey until the page colours them.

    The wheel zooms with Ctrl only, or no one could scroll past.
    """
    n = len(places)
    x, y = places.round(3).T.tolist()
    columns = {"x": x, "y": y, "name": [name[:120] for name in names]}
    columns |= {"colour": ["#888888"] * n, "marker": ["circle"] * n}
    source = ColumnDataSource(columns, name="points")
    wheel, lasso = WheelZoomTool(modifiers={"ctrl": True}), LassoSelectTool(continuous=False)
    plot = figure(
        tools=["pan", "box_zoom", wheel, lasso, TapTool(), "reset"],
        active_drag=lasso,
        active_scroll=wheel,
        match_aspect=True,
        sizing_mode="stretch_both",
        toolbar_location="above",
        output_backend="canvas",
        name="plot",
        min_height=300,
    )
    plot.toolbar.logo = None
    drawn = plot.scatter(
        "x",
        "y",
        source=source,
        marker="marker",
        fill_color="colour",
        line_color=None,
        size=7 if n < 4000 else 5,
        fill_alpha=0.85,
        nonselection_fill_alpha=0.12,
        selection_fill_alpha=1,
    )
    plot.add_tools(HoverTool(renderers=[drawn], tooltips="@name", attachment="horizontal"))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "t-SNE 1 (no unit)", "t-SNE 2 (no unit)"
    plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_font_size = "0px"
    plot.grid.visible = False
    return plot


def write_page(
    path: str | os.PathLike,
    name: str,
    profiles: pd.DataFrame,
    places: np.ndarray,
    strips: Sequence[str],
) -> None:
    """Write the page: one file that opens from any folder, without network.

    Parameters
    ----------
    path : path
        The page, such as ``explore.html``.
    name : str
        Name of the screen.
    profiles : DataFrame
        n rows; every ``Metadata_*`` column can be searched and colours the points.
    places : (n, 2) array
        Where they lie, as `plane` gives it.
    strips : sequence of n str
        Their fields, as `pictures` gives them.

    Raises
    ------
    InputError
        If the numbers of profiles, places and pictures differ.
    """
    n = len(profiles)
    if np.shape(places) != (n, 2) or len(strips) != n:
        raise InputError(
            f"expected places (n, 2) and pictures of {n} profiles, "
            f"found {np.shape(places)} and {len(strips)}"
        )
    names, document = row_names(profiles), Document()
    plot = _plot(np.asarray(places, float), names)
    document.add_root(plot)
    columns = {
        column.removeprefix("Metadata_"): _column(profiles[column])
        for column in profiles
        if column.startswith("Metadata_")
    }
    data = {
        "columns": columns,
        "names": names,
        "strips": list(strips),
        "palette": COLOURS,
        "plot": {"target_id": "plot", "root_id": plot.id, "doc": document.to_json(deferred=False)},
    }
    parts = {
        "name": html.escape(name),
        "count": f"{n:,}",
        "kept": f"{kept_neighbours(profiles, places):.0%}",
        "nearest": str(min(NEIGHBOURS, n - 1)),
        "save": SAVE,
        "library": Resources(mode="inline", components=["bokeh"], log_level="warn").render_js(),
        # "<" cannot end the script that holds the data if it is never written
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    with atomic(path) as temporary:
        temporary.write_text(
            re.sub(r"\[\[(\w+)\]\]", lambda found: parts[found[1]], template), encoding="utf-8"
        )
