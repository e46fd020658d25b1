"""Every page of the built site, opened in a browser: links, formulas, pictures, and nothing from outside.

`make test-site` builds the site and runs this. `make test` does not, since it needs Chromium.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

pytest.importorskip("websocket", reason="needs docs/site/requirements.txt: run `make test-site`")

from tests.site.browser import BINARY, DESK, LAPTOP, PHONE, Browser

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "out" / "site"
pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no chromium and no chrome on the PATH: the site is not tested"),
    pytest.mark.skipif(not SITE.exists(), reason="no site in out/site: run `make test-site`"),
]

PAGES = sorted(set(SITE.rglob("*.html")) - {SITE / "index.html"})
SOURCES = [page for folder in (".", "docs", "notebooks") for page in sorted((ROOT / folder).glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What the page shows. Code is left out: it may show anything.
SHOWN = """(async () => {
    const images = [...document.images];
    images.forEach(image => image.loading = "eager");
    await Promise.all(images.map(image => image.decode().catch(() => {})));
    await document.fonts.ready;
    const copy = document.body.cloneNode(true);
    copy.querySelectorAll("pre, code, math, script, style, svg").forEach(node => node.remove());
    return {
        text: copy.textContent,
        links: [...document.links].map(link => link.href),
        empty: images.filter(image => !image.naturalWidth).map(image => image.src),
        formulas: [...document.querySelectorAll("math")].filter(
            formula => formula.querySelector("merror") || !formula.getBoundingClientRect().width).length,
        address: location.href,
    };
})()"""
# At the width of the window: pixels by which the page is wider, and boxes of code that show a part and do not scroll.
FITS = """(() => {
    const page = document.scrollingElement;
    const boxes = [...document.querySelectorAll("html, .main, .content")].map(box => box.scrollWidth - box.clientWidth);
    const cut = [...document.querySelectorAll("pre")].filter(box => box.scrollWidth > box.clientWidth + 2
        && !["auto", "scroll"].includes(getComputedStyle(box).overflowX));
    const out = [...document.querySelectorAll("pre")].filter(box => box.getBoundingClientRect().right > innerWidth + 1);
    return {over: Math.max(page.scrollWidth - innerWidth, ...boxes), cut: cut.length + out.length};
})()"""
RAW_FORMULA = re.compile(r"\$[^$\n]+\$|\\[a-zA-Z]+|```")


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@cache
def anchors(page: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))


def leads_nowhere(link: str) -> bool:
    parts = urlsplit(link)
    target, anchor = Path(unquote(parts.path)), unquote(parts.fragment)
    if parts.scheme != "file":
        return False
    return not target.is_file() or (anchor != "" and anchor not in anchors(target))


def faults(browser: Browser, page: Path, site: Path = SITE) -> list[str]:
    """What is wrong with a page, each with the kind of fault in front."""
    browser.resize(PHONE)
    events = browser.visit(page.as_uri())
    shown = browser.evaluate(SHOWN)
    assert shown["address"] == page.as_uri()
    found = [f"link: {link}" for link in shown["links"] if leads_nowhere(link)]
    found += [f"formula: {raw}" for raw in RAW_FORMULA.findall(shown["text"])]
    found += [f"formula: {shown['formulas']} without a picture"] * bool(shown["formulas"])
    found += [f"image: {address}" for address in shown["empty"]]
    for width in (PHONE, LAPTOP, DESK):
        browser.resize(width)
        fits = browser.evaluate(FITS)
        found += [f"width: {fits['over']} pixels more than {width}"] * (fits["over"] > 0)
        found += [f"code: {fits['cut']} boxes are cut at {width}"] * (fits["cut"] > 0)
    for event in events:
        method, what = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            address = what["request"]["url"]
            if not address.startswith((site.as_uri(), "data:", "about:")):
                found.append(f"request: {address}")
        elif method == "Runtime.exceptionThrown":
            found.append(f"console: {what['exceptionDetails']['text']}")
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            found.append(f"console: {what['args']}")
        elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            found.append(f"console: {what['entry']['text']} {what['entry'].get('url', '')}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(SITE).as_posix())
def test_page(page, browser):
    assert not faults(browser, page)


def test_every_page_and_notebook_is_there_and_no_solution():
    wanted = {path.relative_to(ROOT).with_suffix(".html") for path in SOURCES + NOTEBOOKS}
    assert wanted <= {page.relative_to(SITE) for page in PAGES}
    assert {SITE / "slides" / f"lecture-{number}.html" for number in (1, 2)} <= {*PAGES}
    assert not [path for path in SITE.rglob("*") if "solutions" in path.as_posix()[len(SITE.as_posix()) :]]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_its_stored_figures(notebook):
    cells = nbformat.read(notebook, 4).cells
    stored = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", ()))
    text = (SITE / "notebooks" / notebook.with_suffix(".html").name).read_text(encoding="utf-8")
    assert stored and len(re.findall(r'<img [^>]*src="\.\./_images/', text)) == stored


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_hints_closed_and_itself_as_a_file(notebook, browser):
    text = "".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "markdown")
    page = SITE / "notebooks" / notebook.with_suffix(".html").name
    browser.visit(page.as_uri())
    hints = "[...document.querySelectorAll('details')].filter(hint => hint.innerText.startsWith('Hint'))"
    assert browser.evaluate(f"{hints}.length") == text.count("<summary>Hint ") > 5
    assert not browser.evaluate(f"{hints}.some(hint => hint.open || hint.querySelector('p') === null)")
    assert browser.evaluate("document.querySelector('a[download]').href").endswith(f"/downloads/{notebook.name}")
    handed_out = nbformat.read(SITE / "downloads" / notebook.name, 4)
    assert len(handed_out.cells) == len(nbformat.read(notebook, 4).cells)
    assert "solutions" not in (SITE / "downloads" / notebook.name).read_text(encoding="utf-8")


def names(archive: str) -> set[str]:
    with zipfile.ZipFile(SITE / "downloads" / f"{archive}.zip") as packed:
        found = packed.namelist()
    assert {name.split("/")[0] for name in found} == {archive}
    return {name.partition("/")[2] for name in found}


def test_the_archives_have_what_they_are_for():
    of_student, of_project = names("student"), names("factorization-memory")
    notebooks = {f"notebooks/{path.name}" for path in NOTEBOOKS}
    assert notebooks | {"START.md", "requirements.txt", "pyproject.toml", "reference/layer.py"} <= of_student
    assert not [name for name in of_student if re.search(r"solutions|course\.md|mark\.py|tests/", name)]
    wanted = {
        "Makefile",
        "README.md",
        "docs/course.md",
        "docs/slides/lecture_1.md",
        "tests/site/test_site.py",
        ".ci/run",
    }
    assert notebooks | wanted | {f"notebooks/solutions/{path.name}" for path in NOTEBOOKS} <= of_project
    assert not [name for name in of_project if re.match(r"\.venv|\.git/|out/", name) or name.endswith(".pyc")]


def test_a_student_can_start_from_the_archive(tmp_path):
    """Unpacked, notebooks find what they import. The two commands, which need a network, were tried by hand."""
    shutil.unpack_archive(SITE / "downloads" / "student.zip", tmp_path)
    folder = tmp_path / "student"
    start = (folder / "START.md").read_text(encoding="utf-8")
    first = (SITE / "README.html").read_text(encoding="utf-8")
    for command in ("python3 -m venv .venv", ".venv/bin/pip install", ".venv/bin/python -m jupyter lab notebooks"):
        assert command in start and command in re.sub("<[^>]+>", "", first)
    code = "import notebooks.support, fast, lm, sys; sys.exit(not notebooks.support.__file__.startswith(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}
    )
    assert done.returncode == 0


@pytest.mark.parametrize("page", ["README.html", "docs/course.html"])
def test_slides_are_two_clicks_away(page):
    links = re.findall(r'href="([^"]+)"', (SITE / page).read_text(encoding="utf-8"))
    shown = {(SITE / page).parent.joinpath(link).resolve() for link in links}
    assert {SITE / "slides" / f"lecture-{number}.html" for number in (1, 2)} <= shown


def test_the_address_of_the_repository_is_shown_where_there_is_one(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    import downloads

    sizes = {"student": "1 MB", "project": "2 MB"}
    assert "<https://example.org/clone>" in downloads.front(sizes, "https://example.org/clone")
    assert "epository" not in downloads.front(sizes, None)
    assert "2 MB" in downloads.front(sizes, None)
    there = downloads.repository()
    assert (there is not None) == ("with its history" in (SITE / "README.html").read_text(encoding="utf-8"))


def test_without_git_the_archive_has_the_same_files(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    import downloads

    shutil.unpack_archive(SITE / "downloads" / "factorization-memory.zip", tmp_path)
    monkeypatch.setattr(downloads, "ROOT", tmp_path / "factorization-memory")
    (tmp_path / "factorization-memory" / ".venv").mkdir()
    (tmp_path / "factorization-memory" / ".venv" / "ready").touch()
    found = {path.relative_to(downloads.ROOT).as_posix() for path in downloads.tree()}
    assert found == names("factorization-memory")


def test_tables_are_tables():
    """Also those that a cell shows: a paragraph that begins with a bar is a table that was not understood."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    assert "<table" in texts[SITE / "notebooks" / "07_a_memory_that_holds.html"]
    assert not [page for page, text in texts.items() if re.search(r"<p>\s*\|", text)]


