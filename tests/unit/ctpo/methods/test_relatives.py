"""Relatives against verl's own losses, where those are right; the calibrated window; a user's own method."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn

from ctpo.methods import METHODS, MethodError
from tests.unit.ctpo.naive_method import Batch, random_batch
from tests.unit.ctpo.training.test_policy_loss import (
    actor_config,
    clean,
    custom_config,
    plain_config,
    rows_of,
    run_loss,
)

#: verl's loss, its settings and how its fractions read for each relative that verl has.
VERLS = {
    "dapo": ("vanilla", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 1e9}),
    "dr_grpo": ("vanilla", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 1e9}),
    "cispo": ("cispo", {"clip_ratio_low": 10.0, "clip_ratio_high": 0.2}),
    "sapo": ("sapo", {"tau_pos": 1.0, "tau_neg": 1.05}),
    "dppo_tv": ("dppo_tv", {"clip_ratio_low": 0.15, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0}),
    "dppo_kl": ("dppo_kl", {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 20.0}),
}


@pytest.mark.parametrize("name", VERLS)
def test_relatives_have_the_gradient_of_verls_own_losses_where_those_are_right(name: str) -> None:
    loss_name, settings = VERLS[name]
    config, clipped = plain_config(loss_scale_factor=50, **settings), 0.0
    config.global_batch_info["loss_scale_factor"] = 50
    for seed in range(5):
        # Some tokens' probabilities move a lot; no advantage is 0, for verl counts those as clipped too.
        batch = clean(random_batch(seed, scale=0.5))
        batch.advantages[-1] = 1.0
        batch.log_prob.data.clamp_(max=-0.01)
        mode, ours_config = METHODS[name].aggregation, actor_config(name)
        ours_config.global_batch_info["loss_scale_factor"] = 50
        theirs = run_loss(loss_name, batch, mode, config)
        ours = run_loss(f"ctpo/{name}", batch, mode, ours_config)
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-9)
        if name != "sapo":  # where verl reports none
            assert ours[2]["actor/pg_clipfrac"] == pytest.approx(theirs[2]["actor/pg_clipfrac"], abs=1e-6)
        clipped += ours[2]["actor/pg_clipfrac"]
    assert clipped > 0.05 or name == "sapo"


def test_gmpo_is_verls_geo_mean_on_a_whole_batch_and_unlike_it_does_not_grow_with_the_number_of_parts() -> None:
    config = plain_config(clip_ratio_low=0.4, clip_ratio_high=0.4)
    batch = clean(random_batch(1, scale=0.5))
    batch.mask[:] = True
    theirs = run_loss("geo_mean", batch, "seq-mean-token-mean", config)
    ours = run_loss("ctpo/gmpo", batch, "seq-mean-token-mean", actor_config("gmpo"))
    torch.testing.assert_close(ours[:2], theirs[:2], rtol=1e-6, atol=1e-9)
    info = {"batch_num_tokens": int(batch.mask.sum()), "global_batch_size": 6, "dp_size": 1}
    sums = {}
    for loss_name, parts_config in (("geo_mean", config), ("ctpo/gmpo", actor_config("gmpo"))):
        parts_config.global_batch_info.update(info)
        parts = [rows_of(batch, slice(start, start + 2)) for start in (0, 2, 4)]
        losses = [
            get_policy_loss_fn(loss_name)(
                part.old_log_prob, part.log_prob, part.advantages, part.mask, "seq-mean-token-mean", parts_config
            )[0]
            for part in parts
        ]
        (sums[loss_name],) = torch.autograd.grad(sum(losses), batch.log_prob)
    torch.testing.assert_close(sums["ctpo/gmpo"], theirs[1], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sums["geo_mean"], 3 * theirs[1], rtol=1e-6, atol=1e-9)


def test_verls_sapo_ignores_the_aggregation_and_its_constant_normaliser_depends_on_the_padding() -> None:
    """Two of verl's traps that the list of methods names."""
    batch = clean(random_batch(2))
    losses = [run_loss("sapo", batch, mode, plain_config())[0] for mode in ("token-mean", "seq-mean-token-mean")]
    assert torch.equal(*losses)
    wider = Batch(*(torch.nn.functional.pad(getattr(batch, f.name), (0, 40)) for f in dataclasses.fields(batch)))
    mode = "seq-mean-token-sum-norm"
    narrow, wide = (run_loss("vanilla", part, mode, plain_config())[0] for part in (batch, wider))
    assert wide.item() == pytest.approx(narrow.item() / 2)
    config = actor_config("dr_grpo")
    config.global_batch_info["loss_scale_factor"] = config.loss_scale_factor
    narrow, wide = (run_loss("ctpo/dr_grpo", part, mode, config)[0] for part in (batch, wider))
    assert wide.item() == pytest.approx(narrow.item(), rel=1e-12)


def test_a_calibrated_window_clips_by_the_measured_deviations() -> None:
    batch, config = random_batch(12, dtype=torch.float32), actor_config("ctpo_calibrated")
    before = run_loss("ctpo/ctpo_calibrated", batch, "seq-mean-token-mean", config)[2]["actor/pg_clipfrac"]
    # As though every position had a deviation of its own, the last one standing for all that follow.
    deviations = torch.linspace(0.05, 2.0, 30)
    config.calibrate(deviations)
    after = run_loss("ctpo/ctpo_calibrated", batch, "seq-mean-token-mean", config)[2]["actor/pg_clipfrac"]
    tokens, clipped = 0, 0
    for row in batch.naive("ctpo"):
        for token in row:
            sigma = deviations[min(token.position, 30) - 1].item()
            advantage = token.objective  # of the same sign
            tokens += 1
            clipped += (advantage > 0 and token.cumulative > 2.5 * sigma) or (
                advantage < 0 and token.cumulative < -1.25 * sigma
            )
    assert after == pytest.approx(clipped / tokens)
    assert 0 < after < before
    # The copy that another process would get behaves alike.
    copied = pickle.loads(pickle.dumps(config))
    again = run_loss("ctpo/ctpo_calibrated", batch, "seq-mean-token-mean", copied)[2]["actor/pg_clipfrac"]
    assert again == after


def test_a_users_own_method_is_a_loss_like_any_other() -> None:
    example = Path(__file__).resolve().parents[4] / "experiments" / "examples"
    fields = f", import_path: 'my_ratio:method', search_path: '{example}'"
    config = custom_config(fields)
    batch = random_batch(13)
    loss, gradient, metrics = run_loss("ctpo/custom", batch, "seq-mean-token-mean", config)
    # The example's ratio is CTPO's on responses of up to 32 columns.
    short = rows_of(batch, slice(0, len(batch.mask)))
    short = Batch(*(getattr(short, f.name)[:, :32] for f in dataclasses.fields(short)))
    ours = run_loss("ctpo/custom", short, "seq-mean-token-mean", config)
    ctpo = run_loss("ctpo/ctpo", short, "seq-mean-token-mean", actor_config("ctpo"))
    torch.testing.assert_close(ours[:2], ctpo[:2])
    assert torch.isfinite(loss)
    assert gradient.abs().max() > 0
    assert metrics["actor/pg_clipfrac"] > 0
    with pytest.raises(MethodError, match="needs a MethodActorConfig"):
        run_loss("ctpo/custom", batch, "seq-mean-token-mean", plain_config())
