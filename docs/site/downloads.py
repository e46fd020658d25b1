"""What the site gives away as files: two archives, the notebooks, the slides, and a front page that says so.

All is made from the working tree when the site is built, without a network.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # sphinx-build is started from anywhere

from notebooks import slides, student  # noqa: E402

HERE = Path(__file__).parent
ARCHIVE, STUDENT = "factorization-memory", "student"
PROJECT = f"downloads/{ARCHIVE}.zip"
NOT_PACKED = {"out", "__pycache__"}  # where git cannot say what belongs to the project


def tree() -> list[Path]:
    """The files of the project: those that git tracks, or all that are not hidden where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout and (ROOT / ".git").exists():
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
        return sorted(path for path in found if path.is_file() and not path.is_symlink())
    kept = {".ci", ".github", ".gitignore", ".pre-commit-config.yaml"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name in kept or (name not in NOT_PACKED and name[0] != ".")]
        found += [Path(folder, name) for name in names if name in kept or name[0] != "."]
    return sorted(found)


def pack(archive: Path, files: list[Path], root: Path, name: str) -> None:
    """A zip with one folder, the same bytes for the same files. What can be executed stays so."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            info = zipfile.ZipInfo(f"{name}/{path.relative_to(root).as_posix()}")  # dated 1980
            info.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, path.read_bytes())


def front(sizes: dict[str, str], repository: str | None) -> str:
    """What the first page says of it. Without an address of the repository there is no line about it."""
    text = (HERE / "front.md").read_text(encoding="utf-8")
    if not repository:
        text = "\n".join(line for line in text.splitlines() if "{repository}" not in line)
    return text.format(repository=repository, **sizes) + "\n" + student.start()


def repository() -> str | None:
    """The address in pyproject.toml, which is the only place for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"


def make(app) -> None:
    """Before pages are read, so that they can say how large a file is."""
    out, shows = Path(app.outdir, "downloads"), Path(app.outdir, "slides")
    for folder in (out, shows):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, STUDENT)
        student.hand_out(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        pack(out / f"{STUDENT}.zip", files, folder, STUDENT)
        for notebook in (folder / "notebooks").glob("*.ipynb"):
            shutil.copy(notebook, out)
    pack(out / f"{ARCHIVE}.zip", tree(), ROOT, ARCHIVE)
    shutil.copy(ROOT / "requirements.txt", out)
    for lecture in slides.LECTURES:
        (shows / shown_as(lecture.stem)).write_text(slides.build(lecture), encoding="utf-8")


def shown_as(lecture: str) -> str:
    """The finished slides of docs/slides/lecture_1.md."""
    return f"{lecture.replace('_', '-')}.html"


def made_from(app, path: str) -> str | None:
    """The file of the site to which a link to this path leads, if it is one of these."""
    target = Path(path)
    if target.parent == Path("docs/slides") and target.stem.startswith("lecture_"):  # Sphinx leaves .md out
        return f"slides/{shown_as(target.stem)}"
    return path if target.parts[0] == "downloads" and Path(app.outdir, path).is_file() else None


def on_the_first_page(app, docname: str, source: list[str]) -> None:
    if docname == app.config.root_doc:
        out = Path(app.outdir, "downloads")
        sizes = {"student": size(out / f"{STUDENT}.zip"), "project": size(out / f"{ARCHIVE}.zip")}
        before, heading, after = source[0].partition("\n## ")
        source[0] = f"{before}\n{front(sizes, repository())}{heading}{after}"


def on_a_notebooks_page(app, pagename: str, template: str, context: dict, doctree) -> None:
    path = Path(app.outdir, "downloads", f"{Path(pagename).name}.ipynb")
    if pagename.startswith("notebooks/") and path.is_file() and "body" in context:
        links = (
            f'<p class="downloads"><a href="../downloads/{path.name}" download>This notebook</a> as a file. To run it, '
            'take <a href="../README.html#take-it-with-you">the folder that it needs</a>, too.</p>'
        )
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{links}", 1)


def setup(app) -> None:
    app.connect("builder-inited", make)
    app.connect("source-read", on_the_first_page)
    app.connect("html-page-context", on_a_notebooks_page)
