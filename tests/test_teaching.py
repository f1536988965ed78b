"""The book as a course: exercises with solutions that run, quizzes, and the student edition."""

import re
from pathlib import Path

import nbformat
import pytest

from mcnn_core.machine.files import claim
from tools import book, student

ROOT = Path(__file__).resolve().parents[1]
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
