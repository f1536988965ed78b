"""The Makefile: what a user gives it is text and never a command.

And what it installs: exactly what is locked.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = (
    "PROFILE",
    "SCREEN",
    "FEATURES",
    "DATA",
    "PLATEMAP",
    "CHANNELS",
    "OUT",
    "SEED",
    "SURROGATE",
    "PARAMS",
    "ONLY",
    "PATTERN",
    "QUICK",
    "COVERAGE",
    "LARGE",
)
HOSTILE = (
    "x; touch {}",
    "$(shell touch {})",
    "$$(touch {})",
    "$(touch {})",
    "`touch {}`",
    '"; touch {}; "',
    "'; touch {}; '",
    "x\ntouch {}",
    "${{shell touch {}}}",
    "$(eval SHELL := touch {})",
)
TARGETS = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
PYTHON = """#!/bin/sh
printf '%s\\0' "$@" > arguments
env -0 > environment
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs a target of the Makefile with a program in Python's place.

    The program writes down what it is given.
    """
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (
        "requirements.txt",
        "requirements.lock",
        "requirements-tests.lock",
        "pyproject.toml",
        ".venv/bin/python",
        ".venv/.installed",
        ".venv/.tested",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin/python").write_text(PYTHON)
    (tmp_path / ".venv/bin/python").chmod(0o755)

    def run(target, *given, **environment):
        clean = {
            key: value
            for key, value in os.environ.items()
            if key not in VARIABLES and not key.startswith("MAKE")
        }
        ended = subprocess.run(
            ["make", target, *given],
            cwd=tmp_path,
            env=clean | environment,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return [
            (tmp_path / name).read_text().split("\0")[:-1] if (tmp_path / name).exists() else []
            for name in ("arguments", "environment")
        ]

    return run


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_user_gives_is_not_run(make, tmp_path, target):
    """Each variable gets each hostile value once, on the command line and from the environment."""
    for shift in range(len(HOSTILE)):
        values = {
            name: HOSTILE[(place + shift) % len(HOSTILE)].format(name)
            for place, name in enumerate(VARIABLES)
        }
        for given in (
            make(target, *(f"{name}={value}" for name, value in values.items())),
            make(target, **values),
        ):
            assert not set(VARIABLES) & set(os.listdir(tmp_path)), (target, values)
            arguments, environment = given
            if arguments:
                exported = set(VARIABLES[:-3])
                assert {f"{name}={values[name]}" for name in exported} <= set(environment)
                assert {value for value in arguments if "touch" in value} <= set(values.values())


def test_a_value_arrives_as_it_was_given(make):
    asked = {
        "bench": ("OUT", "--out"),
        "simulate": ("OUT", "--out"),
        "study": ("SCREEN", "--screen"),
        "check": ("DATA", "--data"),
        "data": ("ONLY", "--only"),
    }
    for target, (name, option) in asked.items():
        arguments, _ = make(target, f"{name}=a  b$$c$(d)'\"#%")
        assert arguments[arguments.index(option) + 1] == "a  b$$c$(d)'\"#%"
    assert make("report", "SCREEN=a.csv")[0] == make("book", "SCREEN=a.csv")[0]
    assert "FEATURES=a,b c.csv" in make("report", "FEATURES=a,b c.csv")[1]
    assert "--screen" not in make("study")[0] and "--screen kimorph" in " ".join(
        make("simulate", "SCREEN=kimorph", "OUT=x")[0]
    )


def test_all_tests_run_or_quick_ones_and_coverage_where_it_is_asked_for(make):
    whole, quick, covered = (make("test", *one)[0] for one in ((), ("QUICK=1",), ("COVERAGE=1",)))
    assert "--cov" in covered and "-m" not in covered[2:]
    assert "--cov" not in whole and "-m" not in whole[2:]
    assert "--cov" not in quick and quick[-2:] == ["-m", "not slow"]
    assert {path.name for path in (ROOT / "tests").rglob("test_*.py")} >= set(conftest.LONG)


def test_a_report_needs_a_screen_or_features(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.installed").touch()
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    ended = subprocess.run(
        ["make", "report"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert "error: name the screen or the features: make report SCREEN=PATH.csv" in ended.stderr


# What is installed ---------------------------------------------------------


def pins(name):
    """Return the version of each package in a file of requirements.

    Several where a marker chooses.
    """
    found = {}
    for package, version in re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / name).read_text(), re.MULTILINE
    ):
        found.setdefault(re.sub(r"[-_.]+", "-", package).lower(), set()).add(version)
    return found


@pytest.mark.parametrize("name, free", [("requirements", {"torch"}), ("requirements-tests", set())])
def test_the_lock_agrees_with_the_list_that_people_edit(name, free):
    direct, locked = pins(f"{name}.txt"), pins(f"{name}.lock")
    assert direct.keys() - locked.keys() == free, (
        f"run the command in CONTRIBUTING.md that makes {name}.lock"
    )
    assert {
        name: versions
        for name, versions in direct.items()
        if name != "torch" and versions != locked[name]
    } == {}
    lines = [
        line for line in (ROOT / f"{name}.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in lines)


def test_the_two_locks_agree():
    book, tests = pins("requirements.lock"), pins("requirements-tests.lock")
    assert {
        name: tests[name] for name in book.keys() & tests.keys() if tests[name] != book[name]
    } == {}
    assert not {"pytest", "selenium", "distributed"} & book.keys()


@pytest.mark.parametrize("name, most", [("requirements", 150), ("requirements-tests", 50)])
def test_every_locked_package_has_hashes_and_no_address(name, most):
    text = (ROOT / f"{name}.lock").read_text()
    entries = re.sub(r"\\\n", "", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)).split("\n")
    assert len(entries) > most
    for entry in filter(None, entries):
        assert re.fullmatch(
            r"[a-z0-9-]+(\.[a-z0-9-]+)*==\S+( ; [^#]*?)?( +--hash=sha256:[0-9a-f]{64})+ *", entry
        ), entry
    assert "://" not in text and not re.search(r"nvidia|cuda|triton", text)


def test_the_workflow_is_clean():
    """What is dangerous in a workflow is known to zizmor.

    Actions that are not pinned, rights too wide, values pasted into a shell.
    """
    linter = Path(sys.executable).parent / "zizmor"
    ended = subprocess.run(
        [
            linter,
            "--offline",
            "--pedantic",
            "--strict-collection",
            "--no-progress",
            ROOT / ".github",
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
