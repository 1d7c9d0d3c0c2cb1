"""The one error that data and models raise while a run is prepared."""

from __future__ import annotations


class PrepareError(ValueError):
    """What was asked for is missing or malformed; the message names the field, the value and the fix."""
