"""`make slides`: every lecture in docs/slides as one HTML file, which shows and prints without a network.

A lecture is a page of Markdown. A line `---` ends a slide, and what follows `Note:` on a slide is for the speaker.
Nothing is drawn or copied for a lecture. In the place of an image stands what is shown, and in quotes what of it:

    ![what it says](../../notebooks/05_what_the_slots_learned.ipynb#variance)    the figure that this cell drew
    ![what it says](../../notebooks/04_sparse.ipynb#kept "printed")              what it printed
    ![what it says](../results/slots.png)                                        a figure of the results
    ![what it says](../results.md#speed_sparse/equal "table")                    a table of the results
"""

import argparse
import base64
import re
import struct
import sys
from html import escape
from pathlib import Path

import mistune
import nbformat
from math_core import LatexError, LatexToMathML
from mistune.plugins.math import math
from mistune.plugins.table import table
from nbformat import NotebookNode

from notebooks.run import FOLDER

ROOT = FOLDER.parent
LECTURES = sorted((ROOT / "docs" / "slides").glob("lecture_*.md"))
TEMPLATE = Path(__file__).with_suffix(".html")
BESIDE = 1.9  # a figure that is less wide, in heights, stands beside the text, and takes at most the place
SIDE = 22.0, 17.6  # of these many rem; a slide is 40 by 22.5
LONG = 64  # a line of code with more characters makes them smaller
TO_MATHML = LatexToMathML()
KINDS = re.compile(r"<h2>(Guess|Pause|Answer)\b")  # slides that look different, by the first word of their heading


class Wrong(Exception):
    """A lecture that cannot be built; the message says why."""


def formula(latex: str, block: bool = False) -> str:
    """MathML.

    >>> formula(r"\\theta_t")
    '<math><msub><mi>θ</mi><mi>t</mi></msub></math>'
    >>> formula(r"\\tehta_t")
    Traceback (most recent call last):
    notebooks.slides.Wrong: not understood in \\tehta_t
    """
    try:
        return TO_MATHML.convert_with_local_state(latex, displaystyle=block)
    except LatexError as error:
        raise Wrong(f"not understood in {latex}") from error


def cell_of(notebook: Path, name: str) -> NotebookNode:
    for cell in nbformat.read(notebook, 4).cells:
        if cell.id == name:
            return cell
    raise Wrong(f"{notebook.name} has no cell {name!r}")


def printed(cell: NotebookNode) -> str:
    """The lines that a cell printed, or the value that it ended with."""
    outputs = [out for out in cell.get("outputs", []) if "image/png" not in out.get("data", {})]
    parts = [out.text if "text" in out else out.get("data", {}).get("text/plain", "") for out in outputs]
    if not any(parts):
        raise Wrong(f"cell {cell.id!r} printed nothing")
    return "\n".join(part.strip("\n") for part in parts if part.strip()).rstrip()


def drawn(cell: NotebookNode) -> bytes:
    """The figure of a cell, as PNG."""
    figures = [out.data["image/png"] for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    if len(figures) != 1:
        raise Wrong(f"cell {cell.id!r} drew {len(figures)} figures")
    return base64.b64decode(figures[0])


def figure(png: bytes, says: str) -> str:
    width, height = struct.unpack(">II", png[16:24])
    side = ""
    if width < BESIDE * height:
        side = f' class="side" style="width: {min(SIDE[0], SIDE[1] * width / height):.2f}rem"'
    data = base64.b64encode(png).decode("ascii")
    return f'<figure{side}><img alt="{says}" src="data:image/png;base64,{data}"></figure>\n'


class Slides(mistune.HTMLRenderer):
    """What Markdown has for a slide; places are relative to `folder`."""

    def __init__(self, folder: Path):
        super().__init__(escape=True)
        self.folder = folder

    def inline_math(self, text: str) -> str:
        return formula(text)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        raise Wrong(f"a link to {url}: the file of a lecture may lie anywhere, so write the name alone")

    def paragraph(self, text: str) -> str:  # what is shown is no part of a sentence
        return text if re.match(r"<(figure|pre|div)", text) else super().paragraph(text)

    def block_code(self, code: str, info: str | None = None) -> str:
        if info == "math":
            return f'<div class="formula">{formula(code, block=True)}</div>\n'
        lines = code.rstrip("\n")
        size = "long" if max(map(len, lines.splitlines())) > LONG else "short"
        return f'<pre class="{size}"><code>{escape(lines)}</code></pre>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        place, _, name = url.partition("#")
        path, says = self.folder / place, re.sub("<.*?>", "", text)
        if "://" in url:
            raise Wrong(f"{url} is not of this project")
        if not path.is_file():
            raise Wrong(f"there is no {place}")
        if path.suffix == ".png":
            return figure(path.read_bytes(), says)
        if path.suffix == ".md":
            found = re.search(
                rf"<!-- result: {re.escape(name)} -->\n(.+?)<!-- end -->", path.read_text(encoding="utf-8"), re.S
            )
            if not found or not found[1].strip():
                raise Wrong(f"{place} has no table {name!r}")
            return f'<div class="result">{markdown(found[1], path.parent)}</div>\n'
        cell = cell_of(path, name)
        if title is None:
            return figure(drawn(cell), says)
        if title != "printed":
            raise Wrong(f"a cell is not shown as {title!r}")
        return self.block_code(printed(cell))


def markdown(text: str, folder: Path) -> str:
    html = str(mistune.create_markdown(renderer=Slides(folder), plugins=[math, table])(text))
    return re.sub(r"(<math(?:(?!<math).)*?</math>[.,:;?!]+)", r'<span class="whole">\1</span>', html)


def slides(lecture: str) -> list[str]:
    """The Markdown of each slide.

    >>> slides("# One\\n\\n---\\n\\n## Two\\n\\nNote: three.\\n")
    ['# One', '## Two\\n\\nNote: three.']
    """
    return [part.strip() for part in re.split(r"^---$", lecture, flags=re.MULTILINE)]


def section(number: int, source: str, folder: Path) -> str:
    body, _, note = source.partition("\nNote: ")
    shown = markdown(body, folder)
    found = KINDS.search(shown)
    kind = found[1].lower() if found else "plain"
    layout = "beside" if 'class="side"' in shown else "below" if "<figure" in shown else "below large"
    return (
        f'<section id="{number}" class="{kind}">\n<div class="slide {layout}">\n{shown}</div>\n'
        f"<aside>{markdown(note, folder)}</aside>\n</section>\n"
    )


def build(lecture: Path) -> str:
    """The HTML of a lecture."""
    sources = slides(lecture.read_text(encoding="utf-8"))
    sections = []
    for number, source in enumerate(sources, 1):
        try:
            sections.append(section(number, source, lecture.parent))
        except Wrong as wrong:
            raise Wrong(f"{lecture.name}, slide {number}: {wrong}") from wrong
    title = sources[0].partition("\n")[0].lstrip("# ")
    page = TEMPLATE.read_text(encoding="utf-8")
    return page.replace("TITLE", escape(title)).replace("SLIDES", "".join(sections))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/slides"), help="a folder (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for lecture in LECTURES:
        path = options.out / f"{lecture.stem.replace('_', '-')}.html"
        try:
            path.write_text(build(lecture), encoding="utf-8")
        except Wrong as wrong:
            print(wrong, file=sys.stderr)
            return 1
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
