import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from mcnn_book import figures
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.novelty import COLUMNS
from mcnn_core.analysis.response import CAUTIONS, NO_FIT, hill
from mcnn_core.screen import CONTROL

GENERATOR = np.random.default_rng(0)
FIELD = GENERATOR.integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture
def ax():
    figure, axes = plt.subplots(layout="constrained")
    yield axes
    figure.canvas.draw()
    plt.close(figure)


@pytest.fixture
def table():
    rows = [(m, f"c{m}{c}", d) for m in ("Aur", "Eg5", "KI") for c in (1, 2) for d in (0.1, 3.0)]
    return pd.DataFrame(
        rows, columns=["Metadata_MoA", "Metadata_Compound", "Metadata_Concentration"]
    )


def texts(ax):
    return [text.get_text() for text in ax.texts]


def bars(ax):
    return [other.get_ylabel() for other in ax.figure.axes if other.get_label() == "<colorbar>"]


def marks(ax):
    """Return the points of a scatter by colour and marker, in the order of their first points."""
    (points,) = ax.collections
    found = {}
    kinds = zip(points.get_facecolors().tolist(), points.get_paths(), strict=True)
    for (colour, path), place in zip(kinds, points.get_offsets().tolist(), strict=True):
        found.setdefault((tuple(colour), path.vertices.tobytes()), []).append(place)
    return list(found.values())


def test_composite_colours():
    pure = figures.composite(np.eye(3, dtype=np.uint8)[None] * 255)
    np.testing.assert_allclose(pure[0], figures.CHANNEL_COLOURS[:3], atol=1e-6)
    grey = figures.composite(np.full((2, 2, 1), 51, np.uint8))
    np.testing.assert_allclose(grey, 0.2, atol=1e-6)
    assert figures.composite(np.full((2, 2, 6), 255, np.uint8)).max() == 1
    # Many channels do not add up to white.
    assert figures.composite(np.full((2, 2, 6), 100, np.uint8)).max() < 1


def test_fields_have_scale_bars_where_the_pixel_size_is_known(ax):
    assert figures.show_field(ax, FIELD, 2.0, 20, ("DNA", "Actin", "Tubulin"), "well B02") is ax
    assert texts(ax) == ["20 µm", "DNA", "Actin", "Tubulin"] and ax.get_title() == "well B02"
    assert ax.patches[0].get_width() == 10  # 20 um at 2 um per pixel
    ax.clear()
    assert not figures.show_field(ax, FIELD[..., :1]).patches


def test_contact_sheet(ax):
    figures.contact_sheet(ax, [FIELD] * 5, list("abcde"), columns=3, pixel_size=1)
    assert [child.get_title() for child in ax.child_axes] == list("abcde")
    assert [len(child.patches) for child in ax.child_axes] == [1, 0, 0, 0, 0]
    with pytest.raises(ValueError):
        figures.contact_sheet(ax, [FIELD], ["a", "b"])


