"""What the pages say of the code is so: links lead somewhere, quoted lines stand where they are said to."""

import re
from pathlib import Path

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
