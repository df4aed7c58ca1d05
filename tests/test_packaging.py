from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import objectives
import optuna_partition

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("optuna_partition", "objectives")

# What the core must not do: read a clock, a file, the environment, or other threads; log.
IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "shutil",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "warnings",
}
PRIVATE_OPTUNA = {"_get_trials", "_is_multi_objective", "_storage", "_study_id", "_trial_id"}


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def private_optuna(tree: ast.Module) -> set[str]:
    """Private names of Optuna that a file imports, or takes from an object that is not `self`."""
    found = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optuna"
        for alias in node.names
        if re.search(r"\._", f".{node.module}.{alias.name}")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE_OPTUNA:
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id == "self"):
                found.add(node.attr)
    return found


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("study._storage.get_all_trials(study._study_id)", {"_storage", "_study_id"}),
        ("from optuna._gp import gp", {"optuna._gp.gp"}),
        ("from optuna.samplers._base import X", {"optuna.samplers._base.X"}),
        ("from optuna.study import _helper", {"optuna.study._helper"}),
        ("from optuna.study import Study\nself._storage = storage", set()),
    ],
)
def test_the_search_for_private_names_finds_them(code: str, names: set[str]) -> None:
    assert private_optuna(ast.parse(code)) == names


def test_private_optuna_names_are_used_in_one_file_only() -> None:
    found = {
        str(path): names for path, tree in sources(*PACKAGES) if (names := private_optuna(tree))
    }
    assert list(found) == ["optuna_partition/samplers/_compat.py"]


def test_the_core_is_pure() -> None:
    files = list(sources("optuna_partition/core"))
    assert len(files) >= 5
    for path, tree in files:
        for name in imported(tree):
            top = name.split(".")[0]
            allowed = top == "numpy" or name.startswith("optuna_partition.core")
            assert allowed or (top in sys.stdlib_module_names and top not in IMPURE), (path, name)


def test_only_the_examples_print() -> None:
    for path, tree in sources(*PACKAGES):
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), path


