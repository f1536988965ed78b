"""Let links from code cells work beside exercises.

sphinx-exercise wraps an exercise's text in a section without a title. sphinx-codeautolink
counts titles by sections and would lose count; here it counts only sections that have one.
"""

from docutils import nodes
from sphinx_codeautolink.extension.block import CodeBlockAnalyser


def depart_section(self, node: nodes.section) -> None:
    """Forget the section's title, if it had one."""
    if any(isinstance(child, nodes.title) for child in node):
        self.title_stack.pop()


def setup(app):
    """Set this extension up, called by Sphinx."""
    CodeBlockAnalyser.depart_section = depart_section
    return {"parallel_read_safe": True, "parallel_write_safe": True}