def test_plate_maps_of_words_and_numbers(ax):
    wells = pd.DataFrame(
        {
            "Metadata_Well": ["B02", "B02", "C03", "G11"],
            "Metadata_Compound": ["DMSO", "DMSO", "x", ""],
            "Metadata_Concentration": [0.0, 0.0, 1.0, 3.0],
        }
    )
    figures.plate_map(ax, wells, "Metadata_Compound")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["(none)", "DMSO", "x"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["B", "C", "G"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column", "row") and not bars(ax)
    ax.clear()
    figures.plate_map(ax, wells, "Metadata_Concentration", "concentration (µM)")
    assert bars(ax) == ["concentration (µM)"]


@pytest.mark.parametrize("plates", [2, 12])
def test_histograms(ax, plates):
    figures.histograms(
        ax, {f"P{i}": FIELD for i in range(plates)}, np.linspace(0, 256, 9), "8-bit intensity"
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("8-bit intensity", "pixels (%)")
    assert (ax.get_legend() is not None) == (plates == 2)
    # a bin's height stands at its left edge, the last one's again at the right
    heights = ax.get_lines()[0].get_ydata()
    assert heights[:-1].sum() == pytest.approx(100) and len(heights) == 9


def test_layers_of_a_young_network(ax):
    rows = [
        {"layer": layer, "initialisation": start, "moment": moment, "spread": 0.5}
        for layer in ("1 x 1", "scores")
        for start in ("xavier", "scaled")
        for moment in ("at the start", "after 9 steps")
    ]
    figures.by_layer(ax, pd.DataFrame(rows), "spread", "spread of answers", log=True)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1 x 1", "scores"]
    assert ax.get_ylabel() == "spread of answers" and ax.get_yscale() == "log"
    shown = {text.get_text() for text in ax.get_legend().get_texts()}
    assert {"xavier", "scaled", "at the start", "after 9 steps"} <= shown


def test_training_and_components(ax):
    history = pd.DataFrame({"epoch": [1, 2], "loss": [4.0, 2.0], "accuracy": [0.1, 0.6]})
    figures.loss_curves(ax, history, classes=103)
    right = ax.figure.axes[-1]
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "loss",
        "guessing among 103",
        "accuracy",
    ]
    assert (
        "nats" in ax.get_ylabel()
        and "%" in right.get_ylabel()
        and right.get_lines()[0].get_ydata()[1] == 60
    )
    assert ax.get_lines()[1].get_ydata()[0] == pytest.approx(4.6347, abs=1e-4)
    ax.clear()
    figures.scree(ax, np.array([0.7, 0.2, 0.09]))
    assert ax.get_lines()[0].get_ydata() == pytest.approx([70, 90, 99]) and texts(ax) == ["99 %"]


def test_distance_matrix_and_its_zoom(ax, table):
    distances = cosine_distances(GENERATOR.normal(size=(12, 5)))
    figures.distance_matrix(ax, distances, table, frame=(4, 8))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Aur", "Eg5", "KI"]
    assert ax.get_yticks().tolist() == [2, 6, 10] and bars(ax) == ["cosine distance"]
    assert len(ax.get_lines()) == 4 and ax.patches[0].get_width() == 4
    figure, zoom = plt.subplots()
    table.loc[3, "Metadata_Concentration"] = np.nan
    figures.distance_matrix(zoom, distances, table, only=(2, 6))
    names = [tick.get_text() for tick in zoom.child_axes[0].get_yticklabels()]
    assert names == ["cAur2 0.1 µM", "cAur2", "cEg51 0.1 µM", "cEg51 3 µM"]
    enlarged, whole = zoom.collections[0], ax.collections[0]
    assert enlarged.get_clim() == whole.get_clim() and enlarged.get_array().shape == (4, 4)
    plt.close(figure)


def test_confusion_matrix(ax):
    counts = pd.DataFrame([[3, 1, 0], [0, 0, 0], [0, 0, 2]], list("abc"), list("abc"))
    figures.confusion_matrix(ax, counts)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    assert texts(ax) == ["3", "1", "", "", "", "2"]
    shown = ax.collections[0].get_array()
    assert shown[0].tolist() == [75, 25, 0] and np.ma.getmaskarray(shown)[1].all()
    assert bars(ax) == ["of the true mechanism (%)"]


def test_accuracy_bars_tell_live_from_recorded_and_floors(ax):
    table = pd.DataFrame(
        {
            "method": ["M-CNN", "M-CNN", "handcrafted", "chance"],
            "overall": [0.9, 0.8, 0.6, 0.06],
            "low": [0.8, 0.7, 0.5, np.nan],
            "high": [0.95, 0.9, 0.7, np.nan],
            "recorded": [False, True, True, False],
        }
    )
    figures.accuracy_bars(ax, table)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["M-CNN", "handcrafted", "chance"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "this run",
        "recorded",
        "expected, no image",
    ]
    assert "95 %" in ax.get_xlabel()
    plain, axes = plt.subplots()
    fresh = table.assign(method="handcrafted", overall=[0.5, 0.7, 0.6, 0.06])
    figures.accuracy_bars(axes, table.drop(columns="recorded"), fresh)
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "recorded" not in said and "range of fresh screens" in said
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((50, 20))
    assert band.get_y() < 1 < band.get_y() + band.get_height()  # at the method's line
    plt.close(plain)


def test_embedding_gives_every_label_its_own_mark(ax):
    labels = pd.Series([f"m{i:02d}" for i in range(24)])
    assert len(set(figures._classes(labels, "")[1].values())) == 24
    alike = ["x" * 30 + middle + "y" * 30 for middle in "ab"]
    assert len(set(figures._classes(alike, "")[0])) == 2
    points = GENERATOR.normal(size=(30, 2))
    figures.embedding(ax, points[:12], labels[:12].replace("m00", ""), "component 1", "component 2")
    assert len(marks(ax)) == 12 and legend(ax)[0] == "not annotated"
    assert ax.get_xlabel() == "component 1"
    ax.clear()
    figures.embedding(
        ax, points, pd.Series(range(30)).map("m{:02d}".format), "component 1", "component 2"
    )
    assert ax.get_legend() is None and ax.get_title("right") == "30 different values, marks repeat"


def style(handle):
    """Return what tells an entry of a legend from others: colours, marker, kind of line."""
    one = handle[0] if isinstance(handle, tuple) else handle
    if isinstance(one, Line2D):
        inner = one.get_markerfacecolor()
        filled = inner if isinstance(inner, str) and inner == "none" else to_hex(inner)
        return to_hex(one.get_color()), one.get_marker(), filled, one.get_linestyle()
    if isinstance(one, PathCollection):
        shape = one.get_paths()[0].vertices.round(3).tobytes()
        return to_hex(one.get_facecolor()[0], True), shape
    colour = one.get_edgecolor()[0] if isinstance(one, LineCollection) else one.get_facecolor()
    return to_hex(colour, True), type(one).__name__


def entries(ax):
    """Return the style of each entry of a legend by its name."""
    handles, names = ax.get_legend_handles_labels()
    return {name: style(handle) for handle, name in zip(handles, names, strict=True)}


KINDS = [f"m{n:02d}" for n in range(12)] + [CONTROL]
DOSES = pd.DataFrame(  # each mechanism is the most similar at one dose
    [
        (10.0**dose, name, 2.0 if n == dose else 1.0)
        for dose in range(13)
        for n, name in enumerate(KINDS)
    ],
    columns=["concentration", "mechanism", "median"],
).assign(compound="drug", mad=0.1, n=3, annotated=False)
ACCURACIES = pd.DataFrame(
    {
        "method": ["a", "a", "chance"],
        "overall": [0.9, 0.8, 0.1],
        "low": [0.8, 0.7, np.nan],
        "high": [0.95, 0.9, np.nan],
        "recorded": [False, True, False],
    }
)
GROWTH = pd.DataFrame(
    [(n, stage, n) for n in (10, 100) for stage in "abcdef"], columns=["n_fields", "stage", "h"]
)


@pytest.mark.parametrize(
    ("draw", "n"),
    [
        (lambda ax: figures.response_curves(ax, DOSES, 13), 13),
        (lambda ax: figures.embedding(ax, np.ones((13, 2)), pd.Series(KINDS), "", ""), 13),
        (lambda ax: figures.histograms(ax, dict.fromkeys("abcdefgh", FIELD), np.arange(9), ""), 8),
        (
            lambda ax: figures.simulated_and_real(
                ax, np.arange(1, 4), np.ones((6, 3)), np.ones((6, 3)), list("abcdef"), "", ""
            ),
            12,
        ),
        (lambda ax: figures.accuracy_bars(ax, ACCURACIES, ACCURACIES), 4),
        (lambda ax: figures.noise_curves(ax, dict.fromkeys("abcdef", ([1, 10], [1, 2])), ""), 6),
        (lambda ax: figures.growth_curves(ax, GROWTH, "h", "", {}), 6),
    ],
    ids=["response", "embedding", "histograms", "spectra", "accuracy", "noise", "growth"],
)
def test_no_two_drawn_styles_of_a_figure_agree(ax, draw, n):
    """And grey is the negative control's alone, where there is one."""
    draw(ax)
    drawn = entries(ax)
    assert len(drawn) == n and len(set(drawn.values())) == n
    if CONTROL in drawn:
        grey = [name for name, (c, *_) in drawn.items() if c[1:3] == c[3:5] == c[5:7]]
        assert grey == [CONTROL]


def test_simulated_and_real(ax):
    x, curves = np.geomspace(0.02, 0.4, 5), GENERATOR.normal(size=(3, 5))
    figures.simulated_and_real(
        ax, x, curves, curves, ("DNA", "Actin", "Tubulin"), "frequency (1/µm)", "power"
    )
    assert len(ax.get_lines()) == 6 and "DNA, real" in [
        text.get_text() for text in ax.get_legend().get_texts()
    ]
    assert ax.get_xscale() == "log"


def test_method_overview(ax, table):
    features = GENERATOR.normal(size=(12, 5))
    names = (table.Metadata_Compound + table.Metadata_Concentration.map(str)).tolist()
    figures.method_overview(
        ax, {"one": [FIELD] * 2, "two": [FIELD] * 3}, features, cosine_distances(features), names
    )
    assert set(names) <= set(texts(ax)) and {"one", "two", "fusion", "128"} <= set(texts(ax))
    assert len(ax.child_axes) == 5 + 3


def test_what_is_not_there_is_said(ax):
    for draw, table in (
        (figures.accuracy_bars, pd.DataFrame(columns=["method", "overall"])),
        (figures.confusion_matrix, pd.DataFrame()),
    ):
        assert draw(ax, table).texts[-1].get_text() == "not available"


def test_plates_of_1536_wells(ax):
    wells = pd.DataFrame(
        {"Metadata_Well": ["B02", "AF48", "Z01", "AA01"], "Metadata_control_type": "trt"}
    )
    figures.plate_map(ax, wells, "Metadata_control_type")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B", "Z", "AA", "AF"]
    columns = [label.get_text() for label in ax.get_xticklabels()]
    assert (columns[0], columns[-1], len(columns)) == ("1", "48", 48)


def test_overview_of_one_treatment(ax):
    figures.method_overview(ax, {"p": [FIELD, FIELD]}, np.ones((1, 3)), np.zeros((1, 1)), ["p"])
    assert "p" in [text.get_text() for text in ax.texts]


# --------------------------------------------------------------------- the whole screen


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_similarity_heat_marks_the_largest_of_each_row(ax):
    table = pd.DataFrame(
        {"Aur": [1.8, 0.9], "Eg5": [1.2, np.nan], CONTROL: [0.4, 1.1]}, index=["a 1 µM", "b 3 µM"]
    )
    figures.similarity_heat(ax, table)
    assert bars(ax) == ["similarity (2 - cosine distance)"]
    assert ax.collections[0].get_cmap().name == "cividis_r"  # near is blue, as in distances
    assert ax.collections[0].get_clim() == (0.4, 2)
    assert ax.get_lines()[0].get_xydata().tolist() == [[0.5, 0.5], [2.5, 1.5]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Aur", "Eg5", CONTROL]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a 1 µM", "b 3 µM"]
    other, axes = plt.subplots()
    figures.similarity_heat(axes, table + 0.7)
    assert axes.collections[0].get_clim() == (1, 2)  # similar rows do not spread over all colours
    plt.close(other)


@pytest.fixture
def points():
    """One compound at three doses: most like DMSO, then like Eg5.

    One dose is annotated as Aur, and no dose is most like KI.
    """
    rows = [
        (dose, mechanism, value)
        for mechanism, values in {
            "Aur": (0.9, 1, 1.5),
            CONTROL: (1.9, 1.2, 0.5),
            "Eg5": (1, 1.6, 1.8),
            "KI": (0.5, 0.5, 0.5),
        }.items()
        for dose, value in zip((10.0, 0.1, 1.0), values[::-1], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["concentration", "mechanism", "median"]).assign(
        compound="drug", mad=0.1, n=3
    )
    return table.assign(annotated=(table["mechanism"] == "Aur") & (table["concentration"] == 10))


def test_response_curves_show_annotated_control_and_most_similar(ax, points):
    figures.response_curves(ax, points)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale(), ax.get_title()) == (
        "concentration (µM)",
        "similarity",
        "log",
        "drug",
    )
    assert legend(ax) == ["Aur", CONTROL, "Eg5"]
    drawn = [container.lines[0] for container in ax.containers]
    assert drawn[0].get_xdata().tolist() == [
        0.1,
        1,
        10,
    ]  # left to right, whatever the order of the rows
    ringed = [line.get_xdata().tolist() for line in ax.get_lines() if line.get_markersize() == 11]
    assert ringed == [[10.0], [], []]
    ax.clear()
    figures.response_curves(ax, points, most=2)
    assert legend(ax) == ["Aur", CONTROL]
    ax.clear()
    figures.response_curves(ax, points[points["mechanism"] != CONTROL])
    assert legend(ax) == ["Aur", "Eg5"]


@pytest.mark.parametrize("status", ["fit", NO_FIT["flat"]])
def test_dose_effect_draws_a_curve_where_there_is_one(ax, status):
    dose = np.array([0, 0, 0.1, 1, 1, 10])
    fitted = pd.Series(
        {
            "compound": "drug",
            "status": status,
            "ec50": 0.5,
            "low": 0.2,
            "high": 2.0,
            "hill": 1.5,
            "bottom": 0.1,
            "top": 3.0,
            "caution": "",
        }
    )
    named = fitted.index.isin(["compound", "status", "caution"])
    fitted = fitted if status == "fit" else fitted.where(named)
    figures.dose_effect(ax, dose, np.arange(6.0), fitted)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale(), ax.get_title()) == (
        "concentration (µM)",
        "effect",
        "log",
        "drug" if status == "fit" else f"drug\n{status}",
    )
    controls, wells = marks(ax)
    assert wells == [[0.1, 2], [1, 3], [1, 4], [10, 5]]
    assert controls == [[0.01, 0], [0.01, 1]]  # a decade left of the lowest dose
    rest = [line for line in ax.get_lines() if len(line.get_xdata())]
    assert legend(ax) == ["wells", "controls", *["EC50"] * (status == "fit")] and len(
        ax.patches
    ) == (status == "fit")
    if status == "fit":
        curve, middle = rest
        assert (
            middle.get_xdata() == [0.5, 0.5]
            and ax.patches[0].get_x() == 0.2
            and ax.patches[0].get_width() == pytest.approx(1.8)
        )
        x, y = curve.get_data()
        # Half-way at the EC50.
        assert x[-1] == pytest.approx(10) and np.interp(0.5, x, y) == pytest.approx(1.55, abs=0.01)
        np.testing.assert_allclose(y, hill(x, 0.1, 3, np.log10(0.5), 1.5))


def test_potency_intervals_are_ranked_and_say_why_not(ax):
    table = pd.DataFrame(
        {
            "compound": list("abcd"),
            "ec50": [3.0, np.nan, 0.2, np.nan],
            "low": [1.0, np.nan, 0.1, np.nan],
            "high": [5.0, np.nan, 0.6, np.nan],
            "status": ["fit", NO_FIT["flat"], "fit", NO_FIT["high"]],
            "caution": "",
        }
    )
    figures.potency_intervals(ax, table)
    assert (ax.get_xlabel(), ax.get_xscale()) == ("EC50 (µM)", "log") and legend(ax) == [
        "EC50, 95 % interval"
    ]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "d", "c", "a"] and texts(
        ax
    ) == [NO_FIT["flat"], NO_FIT["high"]]
    assert [text.get_position()[1] for text in ax.texts] == [0, 1]
    (bar,) = ax.containers
    assert bar.lines[0].get_xydata().tolist() == [[0.2, 2], [3, 3]]
    ends = [segment[:, 0] for segment in bar.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.1, 0.6], [1, 5]])
    ax.clear()
    figures.potency_intervals(ax, table, pd.Series({"a": 2.0, "b": 7.0, "c": 0.3}))
    crosses = next(line for line in ax.get_lines() if line.get_label() == "planted EC50")
    np.testing.assert_array_equal(crosses.get_xydata(), [[7, 0], [np.nan, 1], [0.3, 2], [2, 3]])
    ax.clear()
    figures.potency_intervals(ax, table[table["status"] != "fit"])
    assert texts(ax) == [NO_FIT["flat"], NO_FIT["high"]]
    ax.clear()
    doubtful = table["compound"].map({"a": CAUTIONS["place"]}).fillna("")
    figures.potency_intervals(ax, table.assign(caution=doubtful))
    assert legend(ax) == ["EC50, 95 % interval", "EC50, interval not to be trusted"]
    filled, opened = ax.containers
    assert filled.lines[0].get_xydata().tolist() == [[0.2, 2]]
    assert opened.lines[0].get_xydata().tolist() == [[3, 3]]
    assert opened.lines[0].get_markerfacecolor() == "white"


