"""The options of the build.

Every one is checked, and all wrong ones are named, before anything runs.
"""

from pathlib import Path

import pytest
from helpers import NOTEBOOK, small_repository

from mcnn_book.__main__ import main
from mcnn_book.simulate import bbbc021 as simulated
from mcnn_book.simulate import kimorph
from mcnn_core import model, preprocessing, profiles, training
from mcnn_core.analysis import methods, response
from mcnn_core.errors import InputError
from mcnn_core.readers import bbbc021, ontology
from tools import book

PARAMETERS = """\
screen = "simulated"
data = ""
layout = "default"
height = 128
reference = "plate-percentile"
network = "default"
recipe = "default"
epochs = 0
workers = 2
supervised = True
core_hour = 0.05
surrogate = ""
scheduler = ""
obo = ""
compounds = "a,b"
"""


@pytest.fixture
def root(tmp_path) -> Path:
    notebooks = [
        NOTEBOOK.format(title=title, parameters=PARAMETERS, prose="Text.", code="1")
        for title in ("First", "Second")
    ]
    return small_repository(
        tmp_path / "repository", *notebooks, "# Small\n", "tiny: {epochs: 2}\ndefault: {}\n"
    )


def build(root: Path, params: str = "", **given: str) -> book.Build:
    return book.Build.from_environment(
        {"OUT": str(root / "_build"), "PARAMS": params, **given}, root
    )


