"""Writes a checkpoint as a training run does: FSDP2 over gloo, verl's checkpoint manager, one file a process.

    python tests/verl_checkpoint.py MODEL_FOLDER GLOBAL_STEP_FOLDER PROCESSES NOISE

Every weight is moved by `NOISE` times a normal number, so that it is no longer the model it came from; then the
log-probabilities of fixed token ids, as the sharded model in the trainer gives them, are saved beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from omegaconf import OmegaConf

LOG_PROBS = "log_probs.pt"
TOKENS = 96


def token_ids(vocabulary: int) -> torch.Tensor:
    """`[1, TOKENS]`, the same wherever they are asked for."""
    return torch.randint(vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(0))


def log_probs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Of every next token of `ids`, `[1, TOKENS - 1, vocabulary]`, float32."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), dim=-1)


def save(rank: int, processes: int, model_folder: str, target: str, noise: float, port: int) -> None:
    """One training process' share of the work."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("fsdp",))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    manager = FSDPCheckpointManager(
        model=model,
        optimizer=None,
        lr_scheduler=None,
        processing_class=AutoTokenizer.from_pretrained(model_folder),
        checkpoint_config=OmegaConf.create({"save_contents": ["model"], "load_contents": ["model"]}),
    )
    manager.save_checkpoint(str(Path(target) / "actor"), global_step=3)
    values = log_probs(model, token_ids(model.config.vocab_size))
    if rank == 0:
        torch.save(values, Path(target) / LOG_PROBS)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    from socket import socket

    from ctpo.training.platforms import cpu

    cpu.register()
    model_folder, target, processes, noise = sys.argv[1:]
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (int(processes), model_folder, target, float(noise), port)
    torch.multiprocessing.spawn(save, arguments, nprocs=int(processes))
