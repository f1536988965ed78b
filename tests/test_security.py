"""Nothing that is read can run.

No pickle, no evaluation of text, no shell, no archive unpacked to where its names say.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    [
        *(ROOT / "mcnn_book").rglob("*.py"),
        *(ROOT / "mcnn_core").rglob("*.py"),
        *(ROOT / "tools").glob("*.py"),
        *(ROOT / "book" / "_ext").glob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
        ROOT / "dodo.py",
    ]
)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "tarfile"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "pd.read_pickle",
    "pd.eval",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "shutil.unpack_archive",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "np.fromregex",
    "importlib.import_module",
}
METHODS = {"read_pickle", "to_pickle", "extractall"}


def dangers(source: str) -> list[str]:
    """Return what in a module could run what it reads, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            found += [
                f"line {node.lineno}: import of {name}"
                for name in names
                if name.split(".")[0] in MODULES
            ]
        if not isinstance(node, ast.Call):
            continue
        name, given = (
            ast.unparse(node.func),
            {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
        )
        if name in CALLS or name.rpartition(".")[2] in METHODS:
            found.append(f"line {node.lineno}: {name}")
        if given.get("shell", "False") != "False":
            found.append(f"line {node.lineno}: {name} with a shell")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            found.append(f"line {node.lineno}: {name} without allow_pickle=False")
    return found


#: It takes the code of this repository's own chapters.
ALLOWED = {ROOT / "benchmarks" / "textbook.py": ["exec", "compile"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path):
    found = dangers(path.read_text(encoding="utf-8"))
    assert [danger.partition(": ")[2] for danger in found] == ALLOWED.get(path, [])


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "torch.load(path)",
        "frame.read_pickle(path)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "archive.extractall(folder)",
        "os.system(line)",
    ],
)
def test_dangers_are_seen(code):
    assert len(dangers(code)) == 1


def test_what_is_safe_is_let_pass():
    assert (
        dangers(
            "np.load(path, allow_pickle=False)\nyaml.safe_load(text)\n"
            "model.eval()\nre.compile(text)"
        )
        == []
    )
    assert dangers("subprocess.run([name], shell=False)") == []
