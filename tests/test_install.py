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


def test_a_system_without_file_locks_is_told_what_is_needed():
    code = "import sys; sys.modules['fcntl'] = None; from mcnn_core import write_table"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and "Windows Subsystem for Linux (WSL)" in done.stderr
