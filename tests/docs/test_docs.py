"""What the pages say of the code is so: links lead somewhere, quoted lines stand where they are said to."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments import settings, slots, speed_dense, speed_sparse
from lm import checkpoint
from lm.evaluate import Buckets

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[(?P<text>[^\]]*(?:\][^\](]+)*)\]\((?P<target>[^)#]+)(?P<anchor>#[^)]*)?\)")
QUOTE = re.compile(r"\[`(?P<code>[^`]+)`\]\((?P<target>[^)]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = [m["target"] for m in LINK.finditer(page.read_text(encoding="utf-8")) if "://" not in m["target"]]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, missing


def quotes() -> list[tuple[str, str]]:
    return [
        (m["code"], m["target"]) for m in QUOTE.finditer((ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("code, target", quotes())
def test_equations_quote_the_code(code, target):
    text = (ROOT / "docs" / target).read_text(encoding="utf-8")
    wanted = f"def {code}(" if code.startswith("test_") else code
    assert wanted in text, f"{target} no longer holds {code!r}"


@pytest.mark.parametrize("file", ["reference/factorization_memory.py", "fast/triton_step.py"])
def test_every_equation_of_the_loop_and_of_the_step_kernel_is_in_the_table(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    marked = [line.split("  # (")[0].strip() for line in lines if re.search(r"  # \(\d\)$", line)]
    quoted = [code for code, target in quotes() if target.endswith(file)]
    assert marked and all(line in quoted for line in marked), set(marked) - set(quoted)


def test_the_pages_show_the_speeds_that_were_measured():
    readme, kernels = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "kernels.md"))
    results = (ROOT / "docs" / "results" / name for name in ("cpu.json", "sparse.json"))
    dense, sparse = (json.loads(path.read_text(encoding="utf-8")) for path in results)
    assert speed_dense.table(dense["rows"]) in readme
    assert speed_sparse.findings(sparse) in readme
    assert speed_sparse.table(sparse["grid"]) in kernels


def test_the_page_shows_the_short_runs_that_chose_the_models():
    result = json.loads(settings.RESULTS.read_text(encoding="utf-8"))
    assert [row["change"] for row in result["rows"]] == settings.VARIANTS
    assert settings.table(result["rows"]) in (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")


def test_the_picture_of_the_slots_is_drawn_from_what_was_measured():
    text = slots.RESULTS.read_bytes()
    with Image.open(slots.RESULTS.with_suffix(".png")) as picture:
        assert picture.text["Source"] == slots.fingerprint(text)
    result = json.loads(text)
    theta, tokens = torch.tensor(result["theta"]), torch.tensor(result["tokens"])
    space = theta[tokens == ord(" ")].sum(0)
    words = f"Runs of spaces go mostly to slot {int(space.argmax())}, "
    assert space.max() > space.sum() / 2 and words in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", checkpoint.published())
def test_the_readme_shows_the_losses_that_were_measured(name):
    results = checkpoint.read_record(checkpoint.PUBLISHED / name)["results"]
    carried, emptied = (Buckets(**results[part]) for part in ("carried", "reset"))
    places = [carried.last.index(last) for last in (256, 512, 2048, 16384)]
    cells = [f"{carried.mean[k]:.2f} ({carried.low[k]:.2f}–{carried.high[k]:.2f})" for k in places]
    assert " | ".join([*cells, f"{emptied.mean[-1]:.2f}"]) in (ROOT / "README.md").read_text(encoding="utf-8")
