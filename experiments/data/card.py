"""The data card beside prepared files: where they come from, what was checked, dropped and found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpo.records.shapes import shown
from experiments.data.lengths import PromptLengths

CARD_JSON, CARD_TEXT = "data_card.json", "data_card.md"
EXAMPLES = 200
"""Findings of each kind that are listed one by one; all are counted."""


class Facts:
    """What is noticed while rows are read."""

    def __init__(self, lengths: PromptLengths) -> None:
        self.lengths = lengths
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.findings: list[dict[str, str]] = []

    def drop(self, row: Mapping[str, Any], reason: str, detail: str = "") -> None:
        """A row in verl's format that is left out."""
        self._add(self.dropped, "dropped", row, reason, detail)

    def note(self, row: Mapping[str, Any], reason: str, detail: str = "") -> None:
        """A row that is kept although something is to be known about it."""
        self._add(self.noted, "kept", row, reason, detail)

    def _add(self, counter: Counter[str], fate: str, row: Mapping[str, Any], reason: str, detail: str) -> None:
        counter[reason] += 1
        if counter[reason] <= EXAMPLES:
            asked = [_plain(turn["content"]) for turn in row["prompt"] if turn["role"] != "system"]
            gold = _plain((row.get("reward_model") or {}).get("ground_truth"))
            problem = f"{' '.join(asked):.160}"
            self.findings.append(
                {"fate": fate, "reason": reason, "detail": detail, "problem": problem, "answer": f"{gold:.80}"}
            )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else shown(value)


def write(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], origins: Sequence[Mapping[str, str]], facts: Facts
) -> None:
    """`data_card.json` and the same for people, `data_card.md`."""
    golds = [row["reward_model"]["ground_truth"] for row in rows]
    facts_of = {
        "name": name,
        "origin": [dict(origin) for origin in origins],
        "rows_read": facts.read,
        "rows": len(rows),
        "dropped": dict(facts.dropped),
        "noted": dict(facts.noted),
        "whole_number_answers": sum(gold.strip().lstrip("-").isdigit() for gold in golds),
        "prompt_tokens": facts.lengths.summary([row["prompt"] for row in rows]),
        "tokenizer": str(facts.lengths.folder) if facts.lengths.folder else None,
        "findings": facts.findings,
    }
    (folder / CARD_JSON).write_text(json.dumps(facts_of, indent=2, ensure_ascii=False) + "\n")
    (folder / CARD_TEXT).write_text(_text(facts_of))


def _text(card: Mapping[str, Any]) -> str:
    tokens = card["prompt_tokens"]
    lines = [f"# {card['name']}", ""]
    lines += [f"- from {', '.join(f'{key} {value}' for key, value in origin.items())}" for origin in card["origin"]]
    lines.append(
        f"- {card['rows_read']} rows read, {card['rows']} kept; {card['whole_number_answers']} whole-number answers"
    )
    lines += [f"- dropped: {count} ({reason})" for reason, count in card["dropped"].items()]
    lines += [f"- kept, but: {count} ({reason})" for reason, count in card["noted"].items()]
    if tokens is None:
        lines.append("- lengths in tokens: not counted, no model was at hand")
    else:
        lines.append(
            f"- prompt in tokens ({card['tokenizer']}): min {tokens['min']}, median {tokens['median']}, "
            f"95 % {tokens['p95']}, max {tokens['max']}; "
            f"{tokens['over_limit']} over data.max_prompt_length={tokens['limit']}"
        )
    for finding in card["findings"]:
        detail = f": {finding['detail']}" if finding["detail"] else ""
        problem, answer = " ".join(finding["problem"].split()), finding["answer"]
        lines += ["", f"**{finding['fate']}, {finding['reason']}**{detail}  ", f"{problem} (answer: {answer})"]
    return "\n".join(lines) + "\n"
