"""A run is alone: nothing of what it was started in reaches it, and nothing of it is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from ctpo.training.platforms.environment import inherited
from experiments.compose import composed
from experiments.launch import run_environment
from experiments.submission.queue import asked_from_outside
from experiments.surroundings import LONGEST_FOLDER, folder_for_sockets, of_a_run, ray_settings

pytestmark = pytest.mark.slow

#: Left by other programs, or settings that no record would name.
FOREIGN = """
RAY_ADDRESS RAY_TMPDIR RAY_NAMESPACE RAY_RUNTIME_ENV_HOOK RAY_JOB_CONFIG_JSON_ENV_VAR VLLM_PORT VLLM_PLUGINS
VLLM_RPC_BASE_PATH VLLM_HOST_IP VERL_FULL_DETERMINISM MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK GROUP_RANK
LOCAL_WORLD_SIZE ROLE_NAME TORCHELASTIC_RUN_ID WANDB_RUN_ID WANDB_RESUME WANDB_DIR WANDB_SWEEP_ID WANDB_NAME
ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK PYTHONINSPECT PYTHONSTARTUP
"""
#: The site's, and a person's on purpose.
OWN = """
PATH HOME PYTHONPATH LD_LIBRARY_PATH HF_HOME HF_HUB_OFFLINE HF_TOKEN WANDB_API_KEY WANDB_BASE_URL WANDB_ENTITY
WANDB_MODE NCCL_SOCKET_IFNAME CUDA_HOME CUDA_VISIBLE_DEVICES RAY_memory_usage_threshold VLLM_CACHE_ROOT SLURM_JOB_ID
CTPO_CACHE RANKING
"""


def variables(*names: str) -> dict[str, str]:
    return {name: "x" for text in names for name in text.split()}


def test_what_other_programs_left_is_not_inherited() -> None:
    kept = inherited(variables(FOREIGN, OWN), "cuda")
    assert set(FOREIGN.split()).isdisjoint(kept)
    assert kept.keys() >= set(OWN.split())
    assert "CUDA_VISIBLE_DEVICES" not in inherited({"CUDA_VISIBLE_DEVICES": "nonsense"}, "cpu")


def test_no_proxy_stands_before_this_machine() -> None:
    assert "NO_PROXY" not in inherited({}, "cpu")
    kept = inherited({"https_proxy": "http://proxy:3128", "no_proxy": ".corp"}, "cpu", ("node7", "10.0.0.7"))
    assert kept["no_proxy"] == kept["NO_PROXY"] == ".corp,localhost,127.0.0.1,::1,node7,10.0.0.7"


JOB = """
SLURM_JOB_ID SLURM_NTASKS SLURM_MEM_PER_CPU SLURM_CPU_BIND SLURM_CPUS_PER_TASK SLURM_TASKS_PER_NODE SLURM_STEP_ID
SLURMD_NODENAME SRUN_CPUS_PER_TASK SUBMITIT_EXECUTOR PMI_RANK PMIX_RANK
"""
#: Each has a field in a profile, which reads the variable where a person may set it.
FIELDS = """
SBATCH_PARTITION SBATCH_ACCOUNT SBATCH_QOS SBATCH_CONSTRAINT SBATCH_TIMELIMIT SBATCH_MEM_PER_CPU SBATCH_GPUS
SBATCH_GPUS_PER_NODE SBATCH_SIGNAL SBATCH_NO_REQUEUE SBATCH_ARRAY_INX
"""
CHOSEN = """
PATH SLURM_CONF SLURM_CLUSTERS SLURM_JWT SBATCH_RESERVATION SBATCH_CLUSTERS SBATCH_EXPORT QWEN3_4B
"""


def test_a_request_is_made_as_if_no_job_were_around() -> None:
    assert set(asked_from_outside(variables(JOB, FIELDS, CHOSEN))) == set(CHOSEN.split())


def test_sbatchs_variables_are_in_the_request_where_the_profile_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "mine")
    assert composed(["slurm=h100_node"]).slurm.partition == "mine"
    assert composed(["slurm=h100_node", "slurm.partition=other"]).slurm.partition == "other"


@pytest.mark.parametrize("given", ["", "/nowhere", "relative", "/proc", "/etc/passwd", "x" * 200])
def test_a_tmpdir_that_cannot_hold_sockets_is_not_used(tmp_path: Path, given: str) -> None:
    if given.startswith("x"):
        given = str(tmp_path / given)
        Path(given).mkdir()
    assert folder_for_sockets({"TMPDIR": given}) == "/tmp"


def test_a_short_tmpdir_is_used() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        assert len(short) <= LONGEST_FOLDER
        assert folder_for_sockets({"TMPDIR": f"{short}/"}) == short


def test_ray_joins_no_cluster_but_the_one_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my checkout/it's $HOME/bin/python")
    alone = ray_settings({"num_cpus": 2, "runtime_env": {"env_vars": {"A": "b"}}}, "/tmp/x")
    assert (alone["address"], alone["_temp_dir"], alone["num_cpus"]) == ("local", "/tmp/x", 2)
    assert alone["runtime_env"]["env_vars"] == {"A": "b"}
    # Ray hands this to a shell as it stands.
    said = subprocess.run(
        ["bash", "-c", f"echo {alone['runtime_env']['py_executable']}"], capture_output=True, text=True
    )
    assert said.stdout == "/my checkout/it's $HOME/bin/python\n"
    joined = ray_settings({"address": "10.0.0.1:6379"}, "/tmp/x")
    assert joined["address"] == "10.0.0.1:6379"
    assert "_temp_dir" not in joined


def test_a_wandb_run_is_one_run() -> None:
    composed_once = composed([])

    def name(**changes: object) -> str:
        config = composed_once.copy()
        for field, value in changes.items():
            OmegaConf.update(config, field.replace("__", "."), value)
        found = run_environment(config)["WANDB_RUN_ID"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", found)
        return found

    # A restart, perhaps as a job, whose model and data have been prepared.
    assert name() == name(
        actor_rollout_ref__model__path="/cache/model", data__train_files=["/a"], slurm__profile="local"
    )
    others = [
        name(run__root="/elsewhere"), name(run__seed=1), name(actor_rollout_ref__actor__optim__lr=1e-5),
        name(run__variant="a:b,c/d e%é"), name(run__variant="a:b,c/d e%ü"), name(run__sweep="x" * 300),
    ]  # fmt: skip
    assert len({name(), *others}) == 7


def test_surroundings_are_put_back_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setenv("RANK", "3")
    before = dict(os.environ)
    with of_a_run("cpu", {"WANDB_DIR": "/here"}) as folder:
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == os.environ["HOME"] == folder
        assert (os.environ["WANDB_DIR"], os.environ.get("RANK")) == ("/here", None)
        left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    assert left.wait(1) == -9
    assert not Path(folder).exists()
    assert dict(os.environ) == before


#: Ray's two agents outlive a driver that is killed, by minutes; their titles have replaced their environment.
KILLED = """
import os, psutil, ray, time
from experiments.surroundings import of_a_run, ray_settings
with of_a_run("cpu", {}) as folder:
    slots = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
    ray.init(**ray_settings(slots, folder), log_to_driver=False)
    agents = []
    while len(agents) < 2:
        time.sleep(0.2)
        children = psutil.Process().children(recursive=True)
        agents = [child.pid for child in children if "Agent" in " ".join(child.cmdline())]
    print(folder, *agents, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_after_kill_9_rays_agents_end_and_their_folder_goes() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, timeout=200)
    assert done.returncode == -9
    folder, *agents = done.stdout.splitlines()[-1].split()
    end = time.monotonic() + 40
    while (left := [*filter(psutil.pid_exists, map(int, agents))] or Path(folder).exists()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left
