"""One HTML file with every figure and table, that opens from disk without a network."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from analysis.artifacts import Artifact, provenance
from ctpo.records import Problem

_STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 Georgia, serif; color: #222; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img { width: 100%; height: auto; } table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th:first-child, td:first-child, .prose th, .prose td { text-align: left; }
.caption, details { color: #444; font-size: .9rem; } code { font-size: .85em; }
"""


def html_report(
    title: str,
    artifacts: Sequence[Artifact],
    left_out: Sequence[str],
    problems: Sequence[Problem],
    command: str,
) -> str:
    """The whole document, UTF-8 text; pictures are embedded."""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(_list("Left out", left_out) if left_out else []),
        *(_list("Problems found in the records", [str(problem) for problem in problems]) if problems else []),
        *(_section(artifact, command) for artifact in artifacts),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _section(artifact: Artifact, command: str) -> str:
    parts = [f'<h2 id="{escape(artifact.name)}">{escape(artifact.title)}</h2>']
    if artifact.has_picture:
        picture = base64.b64encode(artifact.rendered("png")).decode()
        parts.append(f'<img alt="{escape(artifact.title)}" src="data:image/png;base64,{picture}">')
    if artifact.table is not None:
        parts.append(f'<table class="{"prose" if artifact.table.prose else "numbers"}"><thead>')
        parts.append(_row("th", artifact.table.header))
        parts.append("</thead><tbody>")
        parts += [_row("td", row) for row in artifact.table.rows]
        parts.append("</tbody></table>")
    parts.append(f'<p class="caption">{_inline(artifact.caption)}</p>')
    source = "<br>".join(_inline(line.strip()) for line in provenance(artifact.runs, command).splitlines())
    parts.append(f"<details><summary>Where it comes from</summary>{source}</details>")
    return "\n".join(parts)


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in cells)}</tr>"


def _list(title: str, items: Sequence[str]) -> list[str]:
    return [f"<h2>{escape(title)}</h2><ul>", *(f"<li>{_inline(item)}</li>" for item in items), "</ul>"]


def _inline(text: str) -> str:
    """Markdown's code and bold, the two that captions use."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]*)\*\*", r"<b>\1</b>", marked)
