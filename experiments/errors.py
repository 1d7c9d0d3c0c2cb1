"""The one error for a request that cannot be carried out."""

from __future__ import annotations


class BadRequest(ValueError):
    """The request is wrong, and nothing was started. Each argument is one problem, with field, value and fix."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))

    def report(self) -> str:
        """Every problem with `error: ` before it."""
        return "\n".join(f"error: {problem}" for problem in self.args)
