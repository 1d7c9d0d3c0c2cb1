"""What figures and tables are made into: files, the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf

from ctpo.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Without these, matplotlib writes the time and its own version.
_METADATA = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. A line is drawn above rows `rules`; cells of `prose` are set as text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    rules: Sequence[int] = ()
    prose: bool = False

    def markdown(self) -> str:
        """A pipe table; first column to the left, others to the right (prose: all to the left)."""
        others = ":--" if self.prose else "--:"
        lines = [_pipe(self.header), _pipe([":--", *[others] * (len(self.header) - 1)])]
        return "\n".join([*lines, *map(_pipe, self.rows)]) + "\n"

    def latex(self) -> str:
        """A booktabs tabular."""
        columns = len(self.header)
        paragraphs = rf"p{{{0.94 / columns:.2f}\linewidth}}" * columns
        spec = paragraphs if self.prose else f"l{'r' * (columns - 1)}"
        lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", _ampersand(self.header)]
        lines.append(r"\midrule")
        for number, row in enumerate(self.rows):
            if number in self.rules:
                lines.append(r"\midrule")
            lines.append(_ampersand(row))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


@dataclass(frozen=True)
class Artifact:
    """A figure or a table with the numbers behind it.

    Attributes:
        name: of its files, without suffix.
        title: what a paper would call it.
        caption: everything needed to read it, Markdown.
        runs: the runs it was made from.
        data: the plotted or tabulated numbers.
    """

    name: str
    title: str
    caption: str
    runs: Sequence[RunRecord]
    data: pd.DataFrame
    figure: Figure | None = None
    table: Table | None = None
    _rendered: dict[str, bytes] = field(default_factory=dict, compare=False)

    def write(self, folder: Path, command: str) -> list[Path]:
        """Writes all its files into `folder`; returns them."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {"csv": self.data.to_csv(index=False, float_format="%.10g").encode()}
        if self.has_picture:
            contents |= {suffix: self.rendered(suffix) for suffix in _METADATA}
        if self.table is not None:
            contents["tex"] = self.table.latex().encode()
        contents["md"] = self.markdown(command).encode()
        paths = []
        for suffix, content in contents.items():
            paths.append(folder / f"{self.name}.{suffix}")
            paths[-1].write_bytes(content)
        return paths

    @property
    def has_picture(self) -> bool:
        """Whether it is a figure."""
        return self.figure is not None or bool(self._rendered)

    def rendered(self, suffix: str) -> bytes:
        """The figure as a file's content, drawn once."""
        if suffix not in self._rendered:
            if self.figure is None:
                raise ValueError(f"{self.name} has no figure")
            layout = self.figure.get_layout_engine()
            if layout is not None:
                # Settled once, not once per format: it is the slowest part of drawing.
                layout.execute(self.figure)
                self.figure.set_layout_engine("none")
            buffer = BytesIO()
            # The canvas itself, because `savefig` draws everything twice.
            canvas = {"pdf": FigureCanvasPdf, "png": FigureCanvasAgg}[suffix](self.figure)
            resolution = self.figure.dpi
            getattr(canvas, f"print_{suffix}")(buffer, metadata=_METADATA[suffix])
            self.figure.dpi = resolution  # the PDF leaves its own
            self._rendered[suffix] = buffer.getvalue()
        return self._rendered[suffix]

    def drawn(self) -> Artifact:
        """The same with its pictures as bytes alone: what one process can hand to another."""
        if self.figure is None:
            return self
        return replace(self, figure=None, _rendered={suffix: self.rendered(suffix) for suffix in _METADATA})

    def markdown(self, command: str) -> str:
        """Title, table, caption and where the numbers come from."""
        table = f"{self.table.markdown()}\n" if self.table is not None else ""
        return f"**{self.title}.**\n\n{table}{self.caption}\n\n{provenance(self.runs, command)}"


def provenance(runs: Sequence[RunRecord], command: str) -> str:
    """Runs, commits, seeds and command, as Markdown; the command alone for what belongs to no run."""
    if not runs:
        return f"- Command: `{command}`\n"
    lines = [
        f"- Command: `{command}`",
        f"- Seeds: {', '.join(sorted({str(run.seed) for run in runs}))}",
        "- Runs:",
    ]
    for run in runs:
        commit = f"commit {run.commit.rstrip('+')[:12]}" if run.commit else "not from a git checkout"
        changed = " with uncommitted changes" if (run.commit or "").endswith("+") else ""
        unfinished = "" if run.state == "finished" else f", **{run.state}**"
        lines.append(f"  - `{run.name}`, {commit}{changed}{unfinished}")
    return "\n".join(lines) + "\n"


def _pipe(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "−": "$-$", "<": "$<$", "–": "--"}


def _ampersand(cells: Sequence[str]) -> str:
    escaped = ["".join(_LATEX.get(character, character) for character in cell) for cell in cells]
    return " & ".join(cell.replace("**", "") for cell in escaped) + r" \\"
