"""What a configured value may be."""

from __future__ import annotations

import math
from typing import Any


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """A whole number of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """A finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
