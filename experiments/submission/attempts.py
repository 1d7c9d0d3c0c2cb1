"""When a run has died too often to be tried again, from its records alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctpo.records import RunDirectory

#: Deaths from one checkpoint, none of which got as far as the next, after which a run is not tried again.
MAX_DEATHS = 3


def deaths_without_progress(manifest: Mapping[str, Any], resume_step: int, since: str = "") -> int:
    """How often the run has died on its way from the checkpoint that it would now resume from.

    Only the run's own deaths count (state "failed"). A requested stop does not count. An attempt that left no word does
    not count either, because its node may have died.

    Args:
        manifest: of the run, its newest attempt ended.
        resume_step: step of its newest checkpoint, 0 without one.
        since: ISO 8601; earlier attempts do not count, because a person has submitted the run again since then.
    """
    restarts = manifest["restarts"]
    began = [manifest["created"], *(restart["time"] for restart in restarts)]
    starts = [0, *(restart["step"] for restart in restarts)]
    ends = [*(restart["previous_state"] for restart in restarts), manifest["state"]]
    deaths = 0
    for time, start, end in reversed(list(zip(began, starts, ends, strict=True))):
        # No step: it died before it had loaded its checkpoint, so it made no progress either.
        if time < since or (start is not None and start < resume_step):
            break
        deaths += end == "failed"
    return deaths


def attempts(run: RunDirectory) -> int:
    """How often the run has begun: got as far as saying so in its manifest."""
    return 0 if run.state is None else 1 + len(run.manifest()["restarts"])
