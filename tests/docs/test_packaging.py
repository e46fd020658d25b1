"""What an installed package declares is what it imports and holds, and does not contradict what a clone installs."""

import ast
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
TOOLS = {"experiments", "notebooks"}  # what a clone runs: they need more than the library
OPTIONAL = {"hypothesis", "jax", "numba"}  # what is imported only when it is asked for
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
DECLARED = {part.name: part for part in map(Requirement, PYPROJECT["project"]["dependencies"])}


def imported(path: Path) -> set[str]:
    """The outermost modules that a file imports."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def needed(packages: set[str]) -> set[str]:
    """The outermost modules that packages import, but for Python's and the project's own."""
    files = [path for package in packages for path in (ROOT / package.replace(".", "/")).glob("*.py")]
    return set().union(*map(imported, files)) - set(sys.stdlib_module_names) - set(PACKAGES)


def test_every_import_is_declared():
    assert needed(set(PACKAGES) - TOOLS) - OPTIONAL == DECLARED.keys()


def test_what_is_needed_only_when_asked_is_an_extra_or_the_users():
    """verify's hypothesis, and whatever a user's kernel needs; the walk's numba."""
    extras = {Requirement(part).name for name in ("verify", "walk") for part in EXTRAS[name]}
    assert extras == needed({"verify", "fast"}) & OPTIONAL - {"jax"}
    assert needed(set(PACKAGES) - {"verify", "fast"}).isdisjoint(OPTIONAL)


def test_what_the_tools_need_beyond_that_is_an_extra():
    extra = {Requirement(part).name.replace("-", "_") for part in EXTRAS["notebooks"]}
    beyond = needed(TOOLS) - DECLARED.keys() - OPTIONAL
    # Pillow comes with matplotlib, IPython with ipykernel; the peers are measured where they are installed.
    assert beyond - {"PIL", "IPython", "fla", "mamba_ssm"} <= extra


def test_the_pins_of_a_clone_satisfy_what_the_package_asks_for():
    lines = [
        line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line[:1] not in "#-"
    ]
    pins = {pin.name: pin for pin in map(Requirement, lines)}
    extras = {part.name: part for parts in EXTRAS.values() for part in map(Requirement, parts)}
    assert pins.keys() | {"pre-commit"} == DECLARED.keys() | extras.keys()  # hooks are for who commits
    for name, part in (DECLARED | {name: part for name, part in extras.items() if name in pins}).items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==" and part.specifier.contains(pin.version), name
        assert str(part.marker).replace("'", '"') == str(pins[name].marker).replace("'", '"'), name


def test_the_trained_models_are_in_the_package():
    (pattern,) = PYPROJECT["tool"]["setuptools"]["package-data"]["lm"]
    held = set((ROOT / "lm").glob(pattern))
    trained = {
        path for path in (ROOT / "lm" / "checkpoints").rglob("*") if path.name in ("run.json", "model.safetensors")
    }
    assert trained and trained <= held
    assert PYPROJECT["project"]["license-files"] == ["LICENSE"]  # which `publish` reads


def test_every_folder_of_code_is_in_the_package():
    folders = {path.parent for package in PACKAGES for path in (ROOT / package.split(".")[0]).rglob("*.py")}
    assert {str(folder.relative_to(ROOT)).replace("/", ".") for folder in folders} - {"notebooks.solutions"} == set(
        PACKAGES
    )


def test_an_index_refuses_it():
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]
