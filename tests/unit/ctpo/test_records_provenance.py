"""What a run was made of: the checkout's sources within bounds, and the code of a user's own method."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ctpo.methods import MethodError, configure
from ctpo.records import RecordError, RunDirectory
from ctpo.records.method_code import fingerprints, keep, sources
from ctpo.records.provenance import MAX_DIFF_BYTES, git_state

METHOD = """
from ctpo.methods.log_ratios import LogRatio, masked
from ctpo.methods import Method
from ctpo.methods.windows import PositionAdaptiveWindow
import {imports}

def ratio(increments, bits):
    return masked(increments.cumsum(-1), bits)

method = Method("{name}", LogRatio("{ratio}", ratio), {window}, "mine")
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    (folder / "figure.md").write_text("1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_diff_makes_the_sources_again(checkout: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", str(checkout), str(clean))
    (checkout / "a.py").write_text("x = 2\n")
    (checkout / "sub").mkdir()
    new = {"sub/b c.py": "y = 1\n\x0c\u2028z", "d.yaml": "a: 1\n", "e.py": ""}
    for name, text in new.items():
        (checkout / name).write_text(text)
    state, diff = git_state(checkout)
    assert state == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "dirty": True}
    (tmp_path / "uncommitted.diff").write_text(diff)
    git(clean, "apply", str(tmp_path / "uncommitted.diff"))
    assert {name: (clean / name).read_text() for name in new} == new
    assert (clean / "a.py").read_text() == "x = 2\n"


def test_figures_data_and_what_is_ignored_are_no_change(checkout: Path) -> None:
    (checkout / "figure.md").write_text("2\n")
    (checkout / "weights.bin").write_bytes(bytes(1000))
    assert git_state(checkout)[0]["dirty"] is False
    assert git_state(checkout)[1] == ""


def test_a_stray_virtual_environment_does_not_fill_the_disk(checkout: Path) -> None:
    for number in range(300):
        path = checkout / "env" / f"m{number:03d}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("a = 1\n" * 2000)
    (checkout / "huge.py").write_text("#" * (MAX_DIFF_BYTES + 1))
    _, diff = git_state(checkout)
    assert len(diff) < MAX_DIFF_BYTES + 200
    assert diff.endswith("of 301 untracked files left out\n")


# ---------------------------------------------------------------------------- one's own method


def own_method(
    folder: Path,
    *,
    name: str = "mine",
    ratio: str = "my ratio",
    window: str = "PositionAdaptiveWindow(0.1, 0.1)",
    imports: str = "json",
    module: str = "own",
) -> dict[str, str]:
    (folder / f"{module}.py").write_text(METHOD.format(name=name, ratio=ratio, window=window, imports=imports))
    return {"import_path": f"{module}:method", "search_path": str(folder)}


POSING = "type('RatioWindow', (), {'log_bounds': lambda self, positions: (positions, positions)})()"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ctpo"}, "its name 'ctpo' is one of this project's"),
        ({"name": "grpo"}, "its name 'grpo' is one of this project's"),
        ({"ratio": "cumulative"}, "its log_ratio is called 'cumulative', as another one in this project"),
        ({"window": POSING}, "its window is called 'RatioWindow', as another one in this project"),
    ],
)
def test_no_part_of_an_own_method_poses_as_one_of_the_projects(
    tmp_path: Path, changes: dict[str, str], message: str, request: pytest.FixtureRequest
) -> None:
    module = f"own_{abs(hash(message))}"
    with pytest.raises(MethodError, match=message):
        configure("custom", own_method(tmp_path, module=module, **changes))


def test_its_code_is_the_file_and_what_it_imports_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import deeper.inner, os\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "__init__.py").write_text("from . import sibling\n")
    (tmp_path / "deeper" / "inner.py").write_text("from .sibling import x\nfrom .. import nothing\n")
    (tmp_path / "deeper" / "sibling.py").write_text("def f():\n    import late\nx = 1\n")
    (tmp_path / "late.py").write_text("")
    (tmp_path / "unrelated.py").write_text("")
    (tmp_path / "ctpo").mkdir()
    (tmp_path / "ctpo" / "__init__.py").write_text("a checkout that the run is started in")
    node = own_method(tmp_path, imports="helper, numpy, own_a", module="own_a")
    assert list(sources(**node)) == [
        "deeper/__init__.py",
        "deeper/inner.py",
        "deeper/sibling.py",
        "helper.py",
        "late.py",
        "own_a.py",
    ]
    before = fingerprints(**node)
    (tmp_path / "unrelated.py").write_text("edited")
    assert fingerprints(**node) == before
    (tmp_path / "late.py").write_text("edited")
    assert {name for name, value in fingerprints(**node).items() if before[name] != value} == {"late.py"}


def test_of_an_installed_package_only_its_own_modules_count() -> None:
    assert {name.partition("/")[0] for name in sources("tqdm.utils:method", None)} == {"tqdm"}


@pytest.mark.parametrize("import_path", [None, "", ":", "nowhere_x:method", "own_b:method", "..:m", "os:method"])
def test_what_cannot_be_found_has_no_code(tmp_path: Path, import_path: str | None) -> None:
    (tmp_path / "own_b").mkdir()
    assert "own_b" not in str(fingerprints(import_path, str(tmp_path)))


def config_of(node: dict[str, str]) -> dict[str, object]:
    run = {"sweep": "demo", "model": "tiny", "method": "mine", "seed": 0}
    return {"run": run, "method": {"name": "custom", **node, "code": fingerprints(**node)}}


def test_an_edited_file_is_another_configuration_and_the_copy_remains(tmp_path: Path) -> None:
    node = own_method(tmp_path, module="own_c")
    original = (tmp_path / "own_c.py").read_text()
    run = RunDirectory(tmp_path / "runs" / "demo" / "tiny" / "mine" / "seed0")
    config = config_of(node)
    run.open_for_training(config, seeds={}, check=lambda: keep(run.path, **node, recorded=config["method"]["code"]))  # type: ignore
    run.finish("finished")
    assert (run.path / "method_code" / "own_c.py").read_text() == original
    assert run.open_for_training(config_of(node), seeds={}) == "finished"
    (tmp_path / "own_c.py").write_text(original + "# edited\n")
    with pytest.raises(RecordError) as refused:
        run.open_for_training(config_of(node), seeds={})
    assert "method.code.own_c.py (recorded" in str(refused.value)
    assert f"The method's code was edited: restore it from {run.path}/method_code" in str(refused.value)
    assert (run.path / "method_code" / "own_c.py").read_text() == original


def test_a_training_process_refuses_code_that_was_edited_since_the_start(tmp_path: Path) -> None:
    node = own_method(tmp_path, module="own_d")
    code = fingerprints(**node)
    assert configure("custom", {**node, "code": code}).name == "custom"
    (tmp_path / "own_d.py").write_text((tmp_path / "own_d.py").read_text() + "\n")
    with pytest.raises(MethodError, match=r"own_d\.py was edited since the run began"):
        configure("custom", {**node, "code": code})
    with pytest.raises(RecordError, match=r"own_d\.py was edited while the run started"):
        keep(tmp_path / "run", **node, recorded=code)
