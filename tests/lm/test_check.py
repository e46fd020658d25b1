"""`python -m lm check`: with each part missing or broken there is a line and a code, and never a traceback."""

import ast
import importlib
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from packaging.requirements import Requirement

import fast
from lm import check, cli, pretrained
from lm.check import BROKEN, MISSING, OK, PACKAGES, PROBES, Line

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {part.name: part for part in PACKAGES}
BACKENDS = sys.modules["fast.backends"].BACKENDS


def probe(what: str) -> list[Line]:
    return list(check.guarded(PROBES[what][0], what, PROBES[what][1]))


def absent(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def python_m_lm_check(*modules: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """In a Python of its own, in which these modules cannot be imported and no variable says how kernels run."""
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({modules!r})); sys.argv = ['lm', 'check']; "
    code += "runpy.run_module('lm', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "utf8", "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=300)


def statuses(out: str) -> dict[str, str]:
    return {line[19:37].strip(): line.split()[0] for line in out.splitlines()[:-1]}


# --- the whole command --------------------------------------------------------------------------------------------


def test_all_that_the_tests_need_is_here(tmp_path):
    """From a folder that is not the clone's; nothing is left there."""
    done = python_m_lm_check(cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    found = statuses(done.stdout)
    needed = {"Python", *BY_NAME, "bundled models", "out/", *(f"backend {name}" for name in BACKENDS)}
    lacking = {what for what in needed if found[what] != OK}
    assert lacking <= {name for name, part in BY_NAME.items() if not part.needed} | {"backend walk", "backend triton"}
    assert found["backend triton"] == found["triton"], "without a GPU the kernels are interpreted"
    assert "needed parts work" in done.stdout.splitlines()[-1] or "all parts work" in done.stdout
    assert not list(tmp_path.iterdir())


def test_it_runs_where_what_the_other_commands_import_is_missing(tmp_path):
    done = python_m_lm_check("matplotlib", "triton", "numba", "safetensors", "tqdm", "nbclient", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    found = statuses(done.stdout)
    for what in ("matplotlib", "triton", "numba", "safetensors", "tqdm", "nbclient", "backend walk", "backend triton"):
        assert found[what] == MISSING, done.stdout
    assert found["bundled models"] == MISSING and "not tried: safetensors is missing" in done.stdout
    assert found["backend chunked"] == found["backend scan"] == OK
    assert done.stdout.splitlines()[-1] == "needed and not working: safetensors, matplotlib, tqdm, bundled models"


def test_it_runs_without_torch(tmp_path):
    done = python_m_lm_check("torch", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    found = statuses(done.stdout)
    assert found["torch"] == found["backends"] == found["bundled models"] == found["GPU"] == MISSING
    assert found["numpy"] == found["out/"] == found["machine"] == OK


@pytest.mark.parametrize(
    ("lines", "code", "last"),
    [
        ([Line(OK, "a", "")], 0, "all parts work"),
        ([Line(OK, "a", ""), Line(MISSING, "b", "", False)], 0, "all needed parts work; optional and not here: b"),
        ([Line(MISSING, "a", ""), Line(BROKEN, "b", "", False)], 1, "needed and not working: a"),
        ([Line(BROKEN, "a", ""), Line(BROKEN, "c", "")], 1, "needed and not working: a, c"),
    ],
)
def test_the_code_is_that_of_the_needed_parts(monkeypatch, capsys, lines, code, last):
    monkeypatch.setattr(check, "look", lambda: iter(lines))
    assert cli.main(["check"]) == check.main([]) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_a_line_says_what_does_not_work_and_how_to_get_it():
    line = Line(MISSING, "numba", "not installed", False, "the walk", "pip install numba")
    words = "missing  optional  numba             not installed; does not work: the walk; to get it: pip install numba"
    assert str(line) == words
    assert str(line._replace(status=OK, found="0.61")).endswith("numba             0.61")


def test_an_older_python_can_read_it():
    """It would say that Python is too old."""
    for name in ("__init__.py", "__main__.py", "check.py", "machine.py"):
        ast.parse((ROOT / "lm" / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_it_imports_the_standard_library_alone_at_the_top():
    for name in ("__init__.py", "__main__.py", "check.py", "machine.py"):
        for node in ast.parse((ROOT / "lm" / name).read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {str(name).split(".")[0] for name in names} <= sys.stdlib_module_names, name


# --- Python and packages ------------------------------------------------------------------------------------------


def test_versions_are_those_that_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    declared = map(Requirement, [*project["dependencies"], *(part for parts in extras for part in parts)])
    least = {part.name: next(iter(part.specifier)).version for part in declared if part.name != "pre-commit"}
    assert {part.name: part.least for part in PACKAGES} == least
    needed = {part.name for part in map(Requirement, project["dependencies"])} - {"triton"}
    assert {part.name for part in PACKAGES if part.needed} == needed
    assert project["requires-python"] == ">=" + ".".join(map(str, check.PYTHON))


@pytest.mark.parametrize("part", PACKAGES, ids=lambda part: part.name)
def test_a_package_that_is_missing_is_a_line(monkeypatch, part):
    absent(monkeypatch, part.module)
    line = check.package(part)
    assert line.status == MISSING and line.needed == part.needed and line.without
    assert f"{part.name}>={part.least}" in line.get or part.name == "triton"


def test_a_package_that_cannot_be_imported_is_a_line(monkeypatch, tmp_path):
    (tmp_path / "of_another_numpy.py").write_text("raise SystemError('made for another numpy')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    line = check.package(BY_NAME["numba"]._replace(module="of_another_numpy"))
    assert line.status == BROKEN and line.found == "cannot be imported: made for another numpy"


def test_what_a_package_needs_is_named(monkeypatch, tmp_path):
    (tmp_path / "needs_more.py").write_text("import nothing_like_this.below", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    line = check.package(BY_NAME["numba"]._replace(module="needs_more"))
    assert line.status == BROKEN and line.found == "cannot be imported: nothing_like_this is missing"


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.9", BROKEN), ("2.10.9", BROKEN), ("2.11", OK), ("2.11.0+cpu", OK), ("2.100", OK), ("10.0", OK), ("dev", OK)],
)
def test_a_package_that_is_too_old_is_broken(monkeypatch, version, status):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    line = check.package(BY_NAME["torch"])
    assert line.status == status
    assert status == OK or line.found == f"{version}, needs 2.11 or newer"


def test_a_package_that_pip_does_not_know_has_its_own_version(monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert check.package(BY_NAME["torch"]).found == torch.__version__


def test_triton_is_not_to_be_had_everywhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    absent(monkeypatch, "triton")
    assert check.package(BY_NAME["triton"]).get == "it exists for Linux only"


def test_an_old_python_is_a_line(monkeypatch):
    assert check.python().status == OK
    monkeypatch.setattr(check, "PYTHON", (4, 0))
    line = check.python()
    assert line.status == BROKEN and line.needed and line.found.endswith("needs 4.0 or newer")


# --- what the packages are for ------------------------------------------------------------------------------------


def test_backends_agree_with_the_loop():
    found = {line.what: line for line in probe("backends")}
    assert found.keys() == {f"backend {name}" for name in BACKENDS}
    for name, why_not in fast.backends().items():
        assert found[f"backend {name}"].status == (MISSING if why_not else OK), found


@pytest.mark.parametrize("off", [1.001, float("nan")])
@pytest.mark.parametrize("form", ["factorization_memory", "sparse_factorization_memory"])
def test_a_backend_that_is_wrong_here_is_needed_and_broken(monkeypatch, form, off):
    right = getattr(fast, form)

    def wrong(*inputs, backend):
        y, state = right(*inputs, backend=backend)
        return y, state * off if backend == "chunked" else state

    monkeypatch.setattr(fast, form, wrong)
    first, *others = probe("backends")
    assert (first.status, first.needed) == (BROKEN, True) and "DISAGREES" in first.found
    assert not [line for line in others if line.status == BROKEN]


def test_a_backend_that_fails_does_not_hide_the_others(monkeypatch):
    right = fast.sparse_factorization_memory

    def fails(*inputs, backend):
        if backend == "scan":
            raise RuntimeError("no such instruction\non this CPU")
        return right(*inputs, backend=backend)

    monkeypatch.setattr(fast, "sparse_factorization_memory", fails)
    found = {line.what: line for line in probe("backends")}
    assert (found["backend scan"].status, found["backend scan"].found) == (BROKEN, "no such instruction")
    assert found["backend chunked"].status == OK and len(found) == len(BACKENDS)


def test_a_backend_that_cannot_run_is_optional(monkeypatch):
    monkeypatch.setattr(fast, "backends", lambda: {"chunked": None, "walk": "numba is not installed"})
    one, other = probe("backends")
    assert one.status == OK and (other.status, other.needed) == (MISSING, False)
    assert other.found == "numba is not installed" and "auto takes the scan" in other.without


@pytest.mark.parametrize(
    ("module", "what"),
    [("torch", "GPU"), ("fast", "backends"), ("lm.pretrained", "bundled models"), ("jupyter_client", "Jupyter kernel")],
)
def test_what_cannot_be_tried_is_a_line(monkeypatch, module, what):
    def missing():
        importlib.import_module(module)
        yield from PROBES[what][0]()

    absent(monkeypatch, module)
    (line,) = check.guarded(missing, what, PROBES[what][1])
    assert line == Line(MISSING, what, f"not tried: {module.split('.')[0]} is missing", PROBES[what][1])


def test_what_fails_otherwise_is_a_line():
    def fails():
        yield Line(OK, "first", "")
        raise OSError("a library of another system\nwith details")

    first, second = check.guarded(fails, "second", False)
    assert first.status == OK
    assert second == Line(BROKEN, "second", "a library of another system", False)


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert probe("GPU") == [Line(OK, "GPU", "a card", False)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = probe("GPU")
    assert (line.status, line.needed) == (MISSING, False)


def test_a_model_that_cannot_be_read_does_not_hide_the_others(monkeypatch, tmp_path):
    (line,) = probe("bundled models")
    assert line.status == OK and all(name in line.found for name in pretrained.names())
    for name in ("fm", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    (line,) = probe("bundled models")
    assert line.status == BROKEN and line.needed and "fm: " in line.found and "other: " in line.found
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "none")
    (line,) = probe("bundled models")
    assert line.status == MISSING and line.needed


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("python", OK),
        (f"python{sys.version_info[0]}", OK),
        (sys.executable, OK),
        ("/another/python", BROKEN),
        ("python2", BROKEN),
    ],
)
def test_the_kernel_must_be_this_python(monkeypatch, program, status):
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: KernelSpec(argv=[program, "-m"]))
    (line,) = probe("Jupyter kernel")
    assert (line.status, line.needed) == (status, False)
    assert status == OK or line.found == f"python3 starts {program}, not this Python"


def test_no_kernel_is_a_line(monkeypatch):
    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    (line,) = probe("Jupyter kernel")
    assert (line.status, line.needed) == (MISSING, False) and "ipykernel install" in line.get


@pytest.mark.parametrize(
    ("platform", "name"), [("linux", "g++"), ("darwin", "clang++"), ("win32", "cl"), ("linux", "mine")]
)
def test_the_compiler_has_the_name_that_torch_looks_for(monkeypatch, platform, name):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("CXX", raising=False)
    if name == "mine":
        monkeypatch.setenv("CXX", name)
    monkeypatch.setattr(check.shutil, "which", lambda asked: None)
    (line,) = probe("C++ compiler")
    assert (line.status, line.found, line.needed) == (MISSING, f"no {name}", False) and line.get
    monkeypatch.setattr(check.shutil, "which", lambda asked: f"/bin/{asked}" if asked == name else None)
    assert probe("C++ compiler") == [Line(OK, "C++ compiler", f"/bin/{name}", False)]


def test_a_browser_may_have_several_names(monkeypatch):
    monkeypatch.setattr(check.shutil, "which", lambda asked: "/bin/it" if asked == check.BROWSERS[-1] else None)
    assert probe("Chromium") == [Line(OK, "Chromium", "/bin/it", False)]
    monkeypatch.setattr(check.shutil, "which", lambda asked: None)
    (line,) = probe("Chromium")
    assert (line.status, line.needed) == (MISSING, False)


def test_where_nothing_can_be_written_is_a_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (line,) = probe("out/")
    assert line.status == OK and not list(tmp_path.iterdir())
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    (line,) = probe("out/")
    assert (line.status, line.needed) == (BROKEN, True) and str(tmp_path / "out") in line.found


@pytest.mark.parametrize(("size", "words"), [(None, "memory unknown"), (3 << 30, "3.0 GiB of memory")])
def test_cores_and_memory(monkeypatch, size, words):
    monkeypatch.setattr("lm.machine.memory", lambda: size)
    (line,) = probe("machine")
    assert line.status == OK and words in line.found and line.found.split()[0].isdigit()