def test_ordered_matrix_frames_clusters_of_two_or_more(ax):
    distances = cosine_distances(GENERATOR.normal(size=(6, 3)))
    figures.ordered_matrix(ax, distances, pd.Series([1, 1, 2, 3, 3, 3], index=range(5, -1, -1)))
    assert ax.get_xlabel() == ax.get_ylabel() == "6 profiles, in the order of the leaves"
    assert bars(ax) == ["cosine distance"]
    assert [
        (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height())
        for frame in ax.patches
    ] == [(0, 0, 2, 2), (3, 3, 3, 3)]
    np.testing.assert_array_equal(ax.collections[0].get_array(), distances)
    ax.clear()
    figures.ordered_matrix(ax, np.zeros((2, 2)), [1, 1])
    assert ax.collections[0].get_clim()[1] > 0


def test_novelty_map_tells_three_kinds(ax):
    table = pd.DataFrame(
        {
            "treatment": list("abcd"),
            "agreement": [0.9, 0.8, 0.1, np.nan],
            "score": [1.0, 0.2, 0.9, 0.5],
            "threshold": [0.3, 0.4, 0.3, np.nan],
            "active": [True, True, False, True],
            "novel": [True, False, False, False],
        }
    )
    figures.novelty_map(ax, table.reindex(columns=COLUMNS))
    assert (
        ax.get_xlabel() == "agreement of replicate wells (cosine)"
        and ax.get_ylabel().startswith("cosine distance to the nearest")
    )
    assert legend(ax) == [
        "no effect seen (1)",
        "in a cluster with something known (2)",
        "novel (1)",
    ]
    assert marks(ax) == [[[0.9, 1.0]], [[0.8, 0.2]], [[0.1, 0.9]]]
    thresholds = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata())]
    assert thresholds == [0.3, 0.4]
    ax.clear()
    single = table.assign(agreement=np.nan)  # no replicates at all
    assert texts(figures.novelty_map(ax, single)) == ["not available"]


