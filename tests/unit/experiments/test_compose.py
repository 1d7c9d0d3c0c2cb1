"""The commonest mistakes of a request: one line that names it, and what was meant."""

from __future__ import annotations

import pytest

from experiments.compose import choices, composed, composed_sweep
from experiments.errors import BadRequest

WRONG = [
    ("method=ctop", "method=ctop: there is none (do you mean ctpo?); there are cispo, cppo, ctpo, "),
    ("model=qwen", "model=qwen: there is none (do you mean qwen3_4b?); there are qwen3_14b, qwen3_4b, tiny"),
    ("sweeps=foo", "sweeps=foo: there is none; there are ablation_clip, "),
    ("slurm=h100", "(do you mean h100_node?)"),
    ("dataset=deepscalar", "(do you mean deepscaler?)"),
    ("method=ctpo,grop", "method=grop: there is none (do you mean grpo?)"),
    ("model=_paper_scale", "model=_paper_scale: there is none"),
    ("method=", "method=: there is none"),
    ("method=null", "method=None: there is none"),
    ("+method=grpo", "+method=grpo: has a choice already"),
    ("method@other=grpo", "method@other=grpo: has a choice already"),
    ("methd=ctpo", "methd=ctpo: no such field; do you mean method?"),
    ("run.sed=1", "run.sed=1: no such field; do you mean run.seed?"),
    ("~run.sed", "~run.sed: no such field; do you mean run.seed?"),
    ("run.seed.x=1", "run.seed.x=1: no such field"),
    ("clip_ratio_hihg=1", "clip_ratio_hihg=1: no such field"),
    ("lr=1e-5", "or actor_rollout_ref.actor.optim.lr?"),
    (
        "slurm=cpu_local slurm.sbatch.exclude=a,b",
        "slurm.sbatch takes any name, as an addition: '+slurm.sbatch.exclude=\"a,b\"'",
    ),
    ("trainer=3", "trainer=3: is a group of fields; set one of them, trainer.<field>=..."),
    ("run.seed=0,1", "run.seed=0,1: asks for several runs; add -m"),
    ("run.seed=range(3)", "run.seed=range(3): asks for several runs; add -m"),
    ("run.seed", "'run.seed': give name=value"),
    ("=3", "'=3': give name=value"),
    ("", "'': give name=value"),
    ("run.variant=[1,2", "run.variant=[1,2: cannot be read"),
    ("run.variant=a=b", """for example 'run.variant="a=b"'"""),
    ("run.seed=0 run.seed=1", "run.seed is given twice, run.seed=0 and run.seed=1; give it once"),
]


@pytest.mark.parametrize(("request_", "said"), WRONG, ids=[request for request, _ in WRONG])
def test_a_mistake_is_one_line_without_advice_to_add_what_does_not_exist(request_: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        composed_sweep(request_.split(" "), multirun=False)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "use +" not in str(refused.value)


def test_commas_are_a_grid_where_one_was_asked_for() -> None:
    assert len(composed_sweep(["run.seed=0,1"], multirun=True)) == 2
    assert len(composed_sweep(["slurm=cpu_local", "method=ctpo,gspo"], multirun=False)) == 2
    assert composed(['run.variant="a,b"']).run.variant == "a,b"


def test_parts_of_other_files_are_no_choices() -> None:
    assert choices("slurm") == ["cpu_local", "h100_array", "h100_node", "h200_node", "local", "none"]
    assert choices("model") == ["qwen3_14b", "qwen3_4b", "tiny"]
