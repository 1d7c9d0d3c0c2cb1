"""Claims about tokenizer, chat template and token stream."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from verl.utils.tokenizer.continuous_token import QwenContinuousTokenBuilder

from ctpo.tir.prompts import SYSTEM_PROMPTS, tool_message
from experiments.tiny.demonstrations import demonstrate
from experiments.tiny.problems import draw, messages
from experiments.tiny.spec import Quality, TinyModelSpec
from experiments.tiny.tokenizer import MARKERS, MIN_VOCAB, ChatPieces, build_tokenizer
from experiments.tiny.warm_start import tokenize

SPEC = TinyModelSpec()
SYSTEM = {"role": "system", "content": "s"}
ASKED = {"role": "user", "content": "q"}
THINK = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(SPEC.vocab_size, SPEC.seed, SPEC.max_positions)


def render(tokenizer: Any, conversation: Any, **options: Any) -> Any:
    return tokenizer.apply_chat_template(conversation, tokenize=False, **options)


def test_the_vocabulary_has_exactly_the_asked_size(tokenizer: Any) -> None:
    assert len(tokenizer) == SPEC.vocab_size
    assert max(tokenizer.get_vocab().values()) == SPEC.vocab_size - 1


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *MARKERS, "\n"])
def test_control_tokens_and_newline_are_single_tokens(tokenizer: Any, token: str) -> None:
    assert len(tokenizer.encode(token, add_special_tokens=False)) == 1


def test_end_and_padding_are_the_ones_of_qwen3(tokenizer: Any) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_decoding_without_special_tokens_keeps_the_markers_as_qwen3_does(tokenizer: Any) -> None:
    ids = tokenizer.encode("<|im_start|><think>x</think><|im_end|>", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>x</think>"


@pytest.mark.parametrize(
    "text", ["12 + 345\n\n  x", "naïve Ω 日本 🙂\t\r\n", "```python\nprint(1)\n```", "\\boxed{-7}"]
)
def test_any_text_survives_encoding_and_decoding(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_stand_alone(tokenizer: Any) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("x = 4096 * 17", add_special_tokens=False)]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("409617")


def test_the_system_prompt_is_short(tokenizer: Any) -> None:
    assert 8 <= len(tokenizer.encode(SYSTEM_PROMPTS["short"], add_special_tokens=False)) <= 20


def test_a_saved_tokenizer_loads_by_auto_class_beside_a_qwen3_config_with_equal_ids(
    tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = render(tokenizer, [SYSTEM, ASKED, tool_message("12\n3")], add_generation_prompt=True)
    assert render(loaded, [SYSTEM, ASKED, tool_message("12\n3")], add_generation_prompt=True) == text
    assert loaded.encode(text) == tokenizer.encode(text, add_special_tokens=False)
    assert (len(loaded), loaded.eos_token_id, loaded.pad_token_id) == (SPEC.vocab_size, 2, 0)


def test_building_again_gives_the_same_tokenizer(tokenizer: Any) -> None:
    again = build_tokenizer(SPEC.vocab_size, SPEC.seed, SPEC.max_positions)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match=f"vocab_size=100: .* need {MIN_VOCAB}"):
        build_tokenizer(100, 0, 1024)


def test_a_vocabulary_larger_than_the_text_yields_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=5000: the text yields only"):
        build_tokenizer(5000, 0, 1024)


# The expected texts below are what Qwen3-4B's own template gives for the same messages.
TURNS = {
    "thinking off puts an empty think block into the generation prompt": (
        [SYSTEM, ASKED],
        {"add_generation_prompt": True, "enable_thinking": False},
        f"<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{THINK}",
    ),
    "thinking on does not": (
        [ASKED],
        {"add_generation_prompt": True, "enable_thinking": True},
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
    ),
    "a last answer gets an empty think block": (
        [ASKED, {"role": "assistant", "content": "a"}],
        {},
        f"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{THINK}a<|im_end|>\n",
    ),
    "neighbouring tool messages share one user turn and the call before them has no think block": (
        [ASKED, {"role": "assistant", "content": f"{THINK}a"}, tool_message("1"), tool_message("2")],
        {},
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\n"
        "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n",
    ),
    "reasoning before the last question is dropped": (
        [ASKED, {"role": "assistant", "content": "<think>\nr\n</think>\n\na"}, ASKED],
        {},
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nq<|im_end|>\n",
    ),
    "reasoning after it stays": (
        [ASKED, {"role": "assistant", "content": "a", "reasoning_content": "r"}, tool_message("1")],
        {},
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\nr\n</think>\n\na<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n1\n</tool_response><|im_end|>\n",
    ),
    "a wrapped tool response is no question": (
        [
            ASKED,
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
            {"role": "user", "content": "<tool_response>\n1\n</tool_response>"},
        ],
        {},
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\nr\n</think>\n\na<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n1\n</tool_response><|im_end|>\n",
    ),
}


@pytest.mark.parametrize("claim", TURNS)
def test_the_template_renders_as_qwen3(tokenizer: Any, claim: Any) -> None:
    conversation, options, expected = TURNS[claim]
    assert render(tokenizer, conversation, **options) == expected


def test_tool_schemas_are_refused(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="fenced Python blocks"):
        render(tokenizer, [ASKED], tools=[{"type": "function", "function": {"name": "f"}}])


def test_a_demonstration_is_the_token_stream_that_verl_builds_in_a_rollout(tokenizer: Any) -> None:
    builder = QwenContinuousTokenBuilder(tokenizer, chat_template_kwargs={"enable_thinking": False})
    pieces = ChatPieces(tokenizer)
    rng = random.Random(5)
    for _ in range(50):
        shown = demonstrate(rng, draw(rng, "train"), Quality(mental=0.1, failing_call=0.4), 256)
        conversation = messages(shown.question)
        ids = builder.build_initial_tokens(conversation)
        mask = [0] * len(ids)
        for i, turn in enumerate(shown.turns):
            if i:
                longer = [*conversation, tool_message(shown.observations[i - 1])]
                ids = builder.merge_context_tokens(conversation, longer, ids).token_ids
                mask += [0] * (len(ids) - len(mask))
                conversation = longer
            sampled = [*tokenizer.encode(turn, add_special_tokens=False), tokenizer.eos_token_id]
            ids = builder.merge_assistant_tokens(ids, sampled).token_ids
            mask += [1] * len(sampled)
            conversation = [*conversation, {"role": "assistant", "content": turn}]
        trajectory = tokenize(pieces, shown)
        assert (trajectory.ids, trajectory.model_mask) == (ids, mask)


def test_nearly_all_demonstrations_fit_the_lengths_of_the_tiny_runs(tokenizer: Any) -> None:
    pieces, rng = ChatPieces(tokenizer), random.Random(6)
    prompts, responses, own = [], [], []
    for _ in range(1000):
        trajectory = tokenize(pieces, demonstrate(rng, draw(rng, "train"), SPEC.quality, 256))
        prompts.append(trajectory.model_mask.index(1))
        responses.append(len(trajectory.ids) - prompts[-1])
        own.append(sum(trajectory.model_mask))
    assert max(prompts) <= 96
    assert sum(length <= 256 for length in responses) >= 990
    assert 90 <= sum(own) / len(own) <= 130