def test_distinctness_map_numbers_the_chosen(ax):
    scored = pd.DataFrame(
        {"treatment": list("abc"), "own": [0.1, 0.4, 0.2], "other": [0.9, 0.3, 0.8]}
    )
    figures.distinctness_map(ax, scored, scored.iloc[[2, 0]])
    chosen, rest = marks(ax)
    assert rest == [[0.4, 0.3]] and chosen == [[0.1, 0.9], [0.2, 0.8]]
    assert [(text.get_text(), tuple(text.xy)) for text in ax.texts] == [
        ("1", (0.2, 0.8)),
        ("2", (0.1, 0.9)),
    ]
    line = ax.get_lines()[0]
    assert (line.get_xdata() == line.get_ydata()).all() and legend(ax) == [
        "both equal",
        "other treatments",
        "the first 2 chosen",
    ]
    ax.clear()
    empty = scored.head(0)
    assert figures.distinctness_map(ax, empty, empty) is ax and texts(ax) == ["not available"]


@pytest.mark.parametrize(
    ("draw", "columns"),
    [
        (figures.similarity_heat, []),
        (figures.response_curves, ["compound", "concentration", "mechanism", "median"]),
        (figures.potency_intervals, ["compound", "ec50", "status"]),
        (figures.novelty_map, COLUMNS),
    ],
)
def test_a_screen_without_an_answer_has_no_figure(ax, draw, columns):
    assert draw(ax, pd.DataFrame(columns=columns)) is ax and texts(ax) == ["not available"]
    ax.clear()
    assert texts(figures.similarity_heat(ax, pd.DataFrame(index=["a", "b"]))) == [
        "not available"
    ]  # rows, but nothing to compare with


