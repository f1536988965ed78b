"""Write the student edition of a built book: its notebooks, with the solutions taken out.

``make student`` makes it of ``OUT/notebooks`` and writes ``OUT/student``. Answers to questions
and exercises go; of a cell with the tag ``solution`` the imports, and the heads and docstrings of
its functions stay, so that the check below it fails until they are written.
"""

import ast
import os
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mcnn_book.command import reporting
from mcnn_core.errors import MissingStageError
from tools.book import leave_notebooks, tags

ANSWER = re.compile(r"\n*<details><summary>.*?\n</details>\n?", re.DOTALL)
UNWRITTEN = "    ...  # your lines"


def emptied(source: str) -> str:
    """Return the code of a solution without what a student is to write."""
    lines, kept, at = source.splitlines(), [], 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            head = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            kept += [*lines[at:head], UNWRITTEN]
            at = node.end_lineno or at
    return "\n".join([*kept, *lines[at:]])


def student(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook of the book without its solutions."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = ANSWER.sub(_question, cell.source)
        elif {"solution", "check"} & set(tags(cell)):
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("jupyter", None)  # which hides it
        if "solution" in tags(cell):
            cell.source = emptied(cell.source)
    return notebook


def _question(found: re.Match) -> str:
    """Return the question of an answer that unfolds; of a solution to an exercise nothing."""
    title = re.search("<summary>(.*?)</summary>", found[0], re.DOTALL)[1]  # type: ignore[index]
    return "\n" if title.startswith("Solution to") else f"\n\n- {title}\n"


def main() -> None:
    """Write the student edition of the book in ``OUT``."""
    out = Path(os.environ.get("OUT") or "_build").expanduser().resolve()
    notebooks = sorted((out / "notebooks").glob("*.ipynb"))
    if not notebooks:
        raise MissingStageError(f"{out} holds no notebooks: make book writes them")
    read = {path.stem: nbformat.read(path, as_version=4) for path in notebooks}
    leave_notebooks(out / "student", {name: student(one) for name, one in read.items()})
    print(f"{out / 'student'}: {len(notebooks)} notebooks without solutions")


if __name__ == "__main__":
    with reporting():
        main()
