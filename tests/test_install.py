"""The package alone: installed in an environment of its own, it runs the README's script."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
from helpers import tiny_rows, write_screen

ROOT = Path(__file__).resolve().parents[1]
#: What a book needs and the method does not.
BOOK = ("mcnn_book", "jinja2", "bokeh", "matplotlib", "seaborn", "papermill", "doit", "IPython")
DATA = (".csv", ".html", ".jinja")
SITE = f"import sys; sys.modules.update(dict.fromkeys({BOOK!r}))\n"


def script() -> str:
    """Return the README's script, with a training of one epoch."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    lines = blocks[0].strip().splitlines()
    assert len(lines) <= 15
    short = 'RECIPES["default"], "model"'
    assert short in blocks[0]
    return "from dataclasses import replace\n" + blocks[0].replace(
        short, 'replace(RECIPES["default"], epochs=1, batch=4), "model"'
    )


def test_the_readmes_script_runs_where_only_the_method_is_installed(tmp_path):
    home = tmp_path / "home"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": home, "platbase": home}))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    source = tmp_path / "source"  # a build leaves files next to what it builds
    for package in ("mcnn_core", "mcnn_book"):
        shutil.copytree(ROOT / package, source / package)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-prose"):
        shutil.copy(ROOT / name, source)
    command = [*install, "--no-build-isolation", "--target", site, source]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # What the packages read next to their modules is installed with them.
    data = {path.relative_to(ROOT) for path in ROOT.glob("mcnn_*/**/*") if path.suffix in DATA}
    assert data and not [path for path in data if not (site / path).is_file()]
    # What it depends on comes from the environment of the tests, found after the package itself.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "sitecustomize.py").write_text(SITE)
    write_screen(tmp_path, tiny_rows(wells=("B02", "C03", "D04")), shape=(64, 64))
    (tmp_path / "screen.csv").rename(tmp_path / "plates.csv")
    (tmp_path / "script.py").write_text(script())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "script.py"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    profiles = pd.read_csv(tmp_path / "profiles.csv")
    assert {"Metadata_Compound", "MCNN_001"} <= set(profiles)
    where = [python, "-c", "import json, mcnn_core; print(json.dumps(mcnn_core.__file__))"]
    path = subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert json.loads(path.stdout) == str(site / "mcnn_core" / "__init__.py")


WINDOWS = """
import os, sys
sys.modules["fcntl"] = None
del os.O_NONBLOCK, os.geteuid
import mcnn_core
for name in mcnn_core.__all__:
    getattr(mcnn_core, name)
assert len(mcnn_core.read_loaddata("screen.csv").table) == 8
mcnn_core.write_table("new.csv", mcnn_core.read_table("screen.csv"))
"""


def test_where_files_cannot_be_locked_all_is_imported_and_read_and_nothing_is_written(tmp_path):
    write_screen(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "Windows Subsystem for Linux (WSL)" in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "new.csv").exists()


def test_what_is_wrong_with_a_table_is_said_before_what_takes_long_is_imported(tmp_path):
    (tmp_path / "plates.csv").write_text("Metadata_Plate,Metadata_Wel\nP1,B02\n")
    code = """
import sys
from mcnn_book.__main__ import main
try:
    main(["check", "--screen", "plates.csv", "--out", "out"])
except SystemExit as end:
    assert end.code == 1
print({"torch", "sklearn", "scipy.stats", "matplotlib", "distributed"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stdout + done.stderr
