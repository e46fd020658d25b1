"""What the pages say of the code is so: links lead somewhere, quoted lines stand where they are said to."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for folder in (".", "docs", "notebooks") for page in sorted((ROOT / folder).glob("*.md"))]
LINK = re.compile(r"\[(?P<text>[^\]]*(?:\][^\](]+)*)\]\((?P<target>[^)#]+)(?P<anchor>#[^)]*)?\)")
QUOTE = re.compile(r"\[`(?P<code>[^`]+)`\]\((?P<target>[^)]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = [m["target"] for m in LINK.finditer(page.read_text(encoding="utf-8")) if "://" not in m["target"]]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, missing


@pytest.mark.parametrize("page", ["README.md", "docs/README.md"])
def test_every_kind_of_reader_is_told_where_to_begin(page):
    """In a sentence with a link, before the first heading of a section."""
    top = (ROOT / page).read_text(encoding="utf-8").partition("\n## ")[0]
    for reader in ("student", "lecturer", "kernel", "contributor"):
        assert re.search(rf"^- [^\n]*\*\*[^*]*{reader}[^*]*\*\*(?:[^\n]|\n  )*\]\(", top, re.MULTILINE), reader


def test_where_the_model_is_from_is_said_up_front():
    """That the paper is known by what is public of it alone, with the table of what is known."""
    first = next(c for c in nbformat.read(ROOT / "notebooks/01_a_memory_you_can_read.ipynb", 4).cells)
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    for text in (readme, first.source):
        assert "knows the paper only" in " ".join(text.split())
        assert "docs/derivation.md#0-the-model" in text and "https://arxiv.org/abs/2511.00315" in text


def test_the_example_of_the_readme_runs():
    (example,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["y"].shape == (1, 128) and names["state"].shape == (1, 64, 128)


def quotes() -> list[tuple[str, str]]:
    return [
        (m["code"], m["target"]) for m in QUOTE.finditer((ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("code, target", quotes())
def test_equations_quote_the_code(code, target):
    text = (ROOT / "docs" / target).read_text(encoding="utf-8")
    wanted = f"def {code}(" if code.startswith("test_") else code
    assert wanted in text, f"{target} no longer holds {code!r}"


@pytest.mark.parametrize("file", ["reference/factorization_memory.py", "fast/kernels/step.py"])
def test_every_equation_of_the_loop_and_of_the_step_kernel_is_in_the_table(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    marked = [line.split("  # (")[0].strip() for line in lines if re.search(r"  # \(\d\)$", line)]
    quoted = [code for code, target in quotes() if target.endswith(file)]
    assert marked and all(line in quoted for line in marked), set(marked) - set(quoted)
