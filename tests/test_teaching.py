"""The book as a course: exercises with solutions that run, quizzes, and the student edition."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from mcnn_book.__main__ import main
from mcnn_core.machine.files import claim
from tools import book, student

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import notebooks  # noqa: E402

NAMES = book.chapters(book.Build())
CODE = [
    (name, place)
    for name in NAMES
    for place, cell in enumerate(book.read_source(name).cells)
    if "solution" in book.tags(cell)
]


def exercise(name: str, place: int) -> tuple[str, str]:
    """Return the code of a solution and of the check below it."""
    solution, check = book.read_source(name).cells[place : place + 2]
    assert "check" in book.tags(check)
    return solution.source, check.source


def test_some_exercises_ask_for_code():
    assert len(CODE) >= 5


@pytest.mark.parametrize("name, place", CODE)
def test_a_solution_passes_its_check_and_the_empty_version_does_not(name, place, capsys):
    solution, check = exercise(name, place)
    exec(solution + "\n" + check, {})
    assert capsys.readouterr().out == "right\n"
    empty = student.emptied(solution)
    assert student.UNWRITTEN in empty and "return" not in empty and '"""' in empty
    with pytest.raises((AssertionError, TypeError, IndexError, ValueError)):
        exec(empty + "\n" + check, {})


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_a_solution_and_every_chapter_a_quiz(name):
    text = (ROOT / "notebooks" / f"{name}.md").read_text(encoding="utf-8")
    asked = re.findall(r"^```\{exercise\}\n:label: (\S+)", text, re.MULTILINE)
    solved = re.findall(r"^```\{solution\} (\S+)", text, re.MULTILINE)
    coded = re.findall(
        r"^```\{exercise\}\n:label: (\S+)\n(?:(?!```).*\n)*```\n\n```\{code-cell\} ipython3\n"
        r"---\ntags: \[solution,",
        text,
        re.MULTILINE,
    )
    assert asked and set(asked) == {*solved, *coded}
    _, _, quiz = text.partition("\n## Quiz\n")
    assert len(re.findall(r"^:::\{dropdown\} .*[?.]$", quiz, re.MULTILINE)) == 3


def test_the_student_edition_keeps_questions_and_loses_answers():
    prose = "**Exercise 1.** Ask.\n\n<details><summary>Solution to exercise 1</summary>\n\nTell.\n"
    prose += "\n</details>\n\nMore.\n\n<details><summary>Why?</summary>\n\nSo.\n\n</details>\n"
    solution = 'import re\n\n\ndef f(x):\n    """Say what."""\n    return re.escape(x)\n'
    cells = [
        nbformat.v4.new_markdown_cell(prose),
        nbformat.v4.new_code_cell(solution, metadata={"tags": ["solution"]}),
    ]
    text, code = student.student(nbformat.v4.new_notebook(cells=cells)).cells
    assert "Ask." in text.source and "More." in text.source and "- Why?" in text.source
    assert "Tell." not in text.source and "So." not in text.source
    assert code.source == ('import re\n\n\ndef f(x):\n    """Say what."""\n    ...  # your lines')


def test_what_sphinx_alone_understands_becomes_plain_markdown():
    text = """(label)=
## Title

:::{admonition} In this chapter
Ask {term}`wells
<well>`.
:::

```{exercise}
:label: ex-1

Do {result}`a.b:.1%`.
```

```{solution} ex-1
:class: dropdown

Done.
```

:::{dropdown} Why?
So.
:::
"""
    roles = {":term:`wells <well>`": "[wells](g.html#w)", ":result:`a.b:.1%`": "3.0%"}
    plain = notebooks.filled(text, roles, {"ex-1": "8.2"}.get)
    assert plain.startswith("## Title\n\n> **In this chapter**\n>\n> Ask [wells](g.html#w).\n")
    assert "**Exercise 8.2.** Do 3.0%.\n" in plain
    assert "<details><summary>Solution to exercise 8.2</summary>\n\nDone.\n\n</details>" in plain
    assert "<details><summary>Why?</summary>\n\nSo.\n\n</details>" in plain
    assert ":::" not in plain and "```" not in plain and "{" not in plain


@pytest.mark.parametrize(
    "target, leads",
    [
        ("#fig", "../html/notebooks/08.html#fig"),
        ("../book/glossary.html#w", "../html/book/glossary.html#w"),
        ("01.html", "../html/notebooks/01.html"),
        ("https://example.org/x", "https://example.org/x"),
    ],
)
def test_links_lead_to_the_pages_beside_the_notebooks(target, leads):
    assert notebooks.joined("../html/notebooks/08.html", target) == leads
    public = notebooks.joined("https://example.org/book/notebooks/08.html", target)
    assert public == leads.replace("../html", "https://example.org/book")


@pytest.mark.parametrize(
    "made, said", [(False, "make book writes them"), (True, "pip install jupyterlab")]
)
def test_the_lab_says_what_it_lacks(tmp_path, monkeypatch, made, said):
    if made:
        (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=said):
        main(["lab", "--out", str(tmp_path)])


def test_an_edited_notebook_stays(tmp_path, capsys):
    def one(text):
        return {"01_first": nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])}

    claim(tmp_path / "out", "output folder")
    folder = tmp_path / "out" / "notebooks"
    for text in ("one", "two"):
        book.leave_notebooks(folder, one(text))
        assert f'"{text}"' in (folder / "01_first.ipynb").read_text()
    edited = (folder / "01_first.ipynb").read_text().replace('"two"', '"a note of my own"')
    (folder / "01_first.ipynb").write_text(edited)
    book.leave_notebooks(folder, one("three"))
    assert (folder / "01_first.ipynb").read_text() == edited
    assert "01_first" in capsys.readouterr().out
    (folder / "own.ipynb").write_text("{}")
    book.leave_notebooks(folder, {})
    assert sorted(path.name for path in folder.iterdir()) == ["01_first.ipynb", "own.ipynb"]
