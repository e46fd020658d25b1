"""How Sphinx makes the site: one folder of static pages from the project's pages and its executed notebooks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Factorization Memory"
html_title = project
html_show_copyright = False

# The repository is the source, so that links between its pages stay as they are.
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "notebooks/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "out", "notebooks/solutions"]
# A page that stands nowhere here stops the build.
CONTENTS = {
    "Start": ["docs/README", "docs/course"],
    "Notebooks": ["notebooks/README", "notebooks/*"],
    "Pages": [
        "docs/architecture", "docs/derivation", "docs/kernels", "docs/verify", "docs/equations", "docs/glossary",
        "docs/results", "docs/decisions",
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}  # fmt: skip

extensions = ["myst_nb", "downloads", "files", "formulas"]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]  # GitHub's ```math
myst_heading_anchors = 6
nb_render_markdown_format = "myst"  # with tables, in what a cell shows
nb_merge_streams = True  # what a cell prints comes in pieces, by chance
nb_execution_mode = "off"  # a notebook shows what is stored in it

html_theme = "furo"
html_math_renderer = "mathml"  # formulas.py
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]  # index.html, which leads to the first page
html_copy_source = False
html_show_search_summary = False  # a browser does not let a page on disk fetch the texts of others
pygments_dark_style = "github-dark"


def add_contents(app, docname: str, source: list[str]) -> None:
    """The sidebar is made of lists of contents. Pages for GitHub have none, so the first page gets them here."""
    if docname == root_doc:
        for caption, pages in CONTENTS.items():
            options = f":hidden:\n:glob:\n:caption: {caption}"
            source[0] += "\n\n```{toctree}\n" + options + "\n\n" + "\n".join(pages) + "\n```\n"


def setup(app) -> None:
    app.connect("source-read", add_contents)
