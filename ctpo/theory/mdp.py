"""Token-level decision processes small enough to enumerate: every response, its probability, its mask.

A state is the prefix of tokens so far, as in a language model, so a response is a path from the root of a tree.
Prefixes are numbered level by level: the root is 0 and token `a` after prefix `n` leads to `n * V + 1 + a`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MAX_RESPONSES = 5**8
"""Largest number of responses that is enumerated: vocabulary 5, horizon 8."""


@dataclass(frozen=True)
class Responses:
    """Every response of a tree, once; all arrays `[responses, horizon]`."""

    tokens: IntArray
    prefixes: IntArray
    """Number of the prefix before each token."""
    present: BoolArray
    """False behind the end token."""
    mask: BoolArray
    """True where the policy chose the token: present and no tool output."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> IntArray:
        """1-based, counting the policy's tokens only, as in training."""
        return np.cumsum(self.mask, axis=1)


@dataclass(frozen=True)
class TokenTree:
    """All responses of at most `horizon` tokens over `vocabulary` tokens.

    Attributes:
        vocabulary: number of tokens, at least 2.
        horizon: length at which every response ends.
        end_token: the token after which a response ends earlier; None if there is none.
        tool_slots: 0-based slots filled by the environment (tool output): the token there is drawn from a fixed
            distribution that depends on the prefix, is no choice of the policy and is masked.

    Raises:
        ValueError: a value out of range, or more than `MAX_RESPONSES` responses.
    """

    vocabulary: int
    horizon: int
    end_token: int | None = None
    tool_slots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or self.horizon < 1:
            raise ValueError(
                f"tree: vocabulary={self.vocabulary} must be at least 2, horizon={self.horizon} at least 1"
            )
        if self.vocabulary**self.horizon > MAX_RESPONSES:
            raise ValueError(
                f"tree: {self.vocabulary}**{self.horizon} responses are too many to enumerate (at most {MAX_RESPONSES})"
            )
        if self.end_token is not None and not 0 <= self.end_token < self.vocabulary:
            raise ValueError(f"tree: end_token={self.end_token} must be None or below vocabulary={self.vocabulary}")
        if any(not 0 <= slot < self.horizon for slot in self.tool_slots):
            raise ValueError(f"tree: tool_slots={self.tool_slots} must lie in 0..{self.horizon - 1}")

    @property
    def size(self) -> int:
        """Number of prefixes that a token can follow."""
        return (self.vocabulary**self.horizon - 1) // (self.vocabulary - 1)

    @cached_property
    def depths(self) -> IntArray:
        """Length of every prefix, `[size]`."""
        return np.repeat(np.arange(self.horizon), self.vocabulary ** np.arange(self.horizon))

    @cached_property
    def last_tokens(self) -> IntArray:
        """Last token of every prefix, `[size]`; `vocabulary` for the root."""
        last = (np.arange(self.size) - 1) % self.vocabulary
        last[0] = self.vocabulary
        return last

    @cached_property
    def is_tool(self) -> BoolArray:
        """Whether the environment chooses after a prefix, `[size]`."""
        return np.isin(self.depths, self.tool_slots)

    @cached_property
    def tool_probabilities(self) -> FloatArray:
        """The environment's distribution after each prefix, `[size, vocabulary]`: arbitrary, but always the same."""
        weights = np.random.default_rng(0).gamma(2.0, size=(self.size, self.vocabulary))
        return weights / weights.sum(axis=1, keepdims=True)

    @cached_property
    def responses(self) -> Responses:
        """Every response once, in lexicographic order."""
        tokens = np.array(list(product(range(self.vocabulary), repeat=self.horizon)), dtype=np.int64)
        tool_slot = np.isin(np.arange(self.horizon), self.tool_slots)
        ends = (tokens == self.end_token) & ~tool_slot if self.end_token is not None else np.zeros_like(tokens, bool)
        present = np.cumsum(ends, axis=1) - ends == 0
        # Behind the end token there is nothing: of the rows that differ only there, one stays.
        kept = np.all(present | (tokens == 0), axis=1)
        tokens, present = tokens[kept], present[kept]
        prefixes = np.zeros_like(tokens)
        for slot in range(1, self.horizon):
            prefixes[:, slot] = prefixes[:, slot - 1] * self.vocabulary + 1 + tokens[:, slot - 1]
        return Responses(tokens, prefixes, present, present & ~tool_slot)

    def along(self, table: NDArray) -> NDArray:
        """Values of a `[size, vocabulary]` table at the tokens of every response, `[responses, horizon]`."""
        return table[self.responses.prefixes, self.responses.tokens]


def verifiable_reward(tree: TokenTree, generator: np.random.Generator, share: float = 0.4) -> FloatArray:
    """A 0/1 outcome of every response, `[responses]`: right if a random score of its token pairs is high.

    About `share` of all responses are right. The score adds up over tokens, so that single tokens matter, and the
    threshold makes how much they matter depend on all the others.
    """
    pairs = generator.normal(size=(tree.horizon, tree.vocabulary + 1, tree.vocabulary))
    scores = pairs[tree.depths, tree.last_tokens]
    totals = np.where(tree.responses.present, tree.along(scores), 0.0).sum(axis=1)
    return (totals > np.quantile(totals, 1 - share)).astype(np.float64)