def test_benchmarks_name_every_case(ax):
    rows = pd.DataFrame(
        {
            "stage": ["read", "train", "profiles"],
            "case": ["8 x 8", "8 x 8", "10 fields"],
            "network": ["", "default", ""],
            "ratio": [1.0, 4.0, np.nan],
            "ratio_low": [0.9, 3.0, np.nan],
            "ratio_high": [1.1, 5.0, np.nan],
            "share": [0.5, 0.02, np.nan],
            "bound": ["bytes", "product", ""],
        }
    )
    names = ["read, 8 x 8", "train, 8 x 8 (default)"]
    figures.bench_ratios(ax, rows)
    assert [label.get_text() for label in ax.get_yticklabels()] == names and ax.lines[
        0
    ].get_xdata().tolist() == [1.0, 4.0]
    ax.clear()
    figures.bench_shares(ax, rows)
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["bytes", "product"]


def test_growth_has_a_curve_per_stage_and_a_line_per_mark(ax):
    table = pd.DataFrame(
        {
            "stage": ["embed", "embed", "train", "train"],
            "n_fields": [10, 100, 10, 100],
            "hours": [1.0, 10.0, 2.0, 20.0],
        }
    )
    figures.growth_curves(ax, table, "hours", "hours", {"mine": 50}, line=15)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "embed",
        "train",
    ] and texts(ax) == ["mine "]
    assert sum(len(line.get_xdata()) > 0 for line in ax.lines) == 4
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_ylabel() == "hours"