def test_the_version_is_the_same_everywhere() -> None:
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    changelog = re.search(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation is not None
    assert changelog is not None
    version = optuna_partition.__version__
    assert PYPROJECT["project"]["version"] == version
    assert citation[1] == version
    assert changelog[1] == version
    assert importlib.metadata.version("optuna-partition") == version


def test_the_samplers_need_little() -> None:
    names = {re.match(r"[\w-]+", need)[0] for need in PYPROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert names == {"optuna", "numpy", "scipy", "threadpoolctl"}


def test_every_requirement_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==\d[\w.]*", pin) for pin in pins)
    pinned = {canonical(pin.split("==")[0]) for pin in pins}
    extras = PYPROJECT["project"]["optional-dependencies"]
    needs = [*PYPROJECT["project"]["dependencies"], *(need for e in extras.values() for need in e)]
    named = {canonical(re.match(r"[\w.-]+", need)[0]) for need in needs}  # type: ignore[index]
    assert named - pinned == {"optuna-partition"}


def test_the_pins_are_what_is_installed() -> None:
    """A test run with other versions than the pinned ones would say nothing about them."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    extras = ("gp", "llm", "plot", "dashboard", "postgres", "dev")
    for extra in extras:
        for need in PYPROJECT["project"]["optional-dependencies"][extra]:
            name = re.match(r"[\w.-]+", need)[0]  # type: ignore[index]
            if name != "optuna-partition":
                installed = importlib.metadata.version(name).split("+")[0]
                assert installed == {canonical(k): v for k, v in pins.items()}[canonical(name)]


def test_no_other_distribution_brings_objectives() -> None:
    # An editable install lists no top-level names, so ours may be missing, but none may be added.
    for package in PACKAGES:
        owners = importlib.metadata.packages_distributions().get(package, [])
        assert set(owners) <= {"optuna-partition"}
    assert objectives.__file__ == str(ROOT / "objectives" / "__init__.py")


def test_the_hooks_are_the_checks_of_make_lint() -> None:
    makefile = (ROOT / "Makefile").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    lint = re.search(r"^lint:([\w\s-]*)##", makefile, re.MULTILINE)
    assert lint is not None
    assert set(re.findall(r"(lint-\w+)", hooks)) == set(lint[1].split())
    assert "repo: http" not in hooks


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert lines[-1] == "exec make test"


@pytest.mark.parametrize("found", [[], ["python3 3.10"]])
def test_make_says_so_when_there_is_no_new_python(found: list[str], tmp_path: Path) -> None:
    """On a copy of the Makefile alone, with a PATH on which Python is missing or too old."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "make", "rm", "touch"):
        path = next(p for d in ("/usr/bin", "/bin") if (p := Path(d) / tool).exists())
        (tools / tool).symlink_to(path)
    for entry in found:
        old = tools / entry.split()[0]
        old.write_text("#!/bin/bash\nexit 1\n")
        old.chmod(0o755)
    done = subprocess.run(
        [str(tools / "make"), "SHELL=" + str(tools / "bash"), ".venv/.made"],
        cwd=tmp_path,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs Python >= 3.11" in done.stderr
    assert not (tmp_path / ".venv").exists()


def canonical(name: str) -> str:
    """A distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class CoreEnvironment:
    """A fresh environment into which the package was installed without any extra."""

    python: Path
    folder: Path

    def run(self, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run code away from the checkout, so that only what is installed can be imported."""
        return subprocess.run(
            [str(self.python), "-I", "-c", code],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def result(self, code: str) -> Any:
        """What the code prints last, as JSON."""
        done = self.run(code, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> CoreEnvironment:
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = [*pip, "install", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return CoreEnvironment(python, folder)


@pytest.mark.slow
def test_core_install_brings_no_framework(core: CoreEnvironment) -> None:
    names = core.result(
        "import importlib.metadata as m, json\n"
        "print(json.dumps([d.metadata['Name'] for d in m.distributions()]))"
    )
    installed = {canonical(name) for name in names}
    assert {"optuna", "numpy", "scipy", "optuna-partition"} <= installed
    assert not installed & {"torch", "plotly", "litgpt", "transformers", "lm-eval"}
    assert len(installed) < 20


@pytest.mark.slow
def test_core_install_owns_both_packages(core: CoreEnvironment) -> None:
    owners = core.result(
        "import importlib.metadata as m, json; print(json.dumps(m.packages_distributions()))"
    )
    assert {package: owners[package] for package in PACKAGES} == {
        "optuna_partition": ["optuna-partition"],
        "objectives": ["optuna-partition"],
    }
    assert not {"tests", "examples", "docs"} & set(owners)


@pytest.mark.slow
def test_core_install_is_typed_and_carries_its_data(core: CoreEnvironment) -> None:
    files = core.result(
        "import importlib.metadata as m, json\n"
        "print(json.dumps([str(f) for f in m.files('optuna-partition')]))"
    )
    assert {
        "optuna_partition/py.typed",
        "objectives/py.typed",
        "optuna_partition/visualization/report.html",
    } <= set(files)


@pytest.mark.slow
def test_core_install_optimizes(core: CoreEnvironment) -> None:
    values = core.result(
        "import json, optuna, optuna_partition\n"
        "from objectives.synthetic import BRANIN\n"
        "values = []\n"
        "for sampler in (optuna_partition.SOOSampler(), optuna_partition.DIRECTSampler()):\n"
        "    study = optuna.create_study(sampler=sampler)\n"
        "    study.optimize(BRANIN.objective, n_trials=30)\n"
        "    values.append(study.best_value)\n"
        "print(json.dumps(values))"
    )
    assert max(values) < 3


@pytest.mark.slow
def test_core_import_is_quick_and_lean(core: CoreEnvironment) -> None:
    """Under 1 s of CPU beyond what importing optuna and numpy costs."""
    report = core.result(
        "import json, sys, time, numpy, optuna, optuna.samplers\n"
        "before, start = set(sys.modules), time.process_time()\n"
        "import optuna_partition\n"
        "spent = time.process_time() - start\n"
        "new = sorted(set(sys.modules) - before)\n"
        "print(json.dumps({'spent': spent, 'new': new, 'all': sorted(sys.modules)}))"
    )
    assert report["spent"] < 1
    foreign = [name for name in report["new"] if not name.startswith("optuna_partition")]
    assert len(foreign) < 100
    heavy = {"torch", "plotly", "litgpt", "transformers", "pandas", "objectives"}
    assert not heavy & {name.split(".")[0] for name in report["all"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "extra"),
    [
        (
            "import optuna\n"
            "from optuna_partition.visualization import plot_convergence\n"
            "plot_convergence(optuna.create_study())",
            "plot",
        ),
        ("from objectives import FineTuneObjective", "llm"),
        ("from optuna_partition import BoTorchGPSampler", "gp"),
    ],
)
def test_a_missing_extra_is_named(core: CoreEnvironment, code: str, extra: str) -> None:
    done = core.run(code, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert f"pip install 'optuna-partition[{extra}]'" in last


def test_importing_the_samplers_loads_no_framework() -> None:
    """In the full environment too, where everything could be imported."""
    code = "import json, sys, optuna_partition; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "plotly", "litgpt", "transformers", "pandas", "objectives"}
