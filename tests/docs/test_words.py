"""Pages can be read: the README fits on a screen, sentences are short, and words are those of the glossary."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("reference", "fast", "layers", "lm", "verify", "experiments", "notebooks")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder, pattern in (
        (".", "*.md"),
        ("docs", "*.md"),
        ("docs/site", "*.md"),
        ("docs/slides", "*.md"),
        ("notebooks", "*.md"),
    )
    for path in (ROOT / folder).glob(pattern)
)
MOST_LINES, MOST_WORDS = 110, 25

# What is written no more, and what is written instead.
RETIRED = {
    r"offered vectors?|vectors? that is offered|offers?": "value",
    r"grouped(?! conv)": "scan",
    r"along with the project|comes? along": "bundled",
    r"published (?:model|checkpoint)s?": "pretrained or bundled",
    r"command_line": "cli",
    r"emptied": "reset",
    r"carried state|state carried": "stateful",
}
UNPLAIN = {r"but for|so many|as such|has not got": "what a beginner of English knows"}  # on pages
# x is the layer's input alone. What is written is the value, W_in x, or x with a bar. Searched with formulas and code.
NOT_THE_VALUE = {
    r"W_i(?![a-z{])": "W_in: i counts slots",
    r"\\theta(?:_\w|_\{[^}]*\}|\[i\])?\s*(?:\\,)?\s*x(?![^\W_])": r"\theta \bar x",
    r"θ(?:_\w|\[i\])? ?[·*]? ?x(?!̄|[^\W_])": "θ x̄",
    r"\btheta(?:_\w|\[i\])?(?: \*)? x(?![^\W_])": "theta value",
    r"\\langle [^$]*?(?<!bar )\bx(?:_\w)? \\rangle": r"\bar x",
    r"⟨[^⟩]*\bx(?:_\w)?(?!̄)⟩": "x̄, or v in tables of the kernels",
    r"<[^<>]*, x(?:_\w)?>": "v",
}
# Where a word is the subject, not the wording.
MAY_NAME = {("docs/decisions.md", r"grouped(?! conv)"), ("CHANGELOG.md", r"grouped(?! conv)")}


def prose(page: str) -> list[str]:
    """The sentences of a page: of its paragraphs, list items and cells, with a formula or code as one word."""
    page = re.sub(r"<!-- result: .*?<!-- end -->|<!--.*?-->", "", page, flags=re.DOTALL)
    page = re.sub(r"^```.*?^```$", "\n", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"`[^`\n]*`|\$[^$\n]*\$", "X", page)
    page = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", page)
    page = re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "\n", page)  # code that is only indented
    page = re.sub(r"^#.*$", "\n", page, flags=re.MULTILINE)
    page = re.sub(r"^\|.*$", lambda row: row[0].replace("|", "\n\n"), page, flags=re.MULTILINE)
    page = re.sub(r"^ *(?:[-*]|\d+\.) ", "\n\n", page, flags=re.MULTILINE)
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", page))
    return [sentence for part in parts for sentence in re.split(r"(?<=[.!?:;])\s+", part) if sentence]


def words(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def docstrings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def markdown() -> dict[str, str]:
    """Pages, and the cells of text of notebooks, by where they stand."""
    found = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        of_it = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        found[path.relative_to(ROOT).as_posix()] = "\n\n".join(of_it)
    return found


def written() -> dict[str, str]:
    """All that is written for a reader: pages, notebooks and docstrings, formulas and code included."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return markdown() | {path.relative_to(ROOT).as_posix(): "\n".join(docstrings(path)) for path in paths}


def texts() -> dict[str, str]:
    """The sentences of it."""
    is_markdown = markdown().keys()
    return {
        where: "\n".join(prose(text)) if where in is_markdown else " ".join(text.split())
        for where, text in written().items()
    }


