"""Dependencies point one way (design: `experiments -> ctpo`, `analysis -> ctpo.records`, nothing back)."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(package: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imports(path):
            is_forbidden = any(f"{name}.".startswith(f"{prefix}.") for prefix in forbidden)
            is_allowed = any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)
            if is_forbidden and not is_allowed:
                found.append(f"{path.relative_to(ROOT)} imports {name}")
    return found


def test_the_method_knows_nothing_of_running_reading_or_plotting() -> None:
    plotting = ("matplotlib", "seaborn", "hydra", "submitit")
    assert offenders("ctpo", ("experiments", "analysis", *plotting)) == []


def test_the_analysis_reads_runs_through_their_records_alone() -> None:
    forbidden = ("ctpo", "experiments", "verl", "torch", "ray", "vllm")
    assert offenders("analysis", forbidden, allowed=("ctpo.records",)) == []


def test_running_does_not_analyse() -> None:
    assert offenders("experiments", ("analysis",)) == []


def test_within_ctpo_dependencies_point_one_way_and_without_circles() -> None:
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "ctpo").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}

    def module_of(imported: str) -> str:
        while imported and imported not in modules:
            imported = imported.rpartition(".")[0]
        return imported

    graph = {name: {module_of(imported) for imported in imports(path)} - {"", name} for name, path in modules.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, and names the circle
    above = {
        "methods": {"records"},
        "records": set(),
        "sandbox": set(),
        "positions": {"methods", "records"},
        "tir": {"sandbox"},
        "theory": {"methods"},
    }
    for package, allowed in above.items():
        used = {
            name.split(".")[1] for module in graph if module.startswith(f"ctpo.{package}") for name in graph[module]
        }
        assert used <= allowed | {package}, package


def test_only_records_knows_the_run_directory() -> None:
    """File names of the schema occur in `ctpo/records` and nowhere else in the packages."""
    schema = {"manifest.json", "metrics.jsonl", "position_stats/", "config.yaml", "submission.json"}
    for package in ("ctpo", "experiments", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            if path.is_relative_to(ROOT / "ctpo" / "records"):
                continue
            constants = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert not constants & schema, path


@pytest.mark.parametrize(
    "module", ["ctpo.training.platforms.vllm_cpu", "ctpo.training.platforms.environment", "ctpo.records"]
)
def test_light_modules_stay_light(module: str) -> None:
    """vLLM loads its plugin while verl is still importing: a circle there would be silent (and hang the run)."""
    import subprocess
    import sys

    check = f"import sys, {module}; print(sorted({{'verl', 'torch', 'vllm', 'ray', 'pandas'}} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
