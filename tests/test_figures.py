import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mcnn_core import figures
from mcnn_core.distances import cosine_distances

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
    return pd.DataFrame(rows, columns=["Metadata_MoA", "Metadata_Compound", "Metadata_Concentration"])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def bars(ax):
    return [other.get_ylabel() for other in ax.figure.axes if other.get_label() == "<colorbar>"]


def test_composite_colours():
    pure = figures.composite(np.eye(3, dtype=np.uint8)[None] * 255)
    np.testing.assert_allclose(pure[0], figures.CHANNEL_COLOURS[:3], atol=1e-6)
    grey = figures.composite(np.full((2, 2, 1), 51, np.uint8))
    np.testing.assert_allclose(grey, 0.2, atol=1e-6)
    assert figures.composite(np.full((2, 2, 6), 255, np.uint8)).max() == 1
    assert figures.composite(np.full((2, 2, 6), 100, np.uint8)).max() < 1  # many channels do not add up to white


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
    wells = pd.DataFrame({"Metadata_Well": ["B02", "B02", "C03", "G11"], "Metadata_Compound": ["DMSO", "DMSO", "x", ""],
                          "Metadata_Concentration": [0.0, 0.0, 1.0, 3.0]})
    figures.plate_map(ax, wells, "Metadata_Compound")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["(none)", "DMSO", "x"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["B", "C", "G"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column", "row") and not bars(ax)
    ax.clear()
    figures.plate_map(ax, wells, "Metadata_Concentration", "concentration (µM)")
    assert bars(ax) == ["concentration (µM)"]


@pytest.mark.parametrize("plates", [2, 12])
def test_histograms(ax, plates):
    figures.histograms(ax, {f"P{i}": FIELD for i in range(plates)}, np.linspace(0, 256, 9), "8-bit intensity")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("8-bit intensity", "pixels (%)")
    assert (ax.get_legend() is not None) == (plates == 2)
    assert sum(ax.patches[0].get_data().values) == pytest.approx(100)


def test_training_and_components(ax):
    history = pd.DataFrame({"epoch": [1, 2], "loss": [4.0, 2.0], "accuracy": [0.1, 0.6]})
    figures.loss_curves(ax, history, classes=103)
    right = ax.figure.axes[-1]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["loss", "guessing among 103", "accuracy"]
    assert "nats" in ax.get_ylabel() and "%" in right.get_ylabel() and right.get_lines()[0].get_ydata()[1] == 60
    assert ax.get_lines()[1].get_ydata()[0] == pytest.approx(4.6347, abs=1e-4)
    ax.clear()
    figures.scree(ax, np.array([0.7, 0.2, 0.09]))
    assert ax.get_lines()[0].get_ydata() == pytest.approx([70, 90, 99]) and texts(ax) == ["99 %"]


def test_distance_matrix_and_its_zoom(ax, table):
    distances = cosine_distances(GENERATOR.normal(size=(12, 5)))
    figures.distance_matrix(ax, distances, table, frame=(4, 8))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Aur", "Eg5", "KI"]
    assert ax.get_yticks().tolist() == [1.5, 5.5, 9.5] and bars(ax) == ["cosine distance"]
    assert len(ax.get_lines()) == 4 and ax.patches[0].get_width() == 4
    figure, zoom = plt.subplots()
    table.loc[3, "Metadata_Concentration"] = np.nan
    figures.distance_matrix(zoom, distances, table, only=(2, 6))
    names = [tick.get_text() for tick in zoom.child_axes[0].get_yticklabels()]
    assert names == ["cAur2 0.1 µM", "cAur2", "cEg51 0.1 µM", "cEg51 3 µM"]
    assert zoom.images[0].get_clim() == ax.images[0].get_clim() and zoom.images[0].get_array().shape == (4, 4)
    plt.close(figure)


def test_confusion_matrix(ax):
    counts = pd.DataFrame([[3, 1, 0], [0, 0, 0], [0, 0, 2]], list("abc"), list("abc"))
    figures.confusion_matrix(ax, counts)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true") and texts(ax) == ["3", "1", "2"]
    shown = ax.images[0].get_array()
    assert shown[0].tolist() == [75, 25, 0] and np.ma.getmaskarray(shown)[1].all()
    assert bars(ax) == ["of the true mechanism (%)"]


def test_accuracy_bars_tell_live_from_recorded_and_floors(ax):
    table = pd.DataFrame({"method": ["M-CNN", "M-CNN", "handcrafted", "chance"], "overall": [0.9, 0.8, 0.6, 0.06],
                          "low": [0.8, 0.7, 0.5, np.nan], "high": [0.95, 0.9, 0.7, np.nan], "recorded": [False, True, True, False]})
    figures.accuracy_bars(ax, table)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["M-CNN", "handcrafted", "chance"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["this run", "recorded", "expected, no image"]
    assert "95 %" in ax.get_xlabel()
    plain, axes = plt.subplots()
    figures.accuracy_bars(axes, table.drop(columns="recorded"))
    assert "recorded" not in [text.get_text() for text in axes.get_legend().get_texts()]
    plt.close(plain)


def test_embedding_gives_every_label_its_own_mark(ax):
    labels = pd.Series([f"m{i:02d}" for i in range(24)])
    assert len({style[1:] for style in figures._styles(labels)}) == 24
    points = GENERATOR.normal(size=(30, 2))
    figures.embedding(ax, points[:12], labels[:12].replace("m00", ""), "component 1", "component 2")
    assert len(ax.collections) == 12 and ax.get_legend().get_texts()[0].get_text() == "not annotated"
    assert ax.get_xlabel() == "component 1"
    ax.clear()
    figures.embedding(ax, points, pd.Series(range(30)).map("m{:02d}".format), "component 1", "component 2")
    assert ax.get_legend() is None and ax.get_title("right") == "30 different values, marks repeat"


@pytest.mark.parametrize("logarithmic", [False, True])
def test_simulated_and_real(ax, logarithmic):
    x, curves = np.geomspace(0.02, 0.4, 5), GENERATOR.normal(size=(3, 5))
    figures.simulated_and_real(ax, x, curves, curves, ("DNA", "Actin", "Tubulin"), "frequency (1/µm)", "power", logarithmic)
    assert len(ax.get_lines()) == 6 and "DNA, real" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_xscale() == ("log" if logarithmic else "linear")


def test_method_overview(ax, table):
    features = GENERATOR.normal(size=(12, 5))
    names = (table.Metadata_Compound + table.Metadata_Concentration.map(str)).tolist()
    figures.method_overview(ax, {"one": [FIELD] * 2, "two": [FIELD] * 3}, features, cosine_distances(features), names)
    assert set(names) <= set(texts(ax)) and {"one", "two", "fusion", "128"} <= set(texts(ax))
    assert len(ax.child_axes) == 5 + 3


def test_what_is_not_there_is_said(ax):
    for draw, table in ((figures.accuracy_bars, pd.DataFrame(columns=["method", "overall"])), (figures.confusion_matrix, pd.DataFrame())):
        assert draw(ax, table).texts[-1].get_text() == "not available"


def test_plates_of_1536_wells(ax):
    wells = pd.DataFrame({"Metadata_Well": ["B02", "AF48", "Z01", "AA01"], "Metadata_control_type": "trt"})
    figures.plate_map(ax, wells, "Metadata_control_type")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B", "Z", "AA", "AF"]
    assert ax.get_xticks()[[0, -1]].tolist() == [1, 48]


def test_overview_of_one_treatment(ax):
    figures.method_overview(ax, {"p": [FIELD, FIELD]}, np.ones((1, 3)), np.zeros((1, 1)), ["p"])
    assert "p" in [text.get_text() for text in ax.texts]