def retired(where: str, text: str) -> list[str]:
    return [
        f"{where}: {found[0]!r}, write {instead!r}"
        for pattern, instead in (RETIRED | (UNPLAIN if where.endswith(".md") else {})).items()
        if (where, pattern) not in MAY_NAME
        for found in [re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)]
        if found
    ]


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page):
    long = [s for s in prose((ROOT / page).read_text(encoding="utf-8")) if words(s) > MOST_WORDS]
    assert not long, long


def test_words_are_those_of_the_glossary():
    assert not [line for where, text in texts().items() for line in retired(where, text)]


def test_x_is_the_input_and_the_value_has_a_bar():
    wrong = [
        f"{where}: {found[0]!r}, write {instead}"
        for where, text in written().items()
        for pattern, instead in NOT_THE_VALUE.items()
        for found in re.finditer(pattern, text)
    ]
    assert not wrong, "\n".join(wrong)


# One letter, one meaning: what these letters meant elsewhere before, in formulas.
NOT_THE_LETTER = {
    r"\$[NP]\$ (?:pairs|numbers)|1\s*/\s*N\b|N \\times P": "N is a part of the adjoint, P is nothing",
    r"\bm \+ \\varepsilon": "m is the last token of a lower half; the squares of a slot are its norm",
    r"\bS \\leftarrow": "S is the share left, h is a state",
}


