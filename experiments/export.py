"""A checkpoint of verl as a Hugging Face folder: ``python experiments/export.py CHECKPOINT TARGET``.

CHECKPOINT is `global_step_<n>` of a run, its `actor` folder, or the run's directory (its newest checkpoint).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from experiments import command
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
from ctpo.training import checkpoints
from ctpo.training.checkpoints import BEST, best_so_far
from ctpo.training.platforms import environment
from experiments.errors import BadRequest
from experiments.progress import captured_output

DTYPES = ("keep", "float32", "bfloat16", "float16")


def find_checkpoint(path: Path) -> tuple[Path, int] | None:
    """The `actor` folder and the step of the checkpoint of verl that `path` names; None if it names none.

    Raises:
        BadRequest: it is a run's directory without a complete checkpoint, or its files are not as they were sealed.
    """
    path = path.resolve()
    folder = path.parent if path.name == "actor" else path
    if (folder / "checkpoints").is_dir():
        steps = checkpoints.complete_steps(folder / "checkpoints")
        if not steps:
            raise BadRequest(f"{path}: has no complete checkpoint yet; train on to the next trainer.save_freq")
        folder = folder / "checkpoints" / f"global_step_{steps[-1]}"
    actor = folder / "actor"
    match = re.fullmatch(r"global_step_(\d+)", folder.name)
    if not actor.is_dir():
        return None
    # One without a seal is of another origin.
    if (reason := checkpoints.damage(folder)) and reason != checkpoints.UNFINISHED:
        raise BadRequest(f"{folder}: damaged ({reason}); name another checkpoint")
    if match:
        return actor, int(match.group(1))
    best = best_so_far(folder.parent) if folder.name == BEST else None
    return actor, best[0] if best else 0


def weight_files(actor: Path) -> list[Path]:
    """The files that hold the model's shards, one of each training process.

    Raises:
        BadRequest: one is missing, or the folder is not a checkpoint of verl's FSDP engine.
    """
    try:
        processes = int(json.loads((actor / "fsdp_config.json").read_text())["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BadRequest(f"{actor}: has no readable fsdp_config.json; name a complete checkpoint of verl") from None
    files = [actor / f"model_world_size_{processes}_rank_{rank}.pt" for rank in range(processes)]
    missing = [file.name for file in files if not file.is_file()]
    if not (actor / "huggingface" / "config.json").is_file():
        missing.append("huggingface/config.json")
    if missing:
        raise BadRequest(f"{actor}: lacks {', '.join(missing)}; name a complete checkpoint")
    return files


def export(actor: Path, target: Path, dtype: str = "keep") -> None:
    """Merge the shards in `actor` into the Hugging Face folder `target`, with verl's own merger.

    Args:
        actor: `actor` folder of a checkpoint of verl's FSDP engine.
        target: must not exist, or be empty. It appears whole.
        dtype: of the weights; `keep` leaves them as the trainer holds them.

    Raises:
        BadRequest: the checkpoint is not complete, its weights are not those of its model, or `target` is taken.
    """
    files = weight_files(actor)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadRequest(f"{target}: exists already; remove it or choose another target")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        # What verl, torch and transformers say meanwhile is about themselves; an error carries its own message.
        with tempfile.TemporaryDirectory() as scratch, captured_output(Path(scratch) / "log") as terminal:
            print(f"exporting {actor} ...", file=terminal)
            _merge(actor, files, partial, dtype)
        partial.chmod(0o755)
        for path in partial.iterdir():
            path.chmod(0o644)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _merge(actor: Path, files: Sequence[Path], target: Path, dtype: str) -> None:
    import torch
    from torch.distributed.tensor import DTensor
    from verl.model_merger.base_model_merger import ModelMergerConfig
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

    class Merger(FSDPModelMerger):
        """verl's, which turns every weight into bfloat16: in float32 that changes log-probabilities by 1e-2."""

        def _load_and_merge_state_dicts(
            self, world_size: int, total_shards: int, mesh_shape: Any, mesh_dim_names: Any
        ) -> dict[str, torch.Tensor]:
            # mmap: of all shards only the tensor in hand is in memory.
            shards = [torch.load(file, map_location="cpu", weights_only=False, mmap=True) for file in files]
            merged = {}
            for name in sorted(shards[0]):
                parts = [shard.pop(name) for shard in shards[:total_shards]]
                if isinstance(parts[0], DTensor):
                    whole = self._merge_by_placement([part._local_tensor for part in parts], parts[0].placements[-1])
                else:
                    whole = merge_non_dtensor_shards(name, parts)
                merged[name] = whole if dtype == "keep" else whole.to(getattr(torch, dtype))
            _check_weights(actor, self.model_config, merged)
            self.dtype = str(next(iter(merged.values())).dtype).removeprefix("torch.")
            return merged

    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(actor),
        hf_model_config_path=str(actor / "huggingface"),
        target_dir=str(target),
    )
    merger = Merger(config)
    merger.merge_and_save()
    settings = json.loads((target / "config.json").read_text())
    # verl writes bfloat16 here, and transformers loads as it says here.
    settings.pop("torch_dtype", None)
    settings["dtype"] = merger.dtype
    (target / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _check_weights(actor: Path, model_config: Any, weights: dict[str, Any]) -> None:
    """Raises BadRequest if names or shapes of `weights` are not those of the model that `model_config` describes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise BadRequest(
            f"{actor}: its weights are not of its huggingface/config.json: {name} has shape {found.get(name)}, "
            f"the model {wanted.get(name)} ({len(differing)} weights differ); name an undamaged checkpoint"
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if the folder is there at the end."""
    parser = argparse.ArgumentParser(prog="experiments/export.py", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="global_step_<n>, its actor folder, or a run's directory")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="keep", help="of the weights (default: keep, as the trainer holds them)"
    )
    options = parser.parse_args(arguments)
    # verl looks for its device when it is imported; merging needs none.
    os.environ.update(environment.for_device("cpu"))
    try:
        found = find_checkpoint(options.checkpoint)
        if found is None:
            raise BadRequest(f"{options.checkpoint}: is not a checkpoint of verl; name a global_step_<n> folder")
        export(found[0], options.target, options.dtype)
    except BadRequest as error:
        print(error.report(), file=sys.stderr)
        return 1
    print(f"exported step {found[1]}: {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(command.ended(main))
