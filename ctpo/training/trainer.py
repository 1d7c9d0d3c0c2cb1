"""verl's synchronous trainer with run records: position statistics, metrics, samples, and an exact resume.

What is recorded, and where, is `ctpo.records`' business. This file decides *when*, so that a run killed at
any instant resumes with no row lost, doubled or out of step:

- position statistics of a step are written before its checkpoint, samples before its metrics row;
- a checkpoint carries a draft of its step's metrics row, because verl saves before it logs: a run killed in
  between gets the row back from the checkpoint;
- on resume everything newer than the checkpoint is set aside, for it will be made again;
- a run that is asked to stop (`ctpo.records.request_stop`) saves as soon as a step is trained and ends there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from verl.trainer import main_ppo
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from ctpo.positions.calibration import Calibration
from ctpo.positions.wandb_plot import position_plots
from ctpo.records import RunDirectory, Stopped, stop_reason
from ctpo.records.position_stats import PositionSums
from ctpo.records.progress import set_phase
from ctpo.tir.samples import named_order, sample_rows, taken
from ctpo.training import checkpoints, resume
from ctpo.training.actor_config import method_from_config
from ctpo.training.batches import balanced_shares, mini_batches, prompt_fold
from ctpo.training.step_metrics import merge_ranks, plain, position_metrics
from ctpo.training.worker import FOLD_FIELD, MINI_BATCH, RecordingActorWorker

MODE = "ctpo"


@register_trainer(MODE)
class RecordingTrainer(PPOTrainerSync):
    """`PPOTrainerSync`, recording. Training itself is verl's, unchanged."""

    def __init__(self, config: DictConfig):
        with open_dict(config):
            # verl tells the synchronous trainer by this name (replay buffer, checkpoints); this one is that.
            config.trainer.v1.trainer_mode = "sync"
            if config.trainer.resume_mode == "auto":
                # Which checkpoint that is, the launcher has decided (`ctpo.training.resume`).
                step = checkpoints.tracked_step(Path(config.trainer.default_local_dir)) or 0
                config.actor_rollout_ref.rollout.seed = resume.sampling_seed(config.run.seed, step)
        super().__init__(config)
        self.records = RunDirectory(Path(config.run.dir))
        self._draft_row: dict[str, Any] = {}
        self._step_metrics: dict[str, Any] = {}
        self._step_batch: Any = None
        self._drawn: list[str] = []
        self._position_stats: PositionSums | None = None
        self._calibration = Calibration.of(method_from_config(config.method), config.method.position_stats.max_position)
        self._step_started = 0.0
        self._saved_step = 0
        self._logged_row: dict[str, Any] = {}

    # ------------------------------------------------------------------ wiring

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        # verl polls for finished trajectories every 2 s, which is most of a tiny model's step.
        buffer.poll_interval = self.config.trainer.v1.poll_interval_s
        return buffer

    def _init_resource_pool_mgr(self) -> None:
        import ray

        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            if "actor" in str(role):
                self.role_worker_mapping[role] = ray.remote(RecordingActorWorker)

    @property
    def logger(self) -> Any:
        """verl's `Tracking`, which `fit` assigns; a metrics row is recorded before it is tracked."""
        return self._logger

    @logger.setter
    def logger(self, tracking: Any) -> None:
        self._logger = _RecordedTracking(tracking, self)

    # ------------------------------------------------------------------ one step

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        self._stop_before_step()
        set_phase(self.records.path, "training")
        self._step_metrics = metrics
        self._step_started = time.perf_counter()
        self._drawn.clear()
        self._step_batch = super().step(metrics, timing_raw)
        if reason := stop_reason(self.records.path):
            self._save_checkpoint()  # with the draft of the row that will not be logged any more
            raise Stopped(f"saved step {self.global_steps} and stopped: {reason}")
        return self._step_batch

    def _stop_before_step(self) -> None:
        """Asked to stop since the last step was trained: during its evaluation, or before the first one."""
        reason = stop_reason(self.records.path)
        if not reason:
            return
        trained: int = self.global_steps - 1
        if trained > self._saved_step:
            self.global_steps: int = trained
            self._write_checkpoint(self._logged_row)
        raise Stopped(f"stopped at step {trained}, which is saved: {reason}")

    def _next_train_batch(self, *args: Any, **kwargs: Any) -> Any:
        batch = super()._next_train_batch(*args, **kwargs)
        self._drawn.extend(map(str, batch["uid"]))
        return batch

    def _balance_batch(
        self, batch: Any, metrics: dict[str, Any], logging_prefix: str = "global_seqlen", keep_minibatch: bool = False
    ) -> Any:
        """In place of verl's: an update's mini-batch is the next prompts drawn, on any number of processes."""
        data, actor, rollout = (
            self.config.data,
            self.config.actor_rollout_ref.actor,
            self.config.actor_rollout_ref.rollout,
        )
        wanted = data.train_batch_size * rollout.n
        metrics["rollout/failed_trajectories"] = wanted - len(batch.keys)
        self._refuse_losses("training", len(batch.keys), wanted, self.config.trainer.v1.max_failed_share)
        batch = upsample_batch_to_divisible_size(batch, wanted, self.tokenizer.eos_token_id)
        lengths = [tag["seq_len"] for tag in batch.tags]
        updates = mini_batches(batch.keys, self._drawn, actor.ppo_mini_batch_size)
        shares = balanced_shares(updates, lengths, self._processes)
        batch.reorder([i for share in shares for i in share])
        metrics.update(log_seqlen_unbalance(seqlen_list=lengths, partitions=shares, prefix=logging_prefix))
        return batch

    @property
    def _processes(self) -> int:
        """Data-parallel size of the actor."""
        workers = self.actor_rollout_wg
        if "actor" not in workers._dispatch_info:
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        return int(max(workers._dispatch_info["actor"])) + 1

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        actor, rollout = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
        batch.extra_info[MINI_BATCH] = actor.ppo_mini_batch_size * rollout.n
        return super()._compute_old_log_prob(batch, metrics=metrics)

    def _refuse_losses(self, phase: str, got: int, wanted: int, allowed: float) -> None:
        # verl logs a failed trajectory and fills the batch up with empty ones.
        if got < wanted * (1 - allowed):
            raise RuntimeError(
                f"{phase} step {self.global_steps}: {wanted - got} of {wanted} trajectories failed, more than the "
                f"allowed share of {allowed} (trainer.v1.max_failed_share in training, 0 in evaluation); the first "
                "'Error in _run_prompt' in run.log says why"
            )

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts", "response_mask"]
        )
        folds = torch.tensor([prompt_fold(ids, self._folds) for ids in data["prompts"].unbind()])
        # verl fills an incomplete batch up with sequences whose mask is empty.
        lengths = torch.stack([mask.sum() for mask in data["response_mask"].unbind()]).float()
        model_tokens = lengths[torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])]
        metrics["model_tokens/mean"] = model_tokens.mean().item()
        metrics["model_tokens/max"] = model_tokens.max().item()
        fields = TensorDict({FOLD_FIELD: folds}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    @property
    def _folds(self) -> int:
        return int(self.config.method.position_stats.folds)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        record = self.global_steps % self.config.records.position_stats_every == 0
        self.actor_rollout_wg.record_position_stats(record)
        if self._calibration is not None and (deviations := self._calibration.deviations) is not None:
            self.actor_rollout_wg.calibrate_window(deviations)
        batch = super()._update_actor(batch, metrics)
        if record:
            stats = merge_ranks(self.actor_rollout_wg.take_position_stats())
            meta = {
                "method": self.config.method.name,
                "aggregation": self.config.actor_rollout_ref.actor.loss_agg_mode,
            }
            self.records.write_position_stats(self.global_steps, stats.to_arrays(), meta)
            metrics.update(position_metrics(stats))
            if self._calibration is not None:
                self._calibration.learn(stats.positions)
                if (scale := self._calibration.scale) is not None:
                    metrics["position/deviation_scale"] = scale
            self._position_stats = stats
        return batch

    # ------------------------------------------------------------------ checkpoints

    @property
    def _checkpoints(self) -> Path:
        return Path(self.config.trainer.default_local_dir)

    def _save_checkpoint(self) -> None:
        set_phase(self.records.path, "saving a checkpoint")
        row = dict(self._step_metrics)
        epoch = (self.global_steps - 1) // self.steps_per_epoch
        timing = {**self.timing_raw, "step": time.perf_counter() - self._step_started}
        self._compute_metrics(self._step_batch, row, timing, self.global_steps, epoch)
        self._write_checkpoint(plain(row))
        set_phase(self.records.path, "training")

    def _write_checkpoint(self, row: dict[str, Any]) -> None:
        checkpoints.prepare_save(self._checkpoints, self.global_steps, row)
        super()._save_checkpoint()  # ends by pointing verl's tracker file at this folder
        checkpoints.seal(self._checkpoints, self.global_steps, self.records.manifest()["config_hash"])
        self._saved_step = self.global_steps
        checkpoints.remove_old(self._checkpoints, self.config.trainer.max_actor_ckpt_to_keep)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        step, trainer = self.global_steps, self.config.trainer
        self._saved_step = step
        self.records.begin_training(step)
        if self._calibration is not None:
            self._calibration.replay(self.records)
        checkpoints.drop_future(self._checkpoints, step)
        checkpoints.drop_future_best(self._checkpoints, step)
        plan = resume.resume_plan(
            step, self.records.last_step(), trainer.test_freq, self.total_training_steps, trainer.val_before_train
        )
        draft = checkpoints.read_draft(self._checkpoints, step) if step > 0 else {}
        if plan.append_draft and draft:
            self.records.append_metrics(step, draft)
        self._draft_row = draft if plan.validate else {}
        with open_dict(self.config):
            # verl validates on every start where this is set, also of a run that resumes.
            trainer.val_before_train = plan.validate

    # ------------------------------------------------------------------ evaluation

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        set_phase(self.records.path, "evaluating")

    def _val_metrics_update(
        self,
        data_sources: Any,
        sample_uids: Any,
        reward_extra_infos_dict: Any,
        sample_turns: Any,
        expected_acc_counts: Any,
    ) -> dict[str, float]:
        by_benchmark = sample_rows(self.global_steps, data_sources, reward_extra_infos_dict)
        drawn = sum(len(rows) for rows in by_benchmark.values())
        self._refuse_losses("evaluation at", drawn, sum(expected_acc_counts.values()), allowed=0.0)
        for benchmark, rows in by_benchmark.items():
            self.records.write_samples(benchmark, self.global_steps, rows)
        order = named_order(data_sources, reward_extra_infos_dict["sample"])
        numeric = {
            name: taken(values, order) for name, values in reward_extra_infos_dict.items() if name in ("reward", "acc")
        }
        scores = [row["score"] for rows in by_benchmark.values() for row in rows]
        if self._saved_step == self.global_steps:
            checkpoints.keep_if_best(self._checkpoints, self.global_steps, sum(scores) / len(scores))
        sources, uids = taken(data_sources, order), taken(sample_uids, order)
        return super()._val_metrics_update(sources, uids, numeric, sample_turns, expected_acc_counts)


class Runner(main_ppo.TaskRunnerV1.__ray_metadata__.modified_class):
    """verl's task runner, in a Ray actor of its own; it comes from here, so that this trainer is registered there."""


class _RecordedTracking:
    """Records a row, then hands it to verl's trackers (wandb and friends are mirrors)."""

    def __init__(self, tracking: Any, trainer: RecordingTrainer):
        self._tracking, self._trainer = tracking, trainer

    def log(self, data: dict[str, Any], step: int) -> None:
        row = {**self._trainer._draft_row, **data}
        self._trainer._draft_row = {}
        self._trainer._logged_row = plain(row)
        self._trainer.records.append_metrics(step, self._trainer._logged_row)
        wandb, stats = self._tracking.logger.get("wandb"), self._trainer._position_stats
        plots = position_plots(wandb, stats) if wandb is not None and stats is not None else {}
        self._tracking.log(data=row | plots, step=step)
        self._trainer._position_stats = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracking, name)