def test_weeks_stand_in_the_order_of_their_numbers():
    weeks = ["Week10", "Week2", "Week1", "Week02"]
    assert sorted(weeks, key=figures.by_number)[-1] == "Week10"
    assert list(figures._classes(weeks, "")[1]) == ["Week1", "Week02", "Week2", "Week10"]


def test_a_listed_concentration_keeps_its_digits():
    table = pd.DataFrame({"concentration": [0.001, 30.0], "score": [0.1234, 1.0]})
    shown = figures.listing(table, precision=2).to_html()
    assert "0.001" in shown and ">30<" in shown and "0.12" in shown and "0.1234" not in shown


def test_names_are_shown_as_text_and_cut_in_the_middle(ax):
    assert figures.short("taxol | 0.3") == "taxol | 0.3" and figures.short("_a\nb") == " _a\nb"
    cut = figures.short("x" * 300 + " | 10")
    assert len(cut) == figures.LONGEST and cut.endswith("xxxx | 10") and "…" in cut
    ax.plot([0], [0], label=figures.short("_hidden"))
    ax.set_title(figures.short("$x_{2$ and $\\frac$"))
    ax.legend()
    ax.figure.savefig(io.BytesIO())  # no formula is parsed
    assert legend(ax) == [" _hidden"]
    table = figures.listing(
        pd.DataFrame({"<b>c": ["<i>x", "$y$"], "n": [1.234, 2]}, index=["<u>r", "q"]),
        index=True,
        precision=1,
    ).to_html()
    assert (
        not any(tag in table for tag in ("<i>", "<b>", "<u>"))
        and "1.2" in table
        and "&lt;i&gt;x" in table
        and "mathjax_ignore" in table
    )
    assert (
        figures.colour_words(["DNA", "ER"]) == "DNA blue, ER magenta"
        and figures.colour_words(["BF"]) == "BF in grey"
    )
    figure, axes = figures.panels(3)
    assert len(axes) == 3 == len(figure.axes)
    plt.close(figure)


