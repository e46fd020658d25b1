"""Text is read and written as UTF-8 whatever the machine's locale says: every call that has to says so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("reference", "fast", "layers", "lm", "experiments", "notebooks", "tests")
NOTEBOOKS = ("notebooks", "notebooks/solutions")
OTHER_OPENS = ("os.open", "Image.open", "PIL.Image.open")  # these read no text


def without_encoding(source: str) -> list[str]:
    """The calls in a source that open, read or write text in whatever encoding the machine has."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if _is_text(call) and "encoding" not in {k.arg for k in call.keywords}]


def _is_text(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    name = function.rsplit(".")[-1]
    if name in ("read_text", "write_text"):
        return "importlib.metadata" not in function  # whose texts are UTF-8, and which has no such option
    if name != "open" or function in OTHER_OPENS:
        return False
    modes = call.args[function == "open" :][:1] + [k.value for k in call.keywords if k.arg == "mode"]
    return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def sources() -> Iterator[tuple[str, str]]:
    """Every module, and every cell of code."""
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted(path for room in NOTEBOOKS for path in (ROOT / room).glob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                yield path.name, re.sub(r"^[%!].*", "", cell.source, flags=re.MULTILINE)


def test_every_text_names_its_encoding():
    found = {(name, call) for name, source in sources() for call in without_encoding(source)}
    assert not found, found


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("Path(a).read_text()", True),
        ("(a / b).write_text(c)", True),
        ("open(a)", True),
        ("open(a, 'w')", True),
        ("path.open()", True),
        ("path.open('w')", True),
        ("path.open(mode='a')", True),
        ("a.read_text(encoding='utf-8')", False),
        ("open(a, 'w', encoding='utf-8')", False),
        ("open(a, 'rb')", False),
        ("path.open('wb')", False),
        ("path.open(mode='rb')", False),
        ("os.open(a, os.O_RDONLY)", False),
        ("a.read_bytes()", False),
    ],
)
def test_the_check_knows_text_from_bytes(source, bad):
    assert bool(without_encoding(source)) == bad
