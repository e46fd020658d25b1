"""The lectures can be built and shown: what they refer to exists, nothing is loaded, and every slide fits its frame."""

import json
import re
import shutil
import subprocess
from html import unescape

import nbformat
import pytest

from notebooks import slides
from notebooks.run import NOTEBOOKS
from notebooks.slides import LECTURES, ROOT, Wrong, build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here, which lays the slides out")
every_lecture = pytest.mark.parametrize("lecture", LECTURES, ids=lambda path: path.stem)
FORMULA = re.compile(r"^```math$|\$[^$\n]+\$", re.MULTILINE)
NUMBER = re.compile(r"\d[\d,]*\.\d+|\d{1,3}(?:,\d{3})+")
MEASURE = """<style>html { font-size: 32px !important } section { height: 720px !important }</style><script>
addEventListener("load", () => {
  const wrong = [];
  document.querySelectorAll("section").forEach((section, i) => {
    const slide = section.querySelector(".slide");
    for (const frame of [slide, ...slide.querySelectorAll("pre, table, .formula")])
      if (frame.scrollHeight > frame.clientHeight + 2 && frame === slide || frame.scrollWidth > frame.clientWidth + 2)
        wrong.push(`slide ${i + 1}: ${frame.className || frame.tagName} is too large`);
    for (const part of slide.querySelectorAll("*"))
      if (!part.closest("math") && [...part.childNodes].some(node => node.nodeType === 3 && node.data.trim())
          && parseFloat(getComputedStyle(part).fontSize) < 23.9)
        wrong.push(`slide ${i + 1}: ${part.tagName} is too small`);
  });
  document.body.innerHTML = "<pre id='wrong'></pre>";
  document.getElementById("wrong").textContent = JSON.stringify(wrong);
});
</script></head>"""


def lecture_of(tmp_path, *texts):
    """A lecture beside the real ones, as far as its places go."""
    lecture = tmp_path / "docs" / "slides" / "lecture_9.md"
    if not lecture.exists():
        lecture.parent.mkdir(parents=True)
        for name in ("notebooks", "docs/results", "docs/results.md"):
            (tmp_path / name).symlink_to(ROOT / name)
    lecture.write_text("\n\n---\n\n".join(texts), encoding="utf-8")
    return lecture


def outside(html: str) -> list[str]:
    """What a browser would load from elsewhere, and links."""
    loaded = re.findall(r"""(?:\bsrc|\bhref|\bdata|\bposter|\baction)\s*=\s*["']?([^"'\s>]+)""", html)
    loaded += re.findall(r"url\(\s*[\"']?([^\"')]+)", html) + re.findall(r"@import|<link|<iframe", html)
    names = re.findall(r"https?://[^\"'\s<]+", html)
    return [
        place
        for place in loaded + names
        if not place.startswith("data:image/png;base64,") and place != "http://www.w3.org/1998/Math/MathML"
    ]


def chromium(tmp_path, html: str, *options: str) -> str:
    page = tmp_path / "page.html"
    page.write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def what_does_not_fit(tmp_path, html: str) -> list[str]:
    shown = chromium(tmp_path, html.replace("</head>", MEASURE), "--dump-dom")
    return json.loads(unescape(re.search(r'<pre id="wrong">(.*?)</pre>', shown, re.DOTALL)[1]))


@every_lecture
def test_it_is_a_lecture_of_90_minutes(lecture):
    parts = slides.slides(lecture.read_text(encoding="utf-8"))
    headings = [part.partition("\n")[0].lstrip("# ") for part in parts]
    notes = [re.search(r"^Note: (\d+) min\. ", part, re.MULTILINE) for part in parts]
    assert all(notes), [head for head, note in zip(headings, notes, strict=True) if not note]
    assert 60 <= sum(int(note[1]) for note in notes) <= 75  # the rest is for questions
    asked = [i for i, head in enumerate(headings) if head.startswith(("Guess first: ", "Pause: "))]
    assert 20 <= len(parts) <= 30 and 3 <= sum(headings[i].startswith("Guess") for i in asked) <= 4
    assert any(headings[i].startswith("Pause") for i in asked)
    assert all(headings[i + 1].startswith("Answer: ") for i in asked)
    assert headings[-1] == "What you can do now" and re.search(r"notebook \d", parts[-1])


@every_lecture
def test_it_needs_nothing_from_elsewhere(lecture):
    assert not outside(build(lecture))


@every_lecture
def test_every_formula_is_converted(lecture):
    source = lecture.read_text(encoding="utf-8")
    html = build(lecture)
    assert html.count("<math") == len(FORMULA.findall(source)) > 20
    assert "$" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL).replace("${", "")


