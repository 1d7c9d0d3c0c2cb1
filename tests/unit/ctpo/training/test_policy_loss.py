from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import pickle
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import Tensor
from torch.overrides import TorchFunctionMode
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPActorConfig

from ctpo.methods import METHODS, MethodError
from ctpo.methods.windows import PositionAdaptiveWindow
from ctpo.positions import PositionRecorder, PositionStats
from ctpo.training.actor_config import MethodActorConfig, PositionStatsConfig
from ctpo.training.policy_loss import MethodLoss, register_policy_losses
from tests.unit.ctpo.naive_method import Batch, random_batch

register_policy_losses()


def actor_config(name: str = "ctpo", *overrides: str, method: str = "") -> MethodActorConfig:
    """An actor configuration as verl makes it: composed from its ppo_trainer, then instantiated."""
    return copy.deepcopy(composed(name, overrides, method))


@functools.cache
def composed(name: str, overrides: tuple[str, ...], method: str) -> MethodActorConfig:
    actor = "actor_rollout_ref.actor"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            [
                f"{actor}._target_=ctpo.training.actor_config.MethodActorConfig",
                f"+method={{name: {name}{method}}}",
                f"+{actor}.method=${{method}}",
                f"{actor}.policy_loss.loss_mode=ctpo/{name}",
                f"{actor}.loss_agg_mode={METHODS[name].aggregation if name in METHODS else 'token-mean'}",
                f"{actor}.ppo_micro_batch_size_per_gpu=2",
                f"{actor}.loss_scale_factor=50",
                *overrides,
            ],
        )
        result = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(result, MethodActorConfig)
    return result


def custom_config(fields: str) -> MethodActorConfig:
    """As `actor_config`, for a method outside the package."""
    return actor_config("custom", "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean", method=fields)


def plain_config(**fields: Any) -> FSDPActorConfig:
    return FSDPActorConfig(rollout_n=2, ppo_micro_batch_size_per_gpu=2, **fields)


