"""Formulas become MathML when the site is built. Sphinx alone would leave them to a script in the reader's browser."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

WORD_JOINER = "&#8288;"  # else a line can begin with the full stop after a formula
TO_MATHML = LatexToMathML()
LOG = logging.getLogger(__name__)


def visit(translator, node) -> None:
    block = isinstance(node, nodes.math_block)
    try:
        formula = TO_MATHML.convert_with_local_state(node.astext(), displaystyle=block)
    except LatexError as error:
        LOG.warning("a formula that cannot become MathML: %s", error, location=node)
        raise nodes.SkipNode from error
    if block:
        translator.body.append(f'<div class="math">{formula}</div>\n')
    else:
        after = node.next_node(descend=False, siblings=True)
        ends = isinstance(after, nodes.Text) and after.startswith(tuple(".,;:!?)"))
        translator.body.append(formula + (WORD_JOINER if ends else ""))
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
