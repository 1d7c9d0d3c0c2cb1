"""Every method trains, for real, in one run that starts Ray, verl and vLLM once."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from ctpo.methods import METHODS
from ctpo.records import RunDirectory
from ctpo.records.position_archive import read_position_stats
from ctpo.records.position_stats import PositionSums

from .conftest import PROJECT, Run
from .family_run import STEPS

NAMES = [*METHODS, "custom"]
SEQUENCES, UPDATES = 16, 4


@pytest.mark.timeout(1500)
def test_every_method_trains_three_steps(new_run: Callable[..., Run]) -> None:
    run = new_run(name="family")
    run.output = run.directory.parent / "family.out"
    run.output.parent.mkdir(parents=True)
    with open(run.output, "w") as output:
        run.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.family_run", str(run.directory)],
            cwd=PROJECT, env=os.environ | {"PYTHONPATH": str(PROJECT)}, stdout=output, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
    assert run.wait(1400) == 0, run.tail()
    run.wait_for_no_process(60)

    rows, problems = RunDirectory(run.directory).rows()
    assert problems == []
    assert [row["step"] for row in rows] == list(range(1, STEPS * len(NAMES) + 1))
    for index, name in enumerate(NAMES):
        steps = rows[STEPS * index : STEPS * (index + 1)]
        for row in steps:
            assert_recorded(run, name, row)
        # A step in which every group is all right or all wrong teaches nothing; three such are a broken loss.
        assert max(row["actor/grad_norm"] for row in steps) > 1e-5, name
        assert max(row["actor/log_ratio_max"] - row["actor/log_ratio_min"] for row in steps) > 1e-3, name
        # All start from the same weights: no method inherits what another one broke. A step of 16 responses of a model
        # that is right in a quarter of them can be all wrong.
        assert max(row["critic/score/mean"] for row in steps) > 0, name
    # What was measured in a step decides the next step's window: no more the assumed 0.02 a token.
    first = STEPS * NAMES.index("ctpo_calibrated")
    found = (row.get("position/deviation_scale") for row in rows[first : first + STEPS])
    scales = {scale for scale in found if scale is not None}
    assert len(scales) >= 2
    assert all(0 < scale < 10 for scale in scales)
    assert "position/deviation_scale" not in rows[0]


def assert_recorded(run: Run, name: str, row: dict) -> None:
    """The step's loss and gradient are finite, its clip fractions recorded, its statistics complete."""
    for key in ("actor/pg_loss", "actor/grad_norm", "actor/ppo_kl", "actor/log_ratio_min", "actor/log_ratio_max"):
        assert math.isfinite(row[key]), (name, key)
    for key in ("actor/pg_clipfrac", "actor/pg_clipfrac_high", "actor/pg_clipfrac_low", "position/clip_fraction_own"):
        assert 0 <= row[key] <= 1, (name, key)
    arrays, meta = read_position_stats(run.directory / "position_stats" / f"step_{row['step']}.npz")
    assert meta == {
        "step": row["step"],
        "method": name,
        "aggregation": METHODS[name].aggregation if name in METHODS else "seq-mean-token-mean",
    }
    stats = PositionSums.from_arrays(arrays)
    tokens = round(row["model_tokens/mean"] * SEQUENCES)
    # Two epochs over the batch, a mini-batch of half of it at a time.
    assert stats.updates.count.sum().item() + stats.overflow.sum().item() == 2 * tokens
    assert (stats.updates.count.sum(-1) > 0).sum().item() == UPDATES
    high, low = stats.positions.clip_counts()
    assert row["position/clip_fraction_own"] == pytest.approx(
        ((high.sum() + low.sum()) / stats.positions.count.sum()).item(), abs=1e-6
    )