def run_loss(
    loss_name: str, batch: Batch, mode: str, config: Any, **extra: Any
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Loss, its gradient and metrics, called as verl's `ppo_loss` calls a policy loss."""
    loss, metrics = get_policy_loss_fn(loss_name)(
        old_log_prob=batch.old_log_prob,
        log_prob=batch.log_prob,
        advantages=batch.advantages,
        response_mask=batch.mask,
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=extra.get("rollout_is_weights"),
    )
    (gradient,) = torch.autograd.grad(loss, batch.log_prob)
    return loss.detach(), gradient, metrics


def clean(batch: Batch) -> Batch:
    """Without garbage where masked, which verl's own losses do not all survive."""
    new = torch.where(batch.mask, batch.log_prob.detach(), 0.0).requires_grad_()
    return Batch(new, torch.where(batch.mask, batch.old_log_prob, 0.0), batch.advantages, batch.mask)


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(*(getattr(batch, field.name)[rows] for field in dataclasses.fields(batch)))


# ---------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_naive_mean_over_responses_or_tokens(name: str, seed: int) -> None:
    batch = random_batch(seed)
    config = actor_config(name)
    config.global_batch_info["loss_scale_factor"] = config.loss_scale_factor
    loss, gradient, _ = run_loss(f"ctpo/{name}", batch, METHODS[name].aggregation, config)
    rows = [row for row in batch.naive(name) if row]
    if METHODS[name].aggregation == "token-mean":
        expected = sum(token.objective for row in rows for token in row) / sum(map(len, rows))
    elif METHODS[name].aggregation == "seq-mean-token-sum-norm":
        expected = sum(token.objective for row in rows for token in row) / len(rows) / 50
    else:
        expected = sum(sum(token.objective for token in row) / len(row) for row in rows) / len(rows)
    assert loss.item() == pytest.approx(-expected, rel=1e-6, abs=1e-9)
    assert (gradient[~batch.mask] == 0).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("sizes", [(1,), (2,), (4,), (1, 2, 1), (3, 1)])
def test_gradient_does_not_depend_on_the_cut_into_micro_batches_and_ranks(
    name: str, ranks: int, sizes: tuple[int, ...]
) -> None:
    """As the FSDP engine does it: losses of a rank's micro-batches are summed, ranks are averaged."""
    whole = random_batch(11, batch=8)
    mode, config = METHODS[name].aggregation, actor_config(name)
    info = {"batch_num_tokens": int(whole.mask.sum()), "global_batch_size": 8, "loss_scale_factor": 50}
    config.global_batch_info.update(info, dp_size=1)
    expected_loss, expected_gradient, _ = run_loss(f"ctpo/{name}", whole, mode, config)

    config.global_batch_info.update(dp_size=ranks)
    loss, gradient = 0.0, torch.zeros_like(expected_gradient)
    for rank in range(ranks):
        start, end = rank * 8 // ranks, (rank + 1) * 8 // ranks
        for size in itertools.cycle(sizes):
            rows = rows_of(whole, slice(start, min(start + size, end)))
            part, _ = MethodLoss(METHODS[name])(
                rows.old_log_prob, rows.log_prob, rows.advantages, rows.mask, mode, config
            )
            loss += part.item() / ranks
            gradient += torch.autograd.grad(part, whole.log_prob)[0] / ranks
            start += size
            if start >= end:
                break
    assert loss == pytest.approx(expected_loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


def test_grpo_equals_verls_vanilla_where_its_dual_clip_does_not_bind() -> None:
    config = plain_config(clip_ratio_low=0.2, clip_ratio_high=0.2, clip_ratio_c=1e9)
    for seed in range(5):
        batch = clean(random_batch(seed))
        theirs = run_loss("vanilla", batch, "seq-mean-token-mean", config)
        ours = run_loss("ctpo/grpo", batch, "seq-mean-token-mean", actor_config("grpo"))
        torch.testing.assert_close(ours[:2], theirs[:2], rtol=1e-6, atol=1e-9)
        assert ours[2]["actor/pg_clipfrac"] == pytest.approx(theirs[2]["actor/pg_clipfrac"], abs=1e-6)
        assert ours[2]["actor/ppo_kl"] == pytest.approx(theirs[2]["actor/ppo_kl"], abs=1e-6)
        assert ours[2]["actor/pg_clipfrac"] > 0.05


def test_gspo_equals_verls_gspo() -> None:
    config = plain_config(clip_ratio_low=3e-4, clip_ratio_high=4e-4)
    clipped = 0.0
    for seed in range(5):
        batch = clean(random_batch(seed, scale=2e-3))
        theirs = run_loss("gspo", batch, "seq-mean-token-mean", config)
        ours = run_loss("ctpo/gspo", batch, "seq-mean-token-mean", actor_config("gspo"))
        torch.testing.assert_close(ours[:2], theirs[:2], rtol=1e-6, atol=1e-9)
        assert ours[2]["actor/pg_clipfrac"] == pytest.approx(theirs[2]["actor/pg_clipfrac"], abs=1e-6)
        clipped += ours[2]["actor/pg_clipfrac"]
    assert clipped > 0.1


def test_rollout_weights_multiply_the_surrogate_after_clipping_as_in_verls_losses() -> None:
    batch = clean(random_batch(6))
    weights = torch.rand(batch.mask.shape, dtype=torch.float64)
    config = plain_config(clip_ratio_low=0.2, clip_ratio_high=0.2, clip_ratio_c=1e9)
    theirs = run_loss("vanilla", batch, "seq-mean-token-mean", config, rollout_is_weights=weights)
    weights[~batch.mask] = torch.inf
    ours = run_loss("ctpo/grpo", batch, "seq-mean-token-mean", actor_config("grpo"), rollout_is_weights=weights)
    torch.testing.assert_close(ours[:2], theirs[:2], rtol=1e-6, atol=1e-9)


def test_metrics_are_the_naive_fractions_of_model_tokens() -> None:
    batch = random_batch(8, dtype=torch.float32)
    _, _, metrics = run_loss("ctpo/ctpo_released", batch, "token-mean", actor_config("ctpo_released"))
    tokens = [token for row in batch.naive("ctpo_released") for token in row]
    expected = {
        "actor/pg_clipfrac": sum(t.clipped_high or t.clipped_low for t in tokens) / len(tokens),
        "actor/pg_clipfrac_high": sum(t.clipped_high for t in tokens) / len(tokens),
        "actor/pg_clipfrac_low": sum(t.clipped_low for t in tokens) / len(tokens),
        "actor/pg_clipfrac_lower": sum(t.dual_clipped for t in tokens) / len(tokens),
        "actor/ppo_kl": -sum(t.d for t in tokens) / len(tokens),
        "actor/log_ratio_min": min(0.0, min(t.log_ratio for t in tokens)),
        "actor/log_ratio_max": max(0.0, max(t.log_ratio for t in tokens)),
    }
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all(isinstance(value, float) for value in metrics.values())
    assert min(expected["actor/pg_clipfrac_high"], expected["actor/pg_clipfrac_lower"]) > 0


@pytest.mark.parametrize("shape", [(2, 0), (2, 5)])
def test_a_micro_batch_without_model_tokens_has_zero_loss_and_metrics(shape: tuple[int, int]) -> None:
    zero = torch.zeros(shape)
    batch = Batch(zero.clone().requires_grad_(), zero, zero, zero.bool())
    config = actor_config()
    config.global_batch_info.update(dp_size=1, batch_num_tokens=10, global_batch_size=4)
    loss, gradient, metrics = run_loss("ctpo/ctpo", batch, "seq-mean-token-mean", config)
    assert loss.item() == 0
    assert (gradient == 0).all()
    assert set(metrics.values()) == {0.0}


# ---------------------------------------------------------------------------- registration and configuration


def test_every_method_is_registered_and_none_shadows_a_loss_of_verl() -> None:
    assert register_policy_losses() == [f"ctpo/{name}" for name in METHODS]
    registry = core_algos.POLICY_LOSS_REGISTRY
    assert registry["vanilla"] is core_algos.compute_policy_loss_vanilla
    assert registry["gspo"] is core_algos.compute_policy_loss_gspo


def test_a_name_that_another_loss_took_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "ctpo/gspo", lambda: None)
    with pytest.raises(RuntimeError, match="already has a policy loss 'ctpo/gspo'"):
        register_policy_losses()


def test_an_actor_node_of_verls_trainer_config_becomes_a_method_config() -> None:
    method = ", window: {power: 0.7}, position_stats: {max_position: 128, bin_width: 8}"
    config = actor_config("ctpo", method=method)
    assert config.resolved_method == dataclasses.replace(
        METHODS["ctpo"], window=PositionAdaptiveWindow(0.025, 0.05, 0.7)
    )
    assert config.position_stats == PositionStatsConfig(128, 8, 32, 16)
    assert config.get("method")["name"] == "ctpo"
    assert pickle.loads(pickle.dumps(config)).resolved_method == config.resolved_method


def test_overrides_in_the_config_reach_the_loss() -> None:
    batch = random_batch(9)
    default = run_loss("ctpo/ctpo", batch, "seq-mean-token-mean", actor_config())
    wide = run_loss(
        "ctpo/ctpo",
        batch,
        "seq-mean-token-mean",
        actor_config(method=", window: {eps_low: 50, eps_high: 50}"),
    )
    assert default[2]["actor/pg_clipfrac"] > 0.1
    assert wide[2]["actor/pg_clipfrac"] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "actor_rollout_ref.actor.loss_agg_mode=token-mean",
            "set actor_rollout_ref.actor.loss_agg_mode=seq-",
        ),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=ctpo/gspo", "set loss_mode to 'ctpo/ctpo'"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=vanilla", "set loss_mode to 'ctpo/ctpo'"),
        ("method={name: custom}", "method.import_path: missing"),
        ("method={name: nope}", "unknown method 'nope'"),
        ("method={window: {power: 1}}", "method.name: missing"),
        ("+method.window={width: 1}", "method.window.width: unknown field"),
        ("+method.position_stats={bins: 3}", "method.position_stats.bins: unknown field"),
        ("+method.position_stats={bin_width: 0}", "method.position_stats.bin_width: must be at least 1"),
        ("+method.position_stats={folds: 0}", "method.position_stats.folds: must be at least 1"),
        ("+method.position_stats={folds: 1.5}", "method.position_stats.folds: expected a positive integer"),
    ],
)
def test_a_contradiction_in_the_config_is_refused_when_it_is_made(override: str, message: str) -> None:
    overrides = [override]
    if override.startswith("method="):
        overrides = ["~method", f"+{override}"]
    with pytest.raises(Exception, match=r"method|loss") as caught:
        actor_config("ctpo", *overrides)
    root = caught.value.__cause__ or caught.value
    assert isinstance(root, MethodError)
    assert message in str(root)