def formulas(text: str) -> list[str]:
    fences = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    blocks = [fence[2] for fence in fences.finditer(text) if fence[1] == "math"]
    text = re.sub(r"`[^`\n]+`", "", fences.sub("", text))
    blocks += re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    return blocks + re.findall(r"\$([^$\n]+)\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL))


def letters(formula: str) -> set[str]:
    r"""Latin ones, with those of a chunk's matrices as "bold A"; words and e to a power are none.

    >>> sorted(letters(r"h_t = \mathbf A_{t,s}\, \bar x + \mathrm{rms}(e^{\theta})"))
    ['bold A', 'h', 's', 't', 'x']
    """
    found = {f"bold {letter}" for letter in re.findall(r"\\mathbf ?{?([A-Za-z])", formula)}
    formula = re.sub(
        r"\\mathbf ?{?[A-Za-z]|\\(?:mathrm|text|begin|end|mathsf)(?:{[^}]*}| T)|\\[A-Za-z]+|e\^", " ", formula
    )
    return found | set(re.findall("[A-Za-z]", formula))


def places() -> dict[str, str]:
    """Where letters must be those of the glossary, by the glossary's name of the place."""
    found = {}
    for where, text in markdown().items():
        if number := re.search(r"notebooks/0*(\d+)_", where):
            found[f"notebook {number[1]}"] = text
        elif number := re.search(r"lecture_(\d)", where):
            found[f"lecture {number[1]}"] = text
    return found | {"derivation.md": markdown()["docs/derivation.md"]}


def known_letters() -> tuple[set[str], dict[str, set[str]]]:
    """The glossary's letters, and those that mean something else in one place."""
    table = (ROOT / "docs/glossary.md").read_text(encoding="utf-8").partition("\n## The model")[0]
    everywhere, here = set(), {place: set() for place in places()}
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if not cells[0].startswith("$"):
            continue
        named = set().union(*map(letters, re.findall(r"\$([^$]+)\$", cells[0])))
        where = [
            f"{kind} {number}"
            for kind, numbers in re.findall(r"(notebook|lecture)s? ([\d, ]+)", cells[1])
            for number in re.findall(r"\d+", numbers)
        ] + re.findall(r"\w+\.md", cells[1])
        for place in where:
            here[place] |= named
        if not where:
            everywhere |= named
    return everywhere, here


@pytest.mark.parametrize("place", places())
def test_letters_of_formulas_are_those_of_the_glossary(place):
    used = set().union(*map(letters, formulas(places()[place])))
    everywhere, here = known_letters()
    assert not used - everywhere - here[place], f"the glossary does not know what these are in {place}"
    assert not here[place] - used, f"{place} has no such letters"


def test_a_letter_has_no_second_meaning():
    wrong = [
        f"{where}: {found[0]!r}: {instead}"
        for where, text in markdown().items()
        for pattern, instead in NOT_THE_LETTER.items()
        for found in re.finditer(pattern, text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("where", markdown())
def test_formulas_survive_markdown(where):
    """GitHub reads a page as Markdown first: these would lose a backslash, open emphasis or end a table's cell."""
    text = re.sub(r"^```.*?^```$|\$\$.*?\$\$", "", markdown()[where], flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    formulas = re.findall(r"\$[^$\n]+\$", text)
    wrong = [f for f in formulas if re.search(r"^\$\s|\s\$$|\\[^A-Za-z\s]|[}\])]_|[*|<~]", f)]
    assert not wrong and text.count("$") == 2 * len(formulas)


@pytest.mark.parametrize("page", ["docs/glossary.md", "docs/derivation.md"])
def test_names_of_the_code_exist(page):
    """A name in code quotes, and nothing else in them, is one that the code has."""
    folders = (ROOT / name for name in (*PACKAGES, "tests"))
    code = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py")))
    named = set(re.findall(r"`([A-Za-z_]\w+)`", (ROOT / page).read_text(encoding="utf-8")))
    unknown = sorted(name for name in named if not re.search(rf"\b{name}\b", code))
    assert named and not unknown, unknown


def test_the_hooks_use_the_ruff_of_the_requirements():
    wanted = re.search(r"^ruff==(.+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
    hooks = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert hooks and set(hooks) == {wanted}


@pytest.mark.parametrize(
    "page, longest",
    [
        ("One two. Three four five.\n", 3),
        ("- one two\n- three\n", 2),
        ("| one two | three |\n| --- | --- |\n", 2),
        ("One `a b c` and $x = y$.\n", 4),
        ("One:\n\n    a b c d e\n\ntwo\n", 1),
        ("```math\na b c d\n```\n", 0),
        ("<!-- result: x -->\none two three\n<!-- end -->\none\n", 1),
        ("[one two](three.md) four\nfive\n", 4),
    ],
)
def test_words_are_counted_as_a_reader_does(page, longest):
    assert max(map(words, prose(page)), default=0) == longest


@pytest.mark.parametrize(
    "where, text, count",
    [
        ("fast/scan.py", "The offered vector, emptied", 2),
        ("fast/scan.py", "a grouped conv1d, a value, so many", 0),
        ("fast/scan.py", "GROUPED", 1),
        ("docs/results.md", "so many", 1),
        ("CHANGELOG.md", "grouped", 0),
    ],
)
def test_retired_words_are_found(where, text, count):
    assert len(retired(where, text)) == count


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("W_i x", True),
        (r"$W_i\,x$", True),
        (r"$W_{\mathrm{in}} x$ and W_in x", False),
        (r"$\theta_s x_s$", True),
        (r"$\theta[i]\, x$", True),
        (r"$\theta_s \bar x_s$", False),
        (r"$\langle h_{t-1}, x_t \rangle$", True),
        (r"$\langle h_{t-1}, \bar x_t \rangle$", False),
        ("(1 − θ) h + θ x", True),
        ("(1 − θ) h + θ x̄", False),
        ("(1 - theta[i]) h[i] + theta[i] x", True),
        ("(1 - theta[i]) h[i] + theta[i] value", False),
        ("⟨h, x_t⟩", True),
        ("⟨h, x̄⟩, ⟨H, v_t⟩", False),
        ("<h_{t-1}, x_t>", True),
        (r"$\alpha = \mathrm{softmax}(W_\alpha x / \tau)$", False),
    ],
)
def test_a_value_without_its_bar_is_found(text, wrong):
    assert any(re.search(pattern, text) for pattern in NOT_THE_VALUE) == wrong
