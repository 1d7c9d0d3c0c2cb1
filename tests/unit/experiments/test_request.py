"""Every value that no run can have is refused before anything starts: by field, value and fix, in a line.

One process composes and judges all requests here. The base is composed once; a case changes it as an override does.
"""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from omegaconf import DictConfig, OmegaConf

from ctpo.records.shapes import problems
from experiments import preflight
from experiments.compose import composed
from experiments.preflight import disk
from experiments.preflight.data import request_problems
from experiments.preflight.verl_checks import Checking
from experiments.request import ESTIMATORS, Request, resolved, value_problems

pytestmark = pytest.mark.slow

BASES = {"run": [], "evaluation": ["+evaluation=default"], "problems": ["dataset=deepscaler"], "4b": ["model=qwen3_4b"]}


@pytest.fixture(scope="module")
def bases() -> dict[str, DictConfig]:
    return {name: composed(overrides) for name, overrides in BASES.items()}


def changed(base: DictConfig, field: str, value: Any) -> DictConfig:
    config = base.copy()
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, field, value, force_add=True)
    return config


def with_value(plain: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A resolved configuration with one field set; what refers to it keeps its value."""
    made = copy.deepcopy(plain)
    *parents, name = field.split(".")
    node = made
    for parent in parents:
        node = node.setdefault(parent, {})
    node[name] = value
    return made


@pytest.fixture(scope="module")
def plain(bases: dict[str, DictConfig]) -> dict[str, dict[str, Any]]:
    return {name: resolved(base) for name, base in bases.items()}


#: Names of folders, jobs and wandb runs.
NO_NAME = [
    "",
    ".",
    "..",
    "../../..",
    "a/b",
    "/a",
    "a\\b",
    " a",
    "a ",
    "a b",
    "a*",
    "a?",
    "[a]",
    "{a}",
    "a\nb",
    "a\x00",
    "a\tb",
    "-a",
    "~",
    "~a",
    "$a",
    "a:b",
    "a,b",
    "a;b",
    "a'b",
    'a"b',
    "é",
    "\u202ea",
    "a" * 65,
    3,
    True,
    ["a"],
    {"a": 1},
]
NAMES = ["a", "0", "_a", "a.b", "p0.25", "eps0.0125-0.025", "lr=1e-6", "a@b", "a+b", "A" * 64]
#: Whole numbers, of which 7 is one.
NO_NUMBER = [None, True, "7", "٧", "true", [7], {"a": 7}, float("nan"), float("inf"), float("-inf"), -2, "abc", ""]
NO_COUNT = [*NO_NUMBER, 0, 1.5, 7.0, 10**200]
COUNTS = [
    "data.train_batch_size", "data.max_prompt_length", "data.max_response_length", "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.max_num_seqs", "actor_rollout_ref.rollout.max_num_batched_tokens",
    "actor_rollout_ref.rollout.tensor_model_parallel_size", "actor_rollout_ref.rollout.val_kwargs.n",
    "actor_rollout_ref.rollout.agent.num_workers", "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.ppo_epochs", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "reward.num_workers",
    "trainer.total_training_steps", "trainer.n_gpus_per_node", "trainer.nnodes", "trainer.total_epochs",
    "records.position_stats_every", "method.position_stats.max_position", "method.position_stats.folds",
    "tir.max_turns", "tir.sandbox.concurrency", "tir.sandbox.memory_mb", "tir.sandbox.processes", "tir.sandbox.files",
]  # fmt: skip
EVALUATION_COUNTS = [f"evaluation.{name}" for name in ("k", "max_turns", "max_response_length", "concurrency")]
SEEDS = ["run.seed", "evaluation.seed"]
SHARES = {
    "actor_rollout_ref.rollout.top_p": "(", "actor_rollout_ref.rollout.val_kwargs.top_p": "(", "evaluation.top_p": "(",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "(", "trainer.v1.max_failed_share": "[",
    "actor_rollout_ref.actor.optim.lr": "[",
}  # fmt: skip
TEMPERATURES = {"actor_rollout_ref.rollout.temperature": "(", "actor_rollout_ref.rollout.val_kwargs.temperature": "[",
                "evaluation.temperature": "["}  # fmt: skip

WRONG: list[tuple[str, Any]] = [
    *((f"run.{name}", value) for name in ("sweep", "method", "model", "dataset") for value in NO_NAME),
    *(("run.variant", value) for value in NO_NAME if value != ""),
    *((field, value) for field in (*COUNTS, *EVALUATION_COUNTS) for value in NO_COUNT),
    *((field, value) for field in SEEDS for value in (*NO_NUMBER, 1.5, 2**32, 10**200)),
    *((field, value) for field, left in SHARES.items() for value in (*NO_NUMBER, 1.01, 1e300, *([0] * (left == "(")))),
    *((field, value) for field, left in TEMPERATURES.items() for value in (*NO_NUMBER, 1e300, *([0] * (left == "(")))),
    *((f"trainer.{name}", value) for name in ("save_freq", "test_freq") for value in (*NO_NUMBER, 0, 0.5, 10**12)),
    *((field, value) for field in ("actor_rollout_ref.rollout.top_k", "actor_rollout_ref.rollout.val_kwargs.top_k")
      for value in (*NO_NUMBER, 1.5)),
    *((f"tir.sandbox.{name}", value) for name in ("wall_s", "cpu_s") for value in (*NO_NUMBER, 0, 1e300)),
    *(("algorithm.adv_estimator", value) for value in ("nonsense", "gae", "remax", "GRPO", None, True, ["grpo"])),
    *(("evaluation.shard", value) for value in (
        "4/4", "0/0", "a/b", "1/0", "-1/2", "0/4/8", "/", "0/", "/4", "٠/٤", " 0/4", "0/99999999999", "", None, 0,
    )),
    *(("evaluation.benchmarks", value) for value in ([], "aime25", ["aime25", "aime25"], [""], [None], [7], {"a": 1})),
    *(("evaluation.problems", value) for value in (0, -1, True, "all", 1.5)),
    *((field, value) for field in ("trainer.device", "actor_rollout_ref.rollout.name", "data.truncation",
                                   "actor_rollout_ref.actor.strategy", "actor_rollout_ref.rollout.dtype",
                                   "trainer.resume_mode", "run.preflight") for value in ("nonsense", None, 1)),
    *(("trainer.logger", value) for value in ("wandb", ["nonsense"], None)),
    *(("trainer.max_actor_ckpt_to_keep", value) for value in (0, -1, True, "2")),
    *((field, value) for field in ("dry_run", "wait") for value in (1, "true", None)),
    ("critic.enable", True), ("run.root", ""),
    ("run.dir", ""), *(("actor_rollout_ref.actor.optim.betas", value) for value in ([0.9], [0.9, 1.0], 0.9)),
    ("algorithm.rollout_correction.rollout_is", "none"), ("algorithm.rollout_correction.rollout_is_threshold", -1),
    *((node, value) for node in ("run", "tir", "records", "data", "trainer", "actor_rollout_ref", "tir.sandbox",
                                 "actor_rollout_ref.rollout") for value in (3, "a", [1])),
    ("run.sed", 1), ("records.position_stats_evry", 1), ("tir.turns", 5), ("tir.sandbox.ram", 5), ("evaluation.kk", 3),
    ("method.position_stats.bins", 3),
]  # fmt: skip


def base_of(field: str) -> str:
    return "evaluation" if field.startswith("evaluation") else "run"


def test_every_value_that_no_run_can_have_is_refused_in_a_line(plain: dict[str, dict[str, Any]]) -> None:
    wrongly: list[Any] = []
    for field, value in WRONG:
        found = problems(Request, with_value(plain[base_of(field)], field, value))
        named = [each for each in found if each.startswith(field)]
        lines = all(len(each.splitlines()) == 1 and len(each) < 400 and each.isprintable() for each in found)
        if not named or not lines:
            wrongly.append((field, value, found))
    assert wrongly == []


def test_a_wrong_value_that_other_fields_refer_to_is_one_problem(bases: dict[str, DictConfig]) -> None:
    (problem,) = value_problems(changed(bases["run"], "run.seed", -1))
    assert problem == "run.seed=-1: must be greater than or equal to 0"
    (problem,) = value_problems(changed(bases["run"], "data.train_batch_size", "abc"))
    assert problem == "data.train_batch_size=abc: must be a valid integer"


def test_values_at_the_edges_are_taken(plain: dict[str, dict[str, Any]]) -> None:
    right = [
        *((f"run.{name}", value) for name in ("sweep", "method", "variant") for value in NAMES), ("run.variant", ""),
        *((field, value) for field in SEEDS for value in (0, 2**32 - 1)),
        *((field, value) for field in (*SHARES, *TEMPERATURES) for value in (1, 1.0, 1e-9)),
        ("actor_rollout_ref.actor.optim.lr", 0), ("trainer.save_freq", -1), ("trainer.save_freq", 1),
        ("actor_rollout_ref.rollout.top_k", -1), ("actor_rollout_ref.rollout.top_k", 20),
        *(("evaluation.shard", value) for value in ("0/1", "3/4", "merge")), ("evaluation.benchmarks", ["aime25"]),
        *(("algorithm.adv_estimator", value) for value in get_args(ESTIMATORS)),
        ("trainer.max_actor_ckpt_to_keep", None), ("evaluation.problems", 1),
    ]  # fmt: skip
    assert [
        (field, value, found)
        for field, value in right
        if (found := problems(Request, with_value(plain[base_of(field)], field, value)))
    ] == []


@pytest.mark.parametrize("size", [90, "80", True])
def test_a_gpu_size_without_a_layout_is_refused(bases: dict[str, DictConfig], size: Any) -> None:
    (problem,) = value_problems(changed(bases["4b"], "hardware.gpu_memory_gb", size))
    assert problem == f"hardware.gpu_memory_gb={size}: must be one of 80, 141"


def test_greedy_samples_are_asked_for_once(bases: dict[str, DictConfig]) -> None:
    greedy = changed(bases["evaluation"], "evaluation.temperature", 0)
    (problem,) = value_problems(greedy)
    assert problem.startswith("evaluation.k=32: at evaluation.temperature=0 all samples are the same")
    assert value_problems(changed(greedy, "evaluation.k", 1)) == []


# ---------------------------------------------------------------------- verl's trees

VERL: list[tuple[str, Any, str]] = [
    *((f"{node}.sed", 1, "no such field") for node in (
        "trainer", "trainer.v1", "data", "actor_rollout_ref", "actor_rollout_ref.actor", "actor_rollout_ref.rollout",
        "actor_rollout_ref.model", "actor_rollout_ref.actor.optim", "actor_rollout_ref.actor.fsdp_config", "algorithm",
        "reward", "actor_rollout_ref.actor.policy_loss", "actor_rollout_ref.rollout.val_kwargs", "critic",
        "actor_rollout_ref.rollout.agent", "algorithm.rollout_correction", "transfer_queue", "ray_kwargs",
    )),
    ("sed", 1, "no such field"), ("sed.seed", 1, "no such field"),
    ("trainer.save_frq", 5, "did you mean save_freq?"), ("data.max_promt_length", 5, "did you mean max_prompt_length?"),
    ("actor_rollout_ref.model.lora_rang", 3, "did you mean lora_rank?"),
    ("actor_rollout_ref.rollout.gpu_memory_utilisation", 0.5, "did you mean gpu_memory_utilization?"),
    *((field, value, "must be true or false") for value in (1, "true", "no", None) for field in (
        "trainer.val_before_train", "data.shuffle", "actor_rollout_ref.model.use_remove_padding",
        "actor_rollout_ref.rollout.enforce_eager", "actor_rollout_ref.actor.fsdp_config.param_offload",
    )),
    *((field, value, "must be a") for value in ("3", True, float("inf"), None, [3]) for field in (
        "data.dataloader_num_workers", "trainer.critic_warmup", "actor_rollout_ref.actor.clip_ratio",
        "actor_rollout_ref.actor.optim.lr_warmup_steps", "actor_rollout_ref.nccl_timeout",
    )),
    ("trainer.critic_warmup", 0.5, "must be a whole number"), ("data.prompt_key", 3, "must be a text"),
    ("actor_rollout_ref.actor.optim", 3, "must be a group of fields"),
    ("actor_rollout_ref.actor.checkpoint.save_contents", "model", "must be a list"),
    ("actor_rollout_ref.rollout.engine_kwargs.vllm", 3, "must be a group of fields"),
]  # fmt: skip
RIGHT: list[tuple[str, Any]] = [
    ("actor_rollout_ref.rollout.engine_kwargs.vllm.seed", 3), ("actor_rollout_ref.model.override_config.dropout", 0.1),
    ("ray_kwargs.ray_init.num_gpus", 2), ("actor_rollout_ref.actor.entropy_coeff", 0.01),
    ("actor_rollout_ref.actor.use_kl_loss", True), ("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", 16),
    ("data.apply_chat_template_kwargs.enable_thinking", True),
    ("actor_rollout_ref.rollout.top_p", 1), ("actor_rollout_ref.actor.optim.lr", 1),
]  # fmt: skip


def together(cases: list[Any]) -> list[list[Any]]:
    """The cases in as few groups as can be, no group with two values for a field or its parent."""
    groups: list[list[Any]] = []
    for case in cases:
        field = f"{case[0]}."
        fits = (g for g in groups if not any(field.startswith(f"{o[0]}.") or f"{o[0]}.".startswith(field) for o in g))
        group = next(fits, None)
        if group is None:
            groups.append(group := [])
        group.append(case)
    return groups


def test_verl_refuses_names_and_kinds_that_it_does_not_know_and_nothing_else(plain: dict[str, dict[str, Any]]) -> None:
    groups = [*together(VERL), RIGHT]
    requests = [
        functools.reduce(lambda made, case: with_value(made, case[0], case[1]), group, plain["run"]) for group in groups
    ]
    with Checking(requests) as checking:
        *judged, right = checking.problems()
    assert right == []
    wrongly = [
        (field, value, found)
        for group, found in zip(groups, judged, strict=False)
        for field, value, says in group
        if not any(each.startswith(field.removesuffix(".seed")) and says in each for each in found)
    ]
    assert wrongly == []


# ---------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("{tmp}/file/runs", "file is no folder"), ("{tmp}/file", "file is no folder"), ("~/runs", "~ is an ordinary"),
        ("{tmp}/" + "a" * 300, "name too long"), ("{tmp}/not/here/" + "ä" * 200, "400 bytes is longer than the 255"),
        ("{tmp}" + "/a" * 3000, "name too long"), ("{tmp}/a\nb", "characters that no terminal shows"),
        ("{tmp}/loop/runs", "loop is no folder"),
    ],
)  # fmt: skip
def test_a_root_that_cannot_hold_runs_is_refused(
    bases: dict[str, DictConfig], tmp_path: Path, root: str, says: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (problem,) = disk.disk_problems(changed(bases["run"], "run.root", root.format(tmp=tmp_path)))
    assert problem.startswith("run.root=")
    assert says in problem
    assert problem.isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_without_the_right_to_write_is_refused(bases: dict[str, DictConfig], tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    (problem,) = disk.disk_problems(changed(bases["run"], "run.root", str(tmp_path / "runs")))
    assert "cannot be written to" in problem


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("dataset_spec.train", "/no/such.parquet", "dataset_spec.train=/no/such.parquet: no parquet,"),
        ("dataset_spec.train", "deepscalr", "dataset_spec.train=deepscalr: neither a file or folder nor"),
        ("dataset_spec.test", ["aime25", "/no/such"], "dataset_spec.test=/no/such: no parquet, jsonl"),
        ("dataset_spec.test", "{tmp}", "no parquet, jsonl or json file there"),
        ("dataset_spec.train", None, "dataset_spec.train is not set"), ("dataset_spec.test", [], "test is not set"),
        ("dataset_spec.test", "aime25,aime25", "must hold each name once"),
        ("dataset_spec.train", 3, "must be a valid list"),
        ("dataset_spec.train", "/" + "a" * 5000, "name too long"), ("dataset_spec.train", "a/\x00b", "null byte"),
        ("dataset_spec.kind", "files", "dataset_spec.kind=files: use one of arithmetic, problems"),
        ("dataset_spec.system_prompt", "maths", "system_prompt=maths: must be math or short, or the prompt itself"),
        ("dataset_spec.system_prompt", 5, "system_prompt=5: must be a valid string"),
        ("dataset_spec.checks.overlap", "keep", "dataset_spec.checks.overlap=keep: must be 'drop' or 'report'"),
        ("dataset_spec.checks.overlap_share", 0, "overlap_share=0: must be greater than 0"),
        ("dataset_spec.cheks", {}, "dataset_spec.cheks={}: no such field; did you mean checks?"),
        ("data_catalog.aime25.path", "/no/such.jsonl", "data_catalog.aime25.path=/no/such.jsonl: no parquet"),
        ("data_catalog.aime25.rows", -1, "data_catalog.aime25.rows=-1: must be greater"),
        ("data_catalog.folder", "/no/such", "data_catalog.folder=/no/such: no such folder"),
        ("data_catalog.mine", {"path": "a.jsonl", "files": "*"}, "data_catalog.mine.hub_id: is missing"),
    ],
)  # fmt: skip
def test_data_that_is_not_there_is_refused(
    bases: dict[str, DictConfig], tmp_path: Path, field: str, value: Any, says: str
) -> None:
    value = value.format(tmp=tmp_path) if isinstance(value, str) else value
    (problem,) = request_problems(changed(bases["problems"], field, value))
    assert says in problem
    assert problem.isprintable()


def test_more_prompts_a_step_than_problems_are_refused(bases: dict[str, DictConfig], tmp_path: Path) -> None:
    (problem,) = request_problems(changed(bases["run"], "data.train_batch_size", 4097))
    assert problem.startswith("data.train_batch_size=4097: dataset_spec.train_size has 4096 problems")
    (tmp_path / "a.jsonl").write_text('{"problem": "?", "answer": 1}\n' * 10)
    files = changed(bases["problems"], "dataset_spec.train", str(tmp_path))
    assert list(request_problems(changed(files, "data.train_batch_size", 10))) == []
    (problem,) = request_problems(changed(files, "data.train_batch_size", 1000))
    assert problem.startswith("data.train_batch_size=1000: ")


def test_checks_that_cannot_run_on_a_wrong_value_do_not_hide_it(bases: dict[str, DictConfig]) -> None:
    nodes = ("trainer", "data", "actor_rollout_ref", "run", "tir")
    wrong = [changed(bases["run"], node, 3) for node in nodes]
    for node, found in zip(nodes, preflight.check_requests(wrong), strict=True):
        assert f"{node}=3: must be a group of fields" in found