@pytest.mark.parametrize("limits", [(2.1, 5.6), (1.2, 1.9), (0.5, 30), (0.001, 1000)])
def test_an_axis_of_any_width_has_numbers(ax, limits):
    figures._log_axis(ax, "EC50 (µM)").set_xlim(limits)
    ticks = ax.get_xticks()
    assert 3 <= ((limits[0] <= ticks) & (ticks <= limits[1])).sum() <= 9


def test_numbers_of_marks_that_touch_do_not(ax):
    marks = np.array([(0.4, 0.95), (0.405, 0.955), (0.41, 0.95), (0.4, 0.945)])
    shifts = figures._free_places(ax, marks, np.empty((0, 2)))
    places = marks * ax.figure.get_size_inches() * 72 * 0.75 + shifts
    apart = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(4, 1)]
    assert apart.min() > 7


def test_ways_above_the_mark_are_framed(ax):
    ways = pd.DataFrame(
        [("a", "all", way, share) for way, share in (("raw", 0.5), ("whitened", 0.9))],
        columns=["scaling", "features", "whitening", "overall"],
    )
    figures.ways_heat(ax, ways, "overall", 0.88)
    assert [patch.get_xy() for patch in ax.patches] == [(1, 0)]
    assert [text.get_text() for text in ax.texts] == ["50", "90"]


