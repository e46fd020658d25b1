"""Formulas become MathML when the site is built. Sphinx alone would leave them to a script in the reader's browser."""

import re

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

TO_MATHML = LatexToMathML()
WITH_PUNCTUATION = re.compile(r"<math>(?:(?!<math).)*?</math>[.,;:!?)]+")
LOG = logging.getLogger(__name__)


def visit(translator, node) -> None:
    block = isinstance(node, nodes.math_block)
    try:
        formula = TO_MATHML.convert_with_local_state(node.astext(), displaystyle=block)
    except LatexError as error:
        LOG.warning("a formula that cannot become MathML: %s", error, location=node)
        raise nodes.SkipNode from error
    translator.body.append(f'<div class="math">{formula}</div>\n' if block else formula)
    raise nodes.SkipNode


def keep_together(app, pagename: str, template: str, context: dict, doctree) -> None:
    """A browser may end a line after any formula. None should begin with the full stop that follows one."""
    if "body" in context:
        context["body"] = WITH_PUNCTUATION.sub(r'<span class="nobr">\g<0></span>', context["body"])


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    app.connect("html-page-context", keep_together)
