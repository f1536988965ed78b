"""Write the notebooks of the pages as Jupyter can show them; the button for downloads has them.

A page's source holds roles and fences that Sphinx alone understands. What a role came to is taken
from the resolved page, so that a notebook says what its page says: numbers, figures' numbers,
links. Fences become quotations and details, which any Markdown has. Links lead to the pages next to
the folder of the notebooks, or to ``html_baseurl`` where the book has a public address.
"""

import posixpath
import re
from pathlib import Path
from urllib.parse import urljoin

import nbformat
from docutils import nodes
from sphinx import addnodes

ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`", re.DOTALL)
FENCE = re.compile(
    r"^(?P<mark>:::+|```+)\{(?P<name>[\w-]+)\} *(?P<title>.*)\n(?P<body>(?:.*\n)*?)(?P=mark) *$",
    re.MULTILINE,
)
OPTION = re.compile(r"\A:([\w-]+): *(.*)\n+")
HIDDEN = {"hide-input", "hide-cell", "remove-cell", "remove-input"}


def mark(app, doctree):
    """Remember, around each reference of a page, the role that it came from."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node.rawsource:
            place = nodes.inline(role=node.rawsource)
            node.replace_self(place)
            place += node


def collect(app, doctree, docname):
    """Keep what each role of a page came to, in Markdown, by its source."""
    address = (app.config.html_baseurl.rstrip("/") or "../html") + f"/{docname}.html"
    roles = app.roles.setdefault(docname, {})
    for node in list(doctree.findall(nodes.inline)):
        role = node.get("role") or node.rawsource
        if role.startswith(":"):
            roles[role] = markdown(node, address)
        if "role" in node:
            node.replace_self(node.children)


def markdown(node, address: str) -> str:
    """Return resolved nodes as Markdown: text, and links from the page at `address`."""
    if isinstance(node, nodes.Text):
        return re.sub(r"([\\`*_\[\]<>$|])", r"\\\1", node.astext())
    text = "".join(markdown(child, address) for child in node.children)
    if isinstance(node, nodes.reference):
        target = node.get("refuri") or "#" + node["refid"]
        return f"[{text}]({joined(address, target)})"
    return text


def joined(address: str, target: str) -> str:
    """Return where a link of the page at `address`, which may be relative, leads."""
    if "://" in address + target:
        return urljoin(address, target)
    if target.startswith("#"):
        return address + target
    return posixpath.normpath(posixpath.join(posixpath.dirname(address), target))


def filled(text: str, roles: dict[str, str], number) -> str:
    """Return Markdown for Jupyter: roles filled in, fences as quotations and details.

    `number` gives the number of an exercise or a figure by its label.
    """
    text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.MULTILINE)
    text = ROLE.sub(lambda found: role(found, roles), text)
    while (plain := FENCE.sub(lambda found: fence(found, number), text)) != text:
        text = plain
    return re.sub(r"\n{3,}", "\n\n", text)


def role(found: re.Match, roles: dict[str, str]) -> str:
    """Return what a role came to on its page."""
    name, content = found[1], found[2]
    return roles[f":{name}:`{' '.join(content.split())}`"]


def fence(found: re.Match, number) -> str:
    """Return a directive as a quotation, or as details that open where it unfolds."""
    name, title, body = found["name"], found["title"].strip(), found["body"]
    options = {}
    while option := OPTION.match(body):
        options[option[1]], body = option[2], body[option.end() :]
    body = body.strip()
    if name == "exercise":
        return f"**Exercise {number(options['label'])}.** {body}\n"
    if name == "solution":
        title = f"Solution to exercise {number(title)}"
    if name in ("solution", "dropdown"):
        return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>\n"
    lines = [f"**{title or name.capitalize()}**", "", *body.splitlines()]
    return "\n".join(f"> {line}".rstrip() for line in lines) + "\n"


def write(app, error):
    """Write every notebook of the book beside its page's source, when all pages are written."""
    for docname in app.env.found_docs if error is None else ():
        source = Path(app.env.doc2path(docname))
        if source.suffix == ".ipynb":
            notebook = nbformat.read(source, as_version=4)
            show(notebook, app.roles.get(docname, {}), app.env.toc_fignumbers.get(docname, {}))
            nbformat.write(notebook, Path(app.outdir, "_sources", f"{docname}.ipynb"))


def show(notebook, roles: dict[str, str], numbers: dict[str, dict]) -> None:
    """Make a notebook of the pages one for Jupyter."""

    def number(label: str) -> str:
        found = [kind[label] for kind in numbers.values() if label in kind]
        return ".".join(map(str, found[0])) if found else ""  # a figure of an empty output

    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = filled(cell.source, roles, number)
        elif HIDDEN & set(cell.metadata.get("tags", [])):
            cell.metadata["jupyter"] = {"source_hidden": True}
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "caption" in figure and number(figure["name"]):
            caption = f"*Fig. {number(figure['name'])}.* {figure['caption'].strip()}"
            below = nbformat.v4.new_markdown_cell(filled(caption, roles, number))
            cells.append(nbformat.from_dict({**below, "id": f"{cell.id}-caption"}))
    notebook.cells = cells


def setup(app):
    """Set this extension up, called by Sphinx."""
    app.roles = {}
    app.connect("doctree-read", mark)
    app.connect("doctree-resolved", collect)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
