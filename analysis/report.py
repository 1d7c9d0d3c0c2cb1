"""One HTML file with every figure and table, that opens from disk without a network."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from analysis.artifacts import Artifact, Table, provenance
from ctpo.records import Problem, RunRecord

_STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 Georgia, serif; color: #222; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img { width: 100%; height: auto; } table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th:first-child, td:first-child, .prose th, .prose td { text-align: left; }
.caption, details { color: #444; font-size: .9rem; } code { font-size: .85em; }
"""


def run_facts(run: RunRecord) -> dict[str, str]:
    """What a reader must know of a run before any number from it, by name."""
    evaluated = [f"{name} at {len(run.sample_steps(name))} steps" for name in run.benchmarks]
    return {
        "run": run.name,
        "state": run.state,
        "last step": f"{'none' if run.last_step is None else run.last_step} of {run.total_steps or 'unknown'}",
        "position statistics": f"of {len(run.position_stats_steps)} steps",
        "evaluated": "; ".join(evaluated) or "never",
        "commit": (run.commit or "none")[:12],
    }


def html_report(
    title: str,
    runs: Sequence[RunRecord],
    artifacts: Sequence[Artifact],
    left_out: Sequence[str],
    problems: Sequence[Problem],
    command: str,
) -> str:
    """The whole document, UTF-8 text, in this order: runs and their problems, contents, artifacts, what was left out.

    Pictures are embedded.
    """
    facts = [run_facts(run) for run in runs]
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>Made by <code>{escape(command)}</code> from {len(runs)} runs.</p>",
        *_table(Table(list(facts[0]) if facts else [], [list(one.values()) for one in facts], prose=True)),
        *(_list("Problems found in the records", [str(problem) for problem in problems]) if problems else []),
        "<h2>Contents</h2><ul>",
        *(f'<li><a href="#{escape(one.name)}">{escape(one.title)}</a></li>' for one in artifacts),
        "</ul>",
        *(_section(artifact, command) for artifact in artifacts),
        *(_list("Left out", left_out) if left_out else []),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _section(artifact: Artifact, command: str) -> str:
    parts = [f'<h2 id="{escape(artifact.name)}">{escape(artifact.title)}</h2>']
    if artifact.has_picture:
        picture = base64.b64encode(artifact.rendered("png")).decode()
        parts.append(f'<img alt="{escape(artifact.title)}" src="data:image/png;base64,{picture}">')
    if artifact.table is not None:
        parts += _table(artifact.table)
    parts.append(f'<p class="caption">{_inline(artifact.caption)}</p>')
    source = "<br>".join(_inline(line.strip()) for line in provenance(artifact.runs, command).splitlines())
    parts.append(f"<details><summary>Where it comes from</summary>{source}</details>")
    return "\n".join(parts)


def _table(table: Table) -> list[str]:
    kind = "prose" if table.prose else "numbers"
    rows = [_row("td", row) for row in table.rows]
    return [f'<table class="{kind}"><thead>', _row("th", table.header), "</thead><tbody>", *rows, "</tbody></table>"]


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in cells)}</tr>"


def _list(title: str, items: Sequence[str]) -> list[str]:
    return [f"<h2>{escape(title)}</h2><ul>", *(f"<li>{_inline(item)}</li>" for item in items), "</ul>"]


def _inline(text: str) -> str:
    """Markdown's code and bold, the two that captions use."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]*)\*\*", r"<b>\1</b>", marked)