def test_a_conflicting_aggregation_at_the_call_is_an_error_not_ignored() -> None:
    with pytest.raises(MethodError, match=r"loss_agg_mode is 'token-mean'"):
        run_loss("ctpo/ctpo", random_batch(0), "token-mean", plain_config())


def test_a_loss_refuses_the_config_of_another_method() -> None:
    with pytest.raises(MethodError, match=r"method\.name is 'ctpo'"):
        run_loss("ctpo/gspo", random_batch(0), "seq-mean-token-mean", actor_config("ctpo"))


def test_without_method_fields_a_loss_uses_the_methods_defaults() -> None:
    batch = random_batch(3)
    plain = run_loss("ctpo/ctpo", batch, "seq-mean-token-mean", plain_config())
    configured = run_loss("ctpo/ctpo", batch, "seq-mean-token-mean", actor_config())
    assert torch.equal(plain[1], configured[1])


# ---------------------------------------------------------------------------- the observer


@pytest.mark.parametrize("name", METHODS)
def test_observer_sees_what_the_method_clipped_on_the_ratio_it_clips(name: str) -> None:
    config = actor_config(name)
    recorder = PositionRecorder(PositionStats.zeros(40, bin_width=8))
    config.observer = recorder
    batch = random_batch(10, scale=0.02 if name == "gspo" else 1.0, dtype=torch.float32)
    recorder.folds = torch.arange(len(batch.mask))
    recorder.begin_step()
    for _ in range(2):
        recorder.begin_update()
        run_loss(f"ctpo/{name}", batch, METHODS[name].aggregation, config)
    naive = batch.naive(name)
    sums = recorder.stats.read()
    high, low = sums.positions.clip_counts()
    for t in range(1, 41):
        tokens = [row[t - 1] for row in naive if len(row) >= t]
        assert recorder.stats.count[t - 1] == len(tokens)
        assert high[t - 1] == sum(token.clipped_high for token in tokens)
        assert low[t - 1] == sum(token.clipped_low for token in tokens)
        assert sums.positions.dual_clip_count[t - 1] == sum(token.dual_clipped for token in tokens)
        if tokens:
            mean = sum(token.cumulative for token in tokens) / len(tokens)
            assert recorder.stats.mean[t - 1].item() == pytest.approx(mean, abs=2e-6)
    assert (high + low).sum() > 0
    # The first update of the step is apart, so both are seen once.
    assert (sums.updates.count[0] == sums.updates.count[1]).all()
    assert (sums.first.count == sums.positions.count).all()


class _DeviceReads(TorchFunctionMode):
    """Counts the calls by which a program reads a tensor's values, and so waits for the device."""

    NAMES = frozenset(
        {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select"}
        | {f"__{name}__" for name in ("bool", "int", "float", "index", "contains", "array")}
    )

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.NAMES:
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_a_micro_batch_waits_for_the_device_once(name: str) -> None:
    config = actor_config(name)
    config.observer = PositionRecorder(PositionStats.zeros(40))
    batch = random_batch(10)
    config.observer.folds = torch.arange(len(batch.mask))
    for _ in range(2):
        config.observer.begin_update()
    config.global_batch_info.update(dp_size=1, batch_num_tokens=100, global_batch_size=6, loss_scale_factor=50)
    with _DeviceReads() as reads:
        run_loss(f"ctpo/{name}", batch, METHODS[name].aggregation, config)
    assert reads.calls == ["tolist"]
