"""A run lies under the name of the method that it trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

CUSTOM = "custom"
_CHOICES = Path(__file__).resolve().parents[1] / "configs" / "method"


def name_problems(config: DictConfig) -> Iterator[str]:
    """`run.method`, by which figures and tables sort runs, may not name another method than `method.name`."""
    trained, shown = config.method.name, str(config.run.method)
    base = shown.partition("-")[0].strip().casefold()
    taken = base in {path.stem for path in _CHOICES.glob("*.yaml")} - {CUSTOM}
    if base != trained and (trained != CUSTOM or taken):
        fix = (
            "choose a name that no method of this project has"
            if trained == CUSTOM
            else "tell runs apart by run.variant"
        )
        yield f"run.method={shown}: the method that is trained is {trained}; {fix}"