def problems(root: Path, params: str = "", **given: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        build(root, params, **given).parameters()
    return raised.value.problems


@pytest.mark.parametrize("text, value", [
    ("epochs=5", 5), ("core_hour=64e9", 64e9), ("core_hour=2", 2.0), ("supervised=false", False),
    ("supervised=True", True), ("network=published-gap", "published-gap"), ("surrogate=", ""),
    ("compounds='SX-14,a b = {c}'", "SX-14,a b = {c}"), ("compounds=1", "1"),
    ("scheduler=tcp://[::1]:8786", "tcp://[::1]:8786"), ("obo=", ""),
])  # fmt: skip
def test_a_value_has_the_type_of_its_default(root, text, value):
    given = (
        {"SURROGATE": text.partition("=")[2]} if text.startswith("surrogate") else {"params": text}
    )
    found = build(root, **given).parameters()["02_second"].get(text.partition("=")[0], "")
    assert found == value and type(found) is type(value)


def test_a_file_is_found_from_where_the_command_was_given(root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "go.obo").touch()
    assert build(root, "obo=go.obo").parameters()["01_first"]["obo"] == str(root / "go.obo")


def test_every_wrong_value_is_named_with_what_would_be_right(root):
    wrong = {
        "epochs=abc": "a whole number, 0 or more, is needed",
        "height=10": "a whole number, 64 to 10,000, is needed",
        "workers=0": "a whole number, 1 or more, is needed",
        "layout=typo": "known are default, tiny",
        "reference=typo": "known are plate-percentile, dmso",
        "recipe=typo": "known are published, default",
        "network=typo": "known are published, published-gap, default, default-no-norm, "
        "default-three-scales",
        "supervised=2": "True or False is needed",
        "core_hour=nan": "a number, 0 or more, is needed",
        "scheduler=host": "an address, tcp://HOST:PORT, is needed",
        "obo=nowhere.obo": "there is no such file or folder",
        "epoch=3": "there is no such key",
        "out=/elsewhere": "give the variable OUT instead",
        "seed=1": "give the variable SEED instead",
        "compounds": "one value is needed",
    }
    found = problems(root, " ".join(wrong), SURROGATE="Compound")
    assert found == [
        *(f"{text}: {why}" for text, why in wrong.items()),
        "SURROGATE=Compound: names that begin with Metadata_, joined by commas, are needed",
    ]


@pytest.mark.parametrize(
    "value", ["1.5", "-1", "[1,2]", "²", "1_0", "", "9" * 5_000, "{a: 1}", "1e1"]
)
def test_a_number_is_one(root, value):
    assert problems(root, f"epochs='{value}'") == [
        f"epochs={value}: a whole number, 0 or more, is needed"
    ]


def test_a_key_is_given_once(root):
    assert problems(root, "epochs=1 workers=1 epochs=2") == ["epochs is given 2 times"]


@pytest.mark.parametrize("params", ["compounds='a", 'epochs="1', "epochs=1\\"])
def test_broken_quotes_are_an_input_error(root, params):
    assert problems(root, params) == [params]


@pytest.mark.parametrize("seed", ["²", "-1", "1.0", "٣", "1" * 19, " 1"])
def test_a_seed_is_a_whole_number(root, seed):
    with pytest.raises(InputError) as raised:
        build(root, SEED=seed)
    assert raised.value.problems == [f"SEED={seed}: a whole number, 0 or more, is needed"]


def test_a_profile_is_checked_too(root):
    profiles_yml = root / "notebooks/profiles.yml"
    profiles_yml.write_text(
        "default: {epochs: 1.5, network: [default], epoch: 2, core_hour: 64.0e+9, supervised: no}\n"
    )
    assert problems(root) == [
        "PROFILE=default: epochs=1.5: a whole number, 0 or more, is needed",
        "PROFILE=default: network=['default']: one value is needed",
        "PROFILE=default: epoch=2: there is no such key",
    ]
    for text, said in (
        ("default: {", "is no YAML"),
        ("- default", "expected profiles"),
        ("default: 7", "expected profiles"),
        ("", "expected profiles"),
    ):
        profiles_yml.write_text(text)
        with pytest.raises(InputError, match=f"profiles.yml.*{said}"):
            build(root)


def test_a_parameters_cell_that_cannot_be_read_is_an_input_error(root):
    text = root / "notebooks/01_first.md"
    text.write_text(text.read_text().replace("epochs = 0", "epochs = f("))
    with pytest.raises(InputError, match="The cell with the tag parameters"):
        build(root).parameters()


def test_the_names_are_those_of_the_package(tmp_path):
    assert book.RANGES["height"] == book.RANGES["width"] == (64, 10_000)
    assert book.CHOICES["layout"] == tuple(simulated.LAYOUTS) == tuple(kimorph.LAYOUTS)
    assert {
        key: set(names) for key, names in book.CHOICES.items() if key not in ("layout", "taxol")
    } == {
        "reference": set(preprocessing.REFERENCES),
        "illumination": set(preprocessing.ILLUMINATIONS),
        "network": set(model.CONFIGS),
        "recipe": set(training.RECIPES),
        "normalisation": set(methods.SUFFIXES),
        "choice": set(response.CHOICES),
        "gaf_column": set(ontology.GENE_COLUMNS),
        "incomplete": {"refuse", "leave-out"},
        "sizes": {"refuse", "crop"},
    }
    assert set(profiles.NORMALISATIONS) == set(book.CHOICES["normalisation"])
    with pytest.raises(InputError, match=" or ".join(map(repr, book.CHOICES["taxol"]))):
        bbbc021.examine_bbbc021(tmp_path, taxol="typo")


def test_every_rule_is_of_a_parameter_and_the_defaults_and_profiles_keep_them():
    defaults = {
        key: value
        for name in book.notebook_names()
        for key, value in book.known_parameters(book.read_source(name)).items()
    }
    assert {*book.CHOICES, *book.RANGES, *book.FORMS, *book.PATHS, *book.VARIABLES} <= set(defaults)
    assert {key: book.read_value(key, value, value) for key, value in defaults.items()} == defaults
    for profile in book.read_profiles():
        book.Build(profile=profile).parameters()


@pytest.mark.parametrize("command, wrong, low", [
    ("simulate", ["--out", "x", "--seed", "²"], 0),
    ("simulate", ["--screen", "kimorph", "--out", "x", "--seed", "-1"], 0),
    ("simulate", ["--out", "x", "--seed", "0", "--height", "10"], 64),
    ("simulate", ["--out", "x", "--seed", "0", "--workers", "0"], 1),
    ("train", ["--out", "x", "--epochs", "0"], 1), ("train", ["--out", "x", "--seed", "1.5"], 0),
    ("preprocess", ["--screen", "x", "--out", "x", "--bin", "-1"], 0),
])  # fmt: skip
def test_a_number_of_a_command_line_is_one(tmp_path, monkeypatch, capsys, command, wrong, low):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([command, *wrong])
    assert (
        ended.value.code == 2
        and f"{wrong[-2]}: expected a whole number, {low} or more" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
