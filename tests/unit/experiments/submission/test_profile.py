"""Every cluster profile composes to the request that it documents; wrong values are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments import preflight, resolvers
from experiments.errors import BadRequest
from experiments.submission.executor import JobRequest, batch_scripts
from experiments.submission.profile import profile_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
SUBMITTING = ("h100_node", "h200_node", "h100_array", "cpu_local", "local")


def composed(*overrides: str) -> DictConfig:
    resolvers.register()
    with initialize_config_dir(str(ROOT / "experiments" / "configs"), version_base="1.3"):
        return compose("run", overrides=list(overrides), return_hydra_config=True)


def options(script: str) -> dict[str, str]:
    """The `#SBATCH` lines of a batch script."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def scripts(config: DictConfig, runs: int = 1) -> list[str]:
    requests = [JobRequest(f"sweep-{index}", Path("/runs") / str(index), print) for index in range(runs)]
    return batch_scripts(profile_of(config), Path("/runs/.jobs"), requests)


def test_no_profile_is_forgotten() -> None:
    files = {path.stem for path in (ROOT / "slurm").glob("*.yaml")}
    assert files == {*SUBMITTING, "none", "_cluster"}


@pytest.mark.parametrize("name", SUBMITTING)
def test_a_profile_says_who_runs_the_job(name: str) -> None:
    config = composed(f"slurm={name}")
    assert config.slurm.profile == name
    assert profile_of(config).executor == ("local" if name == "local" else "slurm")


@pytest.mark.parametrize("name", ["h100_node", "h200_node"])
def test_a_node_profile_asks_for_one_whole_node_and_comes_back(name: str) -> None:
    (script,) = scripts(composed("model=qwen3_4b", f"slurm={name}", "slurm.partition=gpu", "slurm.account=lab"))
    asked = options(script)
    assert (asked["nodes"], asked["gpus-per-node"], asked["ntasks-per-node"], asked["mem"]) == ("1", "8", "1", "0")
    assert {"exclusive", "requeue"} <= asked.keys()
    assert (asked["time"], asked["signal"]) == ("1440", "USR2@900")
    assert (asked["partition"], asked["account"]) == ("gpu", "lab")
    # srun does not take it from sbatch, and would bind a task of eight GPUs to one core.
    assert "--cpus-per-task=64" in script.split("# command")[1]


def test_partition_and_account_come_from_sbatchs_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    monkeypatch.setenv("SBATCH_QOS", "high")
    asked = options(scripts(composed("slurm=h100_node"))[0])
    assert (asked["partition"], asked["qos"]) == ("long", "high")


def test_an_array_limits_how_many_run_at_once() -> None:
    (script,) = scripts(composed("slurm=h100_array", "slurm.array_parallelism=2"), runs=5)
    assert options(script)["array"] == "0-4%2"
    assert len(scripts(composed("slurm=h100_node"), runs=5)) == 5


def test_more_nodes_follow_the_trainer() -> None:
    assert options(scripts(composed("model=qwen3_14b", "slurm=h100_node", "trainer.nnodes=2"))[0])["nodes"] == "2"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+slurm.gpu_per_node=8", "slurm.gpu_per_node: no such field"),
        ("slurm.gpus_per_node=0", "slurm.gpus_per_node=0: must be a whole number"),
        ("slurm.timeout_min=1.5", "slurm.timeout_min=1.5"),
        ("slurm.signal_delay_s=86400", "slurm.signal_delay_s=86400: must be shorter than the time limit"),
        ("slurm.array_parallelism=no", "slurm.array_parallelism=no"),
    ],
)
def test_a_wrong_profile_is_named_with_field_and_value(override: str, named: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        profile_of(composed("slurm=h100_node", override))
    assert named in str(refusal.value)


def test_the_submitting_host_needs_no_gpus() -> None:
    config = composed("model=qwen3_4b", "slurm=h100_node")
    OmegaConf.set_struct(config, False)
    del config["hydra"]  # as the launcher hands it on
    assert [problem for problem in preflight.check_request(config) if "n_gpus_per_node" in problem] == []


def test_local_jobs_see_the_gpus_that_they_ask_for() -> None:
    asked = profile_of(composed("slurm=local", "model=qwen3_4b", "slurm.setup=[ulimit -n 65536]"))
    given = asked.submitit_parameters("x")
    assert (given["gpus_per_node"], given["setup"]) == (8, ["ulimit -n 65536"])


def test_setup_lines_can_be_one_text() -> None:
    assert profile_of(composed("slurm=cpu_local", "slurm.setup=module load cuda")).setup == ("module load cuda",)
    lines = profile_of(composed("slurm=cpu_local", "slurm.setup=[module load cuda, ulimit -n 65536]")).setup
    assert lines == ("module load cuda", "ulimit -n 65536")
