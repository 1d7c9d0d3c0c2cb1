"""A byte-level BPE tokenizer trained on the generated text, with Qwen3's control tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments.tiny.chat_template import CHAT_TEMPLATE
from experiments.tiny.demonstrations import demonstrate
from experiments.tiny.problems import draw, messages
from experiments.tiny.spec import Quality

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# As in Qwen3, these are single tokens but no special ones: decoding keeps them.
MARKERS = ("<think>", "</think>", "<tool_response>", "</tool_response>")
MIN_VOCAB = 3 + len(MARKERS) + 256
_CORPUS_SIZE = 4000
# Digits one by one, so operands are single tokens; punctuation takes the end of its line along.
_SPLIT = r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+\n*|\n+|\s"


def build_tokenizer(vocab_size: int, seed: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of exactly `vocab_size` entries, so that `len(tokenizer)` is the model's vocabulary.

    The text is demonstrations of the train split and the chat template's own words.

    Raises ValueError when `vocab_size` cannot hold bytes and control tokens or exceeds what the text yields.
    """
    if vocab_size < MIN_VOCAB:
        raise ValueError(f"model_spec.vocab_size={vocab_size}: bytes and control tokens alone need {MIN_VOCAB}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKERS),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(seed), trainer)
    bpe.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    if len(tokenizer) != vocab_size:
        raise ValueError(f"model_spec.vocab_size={vocab_size}: the text yields only {len(tokenizer)}; use that")
    return tokenizer


class ChatPieces:
    """The tokens that the chat template puts around the model's own, as a rollout sees them.

    Sampled tokens are never tokenised again: a rollout is the prompt, then per turn the sampled ids with
    their `<|im_end|>`, then per observation the template's rendering of a tool message and of the next
    generation prompt. Derived by rendering the template around place holders, so the two cannot drift apart.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        self.end_id: int = tokenizer.convert_tokens_to_ids(END)
        hole = "QUESTION"

        def render(conversation: list[dict[str, str]], **options: Any) -> str:
            return str(tokenizer.apply_chat_template(conversation, tokenize=False, **options))

        asked = messages(hole)
        prompt = render(asked, add_generation_prompt=True, enable_thinking=False)
        self._before_question, self._after_question = prompt.split(hole)

        # The assistant turn is no last one here, so the template renders it without any think block.
        answered = [*asked, {"role": "assistant", "content": "ANSWER"}, {"role": "tool", "content": "OUTPUT"}]
        whole = render(answered, add_generation_prompt=True, enable_thinking=False)
        after_answer = whole.split(f"ANSWER{END}")[1]
        self._before_output, self._after_output = after_answer.split("OUTPUT")

    def prompt(self, question: str) -> list[int]:
        return list(self._encode(self._before_question + question + self._after_question))

    def turn(self, text: str) -> list[int]:
        return [*self._encode(text), self.end_id]

    def observation(self, text: str) -> list[int]:
        return list(self._encode(self._before_output + text + self._after_output))


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(_CORPUS_SIZE):
        demonstration = demonstrate(rng, draw(rng, "train"), Quality(), tool_output_chars=256)
        words = f"system\n{SYSTEM_PROMPTS['short']}", f"user\n{demonstration.question}", "assistant\n"
        yield "\n".join([*words, *demonstration.turns, *demonstration.observations])
