"""verl's training worker with position statistics, accumulated where the ratios are: on the device.

No per-token value leaves the device. The trainer fetches the sums once in a recorded step.
"""

from __future__ import annotations

from typing import Any

import ray
from tensordict import TensorDict
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from ctpo.positions import PositionRecorder, PositionStats
from ctpo.records.position_stats import PositionSums
from ctpo.training.actor_config import MethodActorConfig
from ctpo.training.platforms import cpu, weight_socket
from ctpo.training.policy_loss import register_policy_losses

register_policy_losses()
cpu.register_training_shims()

#: Field that the trainer adds to the batch: the prompt fold of each sequence, int64 `[batch]`.
FOLD_FIELD = "ctpo_fold"
#: What the trainer tells the pass of the old log-probabilities: sequences of an update, over all processes.
MINI_BATCH = "mini_batch_size"


class RecordingTrainingWorker(TrainingWorker):
    """Tells the recorder which update of a step it is in. One mini-batch is one optimizer update."""

    recorder: PositionRecorder | None = None

    def infer_batch(self, data: TensorDict) -> TensorDict | None:
        """Log-probabilities of the old policy, in the mini-batches and micro-batches in which the update computes them.

        A token's bfloat16 log-probability depends on the sequences it is packed with. In other micro-batches it
        differs by 0.02 RMS over a response while the policy is the same, and that noise grows like sqrt(t).
        """
        size = tu.pop(data, key=MINI_BATCH, default=None)
        if size is None:
            return super().infer_batch(data)
        tu.assign_non_tensor(
            data,
            use_dynamic_bsz=self.engine_config.use_dynamic_bsz,
            max_token_len_per_gpu=self.engine_config.max_token_len_per_gpu,
            micro_batch_size_per_gpu=self.engine_config.micro_batch_size_per_gpu,
        )
        outputs = []
        with self.engine.eval_mode(disable_auto_offload=tu.pop(data, key="disable_auto_offload", default=False)):
            for part in tu.chunk_tensordict(data, len(data) * self.engine.get_data_parallel_size() // size):
                tu.assign_non_tensor(part, disable_auto_offload=True)
                outputs.append(super().infer_batch(part))
        if outputs[0] is None:
            return None
        metrics = [tu.pop(output, key="metrics") for output in outputs]
        whole = tu.concat_tensordict(outputs)
        tu.assign_non_tensor(whole, metrics=metrics[0])
        return whole

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        if self.recorder is not None:
            self.recorder.begin_step()
        return super().train_mini_batch(data)

    def train_batch(self, data: TensorDict) -> TensorDict:
        if self.recorder is not None:
            self.recorder.begin_update()
        return super().train_batch(data)


class _LossWithFolds:
    """verl's loss function, after telling the recorder which prompts the micro-batch holds."""

    def __init__(self, loss_fn: Any, worker: RecordingTrainingWorker):
        self._loss_fn, self._worker = loss_fn, worker

    def __call__(self, model_output: Any, data: TensorDict, dp_group: Any = None) -> Any:
        if self._worker.recorder is not None:
            self._worker.recorder.folds = data[FOLD_FIELD]
        return self._loss_fn(model_output=model_output, data=data, dp_group=dp_group)


class RecordingActorWorker(ActorRolloutRefWorker):
    """verl's hybrid worker; its actor records position statistics while the trainer wants them."""

    actor_worker_cls = RecordingTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        super().init_model()
        self.rollout.zmq_handle = weight_socket.sender(self.rollout.zmq_handle, ray.get_runtime_context().get_job_id())
        self._actor_config: MethodActorConfig = self.loss_fn.keywords["config"]
        self.actor.set_loss_fn(_LossWithFolds(self.loss_fn, self.actor))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def record_position_stats(self, wanted: bool) -> None:
        """Start counting anew, or (False) stop counting."""
        recorder = PositionRecorder(self._empty_stats()) if wanted else None
        self.actor.recorder = recorder
        self._actor_config.observer = recorder

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_position_stats(self) -> PositionSums | None:
        """This process' sums since `record_position_stats(True)`.

        None from a process whose sequences another one has too (sequence parallelism): they count once.
        """
        if not self.actor.engine.is_mp_src_rank_with_outputs():
            return None
        sums: PositionSums = self.actor.recorder.stats.read()
        return sums

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def calibrate_window(self, deviations: Tensor) -> None:
        """Clip by these standard deviations of `log rho_t` from now on, float32 `[positions]`."""
        self._actor_config.calibrate(deviations.to(get_device_name()))

    def _empty_stats(self) -> PositionStats:
        layout = self._actor_config.position_stats
        return PositionStats.zeros(
            layout.max_position,
            bin_width=layout.bin_width,
            folds=layout.folds,
            max_updates=layout.max_updates,
            device=get_device_name(),
        )