def test_a_large_matrix_is_an_image_on_the_same_axes(monkeypatch):
    distances, clusters = np.random.default_rng(0).random((6, 6)), np.array([1, 1, 2, 3, 3, 3])
    limits = []
    for most in (10, 3):
        monkeypatch.setattr(figures, "MOST_CELLS", most)
        figure, ax = plt.subplots()
        figures.ordered_matrix(ax, distances, clusters)
        limits.append((ax.get_xlim(), ax.get_ylim(), len(ax.patches), len(figure.axes)))
        assert bool(ax.images) == (most == 3)
        plt.close(figure)
    assert limits[0] == limits[1] == ((0, 6), (6, 0), 2, 2)


def test_distances_beside_counts_are_marked_by_what_replicates_do(ax):
    table = pd.DataFrame(
        {
            "share_of_controls": [0.5, 1.0, 1.1],
            "distance": [9.0, 1.0, 2.0],
            "distance_left": [1.0, 1.0, 2.0],
            "replicates": ["agree", "do not agree", "not tested"],
            "replicates_left": "not tested",
        }
    )
    figures.beside_count(ax, table)
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["agree", "do not agree", "not tested"]
    assert ax.get_yscale() == "log"


def test_losses_of_channels_and_of_scales_share_their_colours():
    means = pd.DataFrame({"channel A": [0.2, -0.1], "scale 1/1": [0.9, 0.1]}, index=["a", "b"])
    figure, axes = figures.panels(2)
    for ax, kind in zip(axes, ("channel", "scale"), strict=True):
        figures.occlusion_heat(ax, means, kind)
    assert [text.get_text() for text in axes[1].get_xticklabels()] == ["1/1"]
    assert len({one.collections[0].get_clim() for one in axes}) == 1
    plt.close(figure)


def test_squares_that_matter_are_framed(ax):
    found = np.zeros((4, 5))
    found[2, 3] = 1
    figures.outline_squares(ax, found, 16, most=1)
    assert ax.patches[0].get_xy() == (47.5, 31.5)