def test_the_index_leads_to_the_first_page():
    assert "url=README.html" in (SITE / "index.html").read_text(encoding="utf-8")


def test_quoted_code_leads_to_its_line():
    page = (SITE / "docs" / "equations.html").read_text(encoding="utf-8")
    quotes = re.findall(r'href="\.\./source/([^"#]+)\.html(?:#L-(\d+))?">', page)
    assert len(quotes) > 50 and all(line for _, line in quotes)


def test_search_finds_pages(browser):
    browser.visit((SITE / "search.html").as_uri() + "?q=temperature")
    wait = "new Promise(done => setInterval(() => document.querySelector('.search li a') && done(true), 100))"
    assert browser.evaluate(f"Promise.race([{wait}, new Promise(done => setTimeout(done, 20000, false))])")


@pytest.fixture(scope="module")
def copied_site(tmp_path_factory):
    return shutil.copytree(SITE, tmp_path_factory.mktemp("copied") / "site")


PLANTED = {
    '<a href="docs/nothing.html">a page that is not there</a>': "link",
    '<a href="docs/derivation.html#nothing">an anchor that is not there</a>': "link",
    '<img src="https://example.org/picture.png">': "request",
    '<script src="https://example.org/script.js"></script>': "request",
    '<style>@import url("https://example.org/font.css");</style>': "request",
    r"<p>The decay is $1 - \theta$.</p>": "formula",
    r"<p>\begin{aligned} y &amp;= x \end{aligned}</p>": "formula",
    "<math><merror><mtext>a formula</mtext></merror></math>": "formula",
    '<img src="_images/nothing.png">': "image",
    '<div style="width: 3000px">wide</div>': "width",
    f'<pre style="overflow: hidden">{"code " * 90}</pre>': "code",
    f'<div style="width: 200px; overflow: hidden"><pre style="width: 3000px">{"code " * 90}</pre></div>': "code",
    "<script>throw Error('a fault')</script>": "console",
    "<script>console.error('a fault')</script>": "console",
    '<link rel="stylesheet" href="_static/nothing.css">': "console",
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_found(fault, copied_site, browser):
    text = (copied_site / "README.html").read_text(encoding="utf-8")
    page = copied_site / "planted.html"
    page.write_text(text, encoding="utf-8")
    assert not faults(browser, page, copied_site)
    assert text.count("<p>From a token") == 1
    page.write_text(text.replace("<p>From a token", f"{fault}<p>From a token"), encoding="utf-8")
    kinds = {found.split(":")[0] for found in faults(browser, page, copied_site)}
    assert PLANTED[fault] in kinds, kinds
