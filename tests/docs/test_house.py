"""Who may import whom (docs/architecture.md): read off the import lines of every file."""

import ast
from pathlib import Path

import pytest

from experiments import EXPERIMENTS
from layers import MIXERS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("reference", "fast", "layers", "lm", "verify", "experiments", "notebooks", "tests")
MAY_IMPORT = {
    "reference": set(),
    "fast": set(),
    "layers": {"fast"},
    "lm": {"layers", "fast"},
    "verify": {"reference"},
    "experiments": {"lm", "layers", "fast", "reference", "verify"},
    "notebooks": {"experiments", "lm", "layers", "fast", "reference", "verify"},
    "tests": set(PACKAGES),
}
# The implementations of one operator know nothing of each other. What they share has a module of its own.
IMPLEMENTATIONS = {
    "fast.chunked", "fast.scan", "fast.walk", "fast.step",
    "fast.kernels.dense", "fast.kernels.sparse", "fast.kernels.step",
}  # fmt: skip
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(text: str) -> list[tuple[str, str | None]]:
    """(module, name taken from it or None) of every import, also of those inside functions.

    >>> imports("import fast.chunked\\nfrom fast import scan")
    [('fast.chunked', None), ('fast', 'scan')]
    """
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(str(node.module), alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_go_one_way(path):
    module, package = name_of(path), name_of(path).split(".")[0]
    for source, taken in imports(path.read_text(encoding="utf-8")):
        target = source.split(".")[0]
        if target in PACKAGES and target != package:
            assert target in MAY_IMPORT[package], f"{module} imports {source}"
        if package != "tests" and taken and target in PACKAGES:
            assert not taken.startswith("_"), f"{module} takes {taken}, which is private to {source}"
        if module in IMPLEMENTATIONS:
            both = {source, f"{source}.{taken}"}
            assert not both & IMPLEMENTATIONS, f"{module} imports its sibling {both & IMPLEMENTATIONS}"


def test_the_reference_needs_torch_alone():
    for path in (ROOT / "reference").rglob("*.py"):
        for source, _ in imports(path.read_text(encoding="utf-8")):
            assert source.split(".")[0] in ("torch", "typing", "math", "reference"), f"{path.name} imports {source}"


def test_every_module_says_what_it_owns():
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in FILES}
    assert not [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))]


@pytest.mark.parametrize("package", ["reference", "fast", "layers", "lm", "verify", "experiments"])
def test_every_file_has_its_row_in_the_page(package):
    """But for what a table in the code names: an experiment, and a mixer's loop, fast form and layer."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition(f"\n### {package}\n")[2].partition("\n#")[0]
    files = {path.name for path in (ROOT / package).glob("[a-z]*.py")}
    mixers = {row.module.__module__.rpartition(".")[2] for row in MIXERS.values()}
    missing = {name for name in files if f"`{name}`" not in section and name[:-3] not in {*EXPERIMENTS, *mixers}}
    assert section and not missing, missing
