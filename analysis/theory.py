"""The numbers that `python -m ctpo.theory` wrote, for figures and tables that belong to no run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.inputs import NothingToShow

COMMAND = "python -m ctpo.theory"

RATIOS = ("token", "length_normalized", "sequence", "cumulative")
ADVANTAGES = {"token": "token-level", "outcome": "outcome-level"}
#: What `ctpo.theory` writes for an exact 0, and what a logarithmic axis cannot show.
ZERO = 1e-12


@dataclass(frozen=True)
class Theory:
    """A folder of CSV files."""

    folder: Path

    def read(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        """One file; its numbers as numbers.

        Raises:
            NothingToShow: the folder or the file is missing, empty, unreadable or lacks one of `columns`.
        """
        if not self.folder.is_dir():
            raise NothingToShow(f"the theory's folder does not exist; write it with {COMMAND}")
        path = self.folder / f"{name}.csv"
        try:
            table = pd.read_csv(path)
        except FileNotFoundError:
            raise NothingToShow(f"no {path.name} in the theory's folder; write it with {COMMAND}") from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise NothingToShow(f"{path.name} is unreadable ({error}); write it anew with {COMMAND}") from None
        missing = [column for column in columns if column not in table]
        if missing or table.empty:
            why = f"lacks {', '.join(missing)}" if missing else "has no rows"
            raise NothingToShow(f"{path.name} {why}; write it anew with {COMMAND}")
        return table


def setting(table: pd.DataFrame, column: str) -> str:
    """The one value of a setting, or the range of several, as text."""
    values = sorted(table[column].unique())
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def sources(table: pd.DataFrame) -> str:
    """Where numbers come from, as a sentence for a caption."""
    return (
        f"Exact enumeration by `{COMMAND}`: vocabulary {setting(table, 'vocabulary')}, horizon "
        f"{setting(table, 'horizon')}, {table['seed'].nunique()} random problems (seeds {setting(table, 'seed')})."
    )
