"""verl's configuration classes, loaded without the rest of verl, judge as they do in verl."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from experiments.compose import composed
from experiments.preflight import validators
from experiments.resolvers import PROJECT_ROOT

REQUESTS = [
    [],
    ["method=gspo", "model=qwen3_14b"],
    ["method.window.power=7"],
    ["+actor_rollout_ref.actor.policy_loss.zip=1"],
    ["actor_rollout_ref.rollout.mode=sync"],
    ["actor_rollout_ref.actor.use_kl_loss=true", "+actor_rollout_ref.ref.foo=1"],
    ["actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"],
    ["actor_rollout_ref.rollout.temperature=0"],
]


def judged(whole_verl: bool) -> tuple[list[list[str]], set[str]]:
    """The problems of `REQUESTS`, and which large libraries were loaded to find them."""
    code = (
        "import json, sys, contextlib\n"
        "from omegaconf import OmegaConf\n"
        "from experiments.preflight import light_verl, verl_checks\n"
        "if sys.argv[1] == 'True':\n"
        "    import verl.workers.config; import verl.utils.config as loaded\n"
        "else:\n"
        "    loaded = light_verl.load()\n"
        "configs = json.load(sys.stdin)\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        "    found = [verl_checks.problems_of(OmegaConf.create(config), loaded) for config in configs]\n"
        "real = [n for n in ('ray', 'tensordict', 'transformers') if getattr(sys.modules.get(n), '__file__', None)]\n"
        "json.dump([found, real], sys.stdout)\n"
    )
    given = json.dumps([validators._resolved(composed(request)) for request in REQUESTS])
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole_verl)],
        input=given, capture_output=True, text=True, cwd=PROJECT_ROOT, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found, real = json.loads(done.stdout)
    return found, set(real)


@pytest.mark.timeout(600)
def test_light_and_whole_verl_find_the_same() -> None:
    light, loaded = judged(whole_verl=False)
    whole, everything = judged(whole_verl=True)
    assert light == whole
    assert [bool(problems) for problems in light] == [False, False, *[True] * 6]
    assert everything == {"ray", "tensordict", "transformers"}
    assert loaded == set(), "the light import does not work with this verl any more: preflight takes twice as long"


def test_a_reference_to_nothing_is_named() -> None:
    config = composed([])
    OmegaConf.set_struct(config, False)
    config.trainer.total_training_steps = "${trainer.no_such_field}"
    with validators.started([config, composed([])]) as validation:
        wrong, right = validation.problems()
    assert right == []
    assert len(wrong) == 1
    assert "trainer.total_training_steps" in wrong[0]


def test_a_process_that_cannot_start_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validators.sys, "executable", "/bin/false")
    with validators.started([composed([])]) as validation:
        ((problem,),) = validation.problems()
    assert "did not run" in problem