@every_lecture
def test_numbers_are_those_of_the_notebooks_and_results(lecture):
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells]
    known = [cell.source for cell in cells] + [str(cell.get("outputs", "")) for cell in cells]
    known += [(ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("results.md", "derivation.md")]
    stored = set(NUMBER.findall("\n".join(known)))
    unknown = set(NUMBER.findall(lecture.read_text(encoding="utf-8"))) - stored
    assert not unknown


@every_lecture
def test_code_is_that_of_the_project(lecture):
    blocks = re.findall(r"^```python\n(.*?)^```$", lecture.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "reference").glob("*.py"))
    lines = {line.strip() for line in code.splitlines()}
    assert not {line.strip() for block in blocks for line in block.splitlines() if line.strip()} - lines


@needs_chromium
@every_lecture
def test_every_slide_fits(lecture, tmp_path):
    assert not what_does_not_fit(tmp_path, build(lecture))


@needs_chromium
@pytest.mark.parametrize("notes, least, most", [(False, 1, 1), (True, 0.5, 0.7)])
def test_a_slide_is_a_page_and_half_of_one_with_its_notes(tmp_path, notes, least, most):
    html = build(LECTURES[0])
    html = html.replace('<html lang="en">', '<html lang="en" class="notes">') if notes else html
    chromium(tmp_path, html, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())
    assert least <= len(pages) / html.count("<section") <= most


NOTEBOOK = "../../notebooks/01_a_memory_you_can_read.ipynb"


@pytest.mark.parametrize(
    "slide, message",
    [
        (f"![a]({NOTEBOOK}#heart)", "no cell 'heart'"),
        (f"![a]({NOTEBOOK}#alpha)", "drew 0 figures"),
        (f'![a]({NOTEBOOK}#imports "printed")', "printed nothing"),
        (f'![a]({NOTEBOOK}#alpha "drawn")', "not shown as 'drawn'"),
        ("![a](../results/slot.png)", r"no \.\./results/slot.png"),
        ("![a](https://example.org/a.png)", "not of this project"),
        ('![a](../results.md#speed "table")', "no table 'speed'"),
        ("[a](lecture_1.md)", "a link to"),
        (r"$\tehta$", "not understood"),
        ("```math\n\\begin{gathered} a &= b \\end{gathered}\n```", "not understood"),
    ],
)
def test_a_wrong_reference_is_refused(slide, message, tmp_path):
    with pytest.raises(Wrong, match=f"lecture_9.md, slide 2: .*{message}"):
        build(lecture_of(tmp_path, "# One", f"## Two\n\n{slide}"))


def test_what_is_referred_to_is_shown(tmp_path):
    html = build(lecture_of(
        tmp_path, "# One", f"## Two\n\n![a < b]({NOTEBOOK}#heat)", f'## Three\n\n![a]({NOTEBOOK}#alpha "printed")',
        '## Four\n\n![a](../results.md#speed_sparse/equal "table")',
        "## Five\n\nNote: 1 min. For the *speaker*.",
    ))  # fmt: skip
    assert 'alt="a &lt; b" src="data:image/png;base64,iVBOR' in html
    assert "tau = 0.25: alpha =" in html and "<td>K of the walk</td>" in html
    assert "<aside><p>1 min. For the <em>speaker</em>.</p>" in html


@pytest.mark.parametrize(
    "html, count",
    [
        ('<img src="https://example.org/a.png">', 2),
        ('<img src="a.png">', 1),
        ('<script src="reveal.js"></script>', 1),
        ('<link rel="stylesheet" href="a.css">', 2),
        ("<style>body { background: url(a.png) }</style>", 1),
        ('<style>@import "a.css"</style>', 1),
        ('<img src="data:image/png;base64,AAAA"><math xmlns="http://www.w3.org/1998/Math/MathML"></math>', 0),
    ],
)
def test_what_lies_elsewhere_is_found(html, count):
    assert len(outside(html)) == count


@needs_chromium
def test_slides_that_are_too_full_or_too_small_are_found(tmp_path):
    too_full = {
        "- a line\n" * 9: None,
        "- a line\n" * 19: "slide below large is too large",
        "```\n" + "x" * 99 + "\n```": "long is too large",
        f"![a]({NOTEBOOK}#heat)\n\n" + "- a line\n" * 9: "slide below is too large",
        f"![a]({NOTEBOOK}#lives)\n\n" + "- a line\n" * 14: "slide beside is too large",
        "Small.": "P is too small",
    }
    html = build(lecture_of(tmp_path, *(f"## A slide\n\n{slide}" for slide in too_full)))
    html = html.replace("<p>Small", '<p style="font-size: .7rem">Small')
    wanted = [f"slide {i}: {wrong}" for i, wrong in enumerate(too_full.values(), 1) if wrong]
    assert what_does_not_fit(tmp_path, html) == wanted
