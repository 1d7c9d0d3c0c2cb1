"""One problem as a row in verl's format, from verl's own columns or from those of a data set's home."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from experiments.data.errors import PrepareError

NO_PROBLEM, NO_ANSWER = "no problem text", "no reference answer"


class UnusableRow(PrepareError):
    """A row that is well formed but holds no problem or no answer; `reason` is one of the constants above."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def verl_row(
    record: Mapping[str, Any], columns: Mapping[str, str], name: str | None, label: str, where: str
) -> dict[str, Any]:
    """`record` in verl's columns, whichever of the two forms it comes in.

    Args:
        record: a row with verl's `prompt` and `reward_model`, or with the columns that `columns` names.
        columns: names of the columns `problem` and `answer`; other columns (a worked solution) are not read.
        name: overrides the row's own name of where it comes from, if given.
        label: that name for a row that has none.
        where: file and row, for messages.

    Raises:
        PrepareError: neither form.
    """
    if "prompt" in record:
        return {**record, "data_source": name or record.get("data_source")}
    missing = [name for name in columns.values() if name not in record]
    if missing:
        raise PrepareError(
            f"{where}: has neither verl's column prompt nor {' and '.join(missing)} (columns: {', '.join(record)}); "
            "correct data_catalog.<name>.columns or convert the file to verl's format"
        )
    return {
        "data_source": name or label,
        "prompt": [{"role": "user", "content": record[columns["problem"]]}],
        "reward_model": {"ground_truth": _answer_text(record[columns["answer"]])},
    }


def _answer_text(value: Any) -> Any:
    """AIME's answers come as numbers: 70 and 70.0 are both written "70"."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if value == int(value) else str(value)


def checked_row(row: Mapping[str, Any], where: str, index: int, split: str, system_prompt: str) -> dict[str, Any]:
    """One row in verl's format as every part of this project expects it.

    Puts `system_prompt` first if the row has no system message, and gives the problem an id (a hash of its
    text) if it has none. Columns that nothing reads are dropped, so that files of any origin go together.

    Raises:
        UnusableRow: the problem or the reference answer is empty.
        PrepareError: the row is malformed. Both name `where`, the field and the fix.
    """
    messages = _messages(row.get("prompt"), where)
    asked = "\n".join(turn["content"] for turn in messages if turn["role"] != "system")
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    reward_model, extra = row.get("reward_model") or {}, row.get("extra_info") or {}
    truth = reward_model.get("ground_truth")
    if not isinstance(truth, str) or not truth.strip():
        raise UnusableRow(
            f"{where}: reward_model.ground_truth={truth!r:.80} must be a non-empty text; give the reference answer",
            NO_ANSWER,
        )
    source = row.get("data_source")
    if not isinstance(source, str) or not source.strip():
        raise PrepareError(
            f"{where}: data_source={source!r:.80} must be a non-empty text; name where the problem comes from"
        )
    return {
        "data_source": benchmark_name(source),
        "prompt": messages,
        "ability": row.get("ability") or "math",
        "reward_model": {"ground_truth": truth, "style": reward_model.get("style") or "rule"},
        "extra_info": {
            "index": index,
            "split": split,
            "problem_id": extra.get("problem_id") or hashlib.sha256(asked.encode()).hexdigest()[:16],
        },
    }


def _messages(prompt: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(prompt, list) or not prompt or not all(isinstance(turn, dict) for turn in prompt):
        raise PrepareError(f"{where}: prompt={prompt!r:.80} must be a list of {{role, content}} messages")
    messages = []
    for i, turn in enumerate(prompt):
        role, content = turn.get("role"), turn.get("content")
        if role not in ("system", "user", "assistant") or (role == "system" and i):
            raise PrepareError(f"{where}: prompt[{i}].role={role!r}: use an optional system, then user messages")
        if not isinstance(content, str) or not content.strip():
            raise UnusableRow(
                f"{where}: prompt[{i}].content={content!r:.80} must be a non-empty text; give the message's text",
                NO_PROBLEM,
            )
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user":
        raise PrepareError(f"{where}: prompt[-1].role={messages[-1]['role']!r}: the last message must be user's")
    return messages


def asked_text(row: Mapping[str, Any]) -> str:
    """The problem as the user puts it, without the system prompt."""
    return "\n".join(turn["content"] for turn in row["prompt"] if turn["role"] != "system")


def benchmark_name(data_source: str) -> str:
    """`data_source` as a folder name of `samples/`: other characters than letters, digits, '.', '_', '-' become '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", data_source).lstrip("._-") or "unnamed"
