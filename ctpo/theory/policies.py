"""Policies on a token tree: softmax tables and a recurrent network, with exact scores, and pairs of them.

Everything is float64. A family maps a parameter vector to the log-probabilities of every token after every prefix,
differentiably, so that the same function serves enumeration here and autograd in training code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ctpo.theory.mdp import BoolArray, FloatArray, IntArray, TokenTree

Context = Literal["prefix", "last_token"]


class PolicyFamily(Protocol):
    """A differentiable map from parameters to a policy."""

    @property
    def tree(self) -> TokenTree: ...

    @property
    def parameters(self) -> int:
        """How many parameters there are."""
        ...

    def log_probs(self, theta: Tensor) -> Tensor:
        """Log-probability in nats of every token after every prefix, `[tree.size, vocabulary]`."""
        ...


def _with_tools(tree: TokenTree, logits: Tensor) -> Tensor:
    log_probs = torch.log_softmax(logits, dim=-1)
    if not tree.tool_slots:
        return log_probs
    environment = torch.from_numpy(np.log(tree.tool_probabilities))
    return torch.where(torch.from_numpy(tree.is_tool)[:, None], environment, log_probs)


@dataclass(frozen=True)
class Tabular:
    """A softmax over a table of logits, a row per prefix or per (position, last token)."""

    tree: TokenTree
    context: Context = "last_token"

    @cached_property
    def rows(self) -> IntArray:
        """The table's row for every prefix, `[tree.size]`."""
        if self.context == "prefix":
            return np.arange(self.tree.size)
        keys = self.tree.depths * (self.tree.vocabulary + 1) + self.tree.last_tokens
        rows: IntArray = np.unique(keys, return_inverse=True)[1]
        return rows

    @property
    def parameters(self) -> int:
        return (int(self.rows.max()) + 1) * self.tree.vocabulary

    def log_probs(self, theta: Tensor) -> Tensor:
        table = theta.reshape(-1, self.tree.vocabulary)
        return _with_tools(self.tree, table[torch.from_numpy(self.rows)])


@dataclass(frozen=True)
class Recurrent:
    """An Elman network that reads the prefix token by token: parameters are shared over all positions."""

    tree: TokenTree
    width: int = 3

    @property
    def parameters(self) -> int:
        return self.width * (1 + self.width + 2 * self.tree.vocabulary)

    def log_probs(self, theta: Tensor) -> Tensor:
        tree, width = self.tree, self.width
        start, recurrent, inputs, outputs = theta.split([width, width**2, *[width * tree.vocabulary] * 2])
        level = torch.tanh(start).reshape(1, width)
        levels = [level]
        for _ in range(tree.horizon - 1):
            moved = level @ recurrent.reshape(width, width)
            level = torch.tanh(moved[:, None, :] + inputs.reshape(1, tree.vocabulary, width)).reshape(-1, width)
            levels.append(level)
        return _with_tools(tree, torch.cat(levels) @ outputs.reshape(width, tree.vocabulary))


def log_table(family: PolicyFamily, theta: FloatArray) -> FloatArray:
    """`family.log_probs` as an array, `[tree.size, vocabulary]`."""
    return family.log_probs(torch.from_numpy(theta)).numpy()


def scores(family: PolicyFamily, theta: FloatArray) -> FloatArray:
    """`grad log pi(a|s)` of every token after every prefix, `[tree.size, vocabulary, parameters]`."""
    jacobian: Callable[[Tensor], Tensor] = torch.func.jacfwd(family.log_probs)
    return jacobian(torch.from_numpy(theta)).numpy()


def true_policy_gradient(family: PolicyFamily, theta: FloatArray, rewards: FloatArray) -> FloatArray:
    """Gradient of the expected reward `sum pi(response) R(response)` over all responses, `[parameters]`.

    By autograd through the probability of each response: no policy-gradient theorem is used.
    """
    responses = family.tree.responses
    parameters = torch.from_numpy(theta).requires_grad_()
    log_probs = family.log_probs(parameters)[torch.from_numpy(responses.prefixes), torch.from_numpy(responses.tokens)]
    probabilities = torch.where(torch.from_numpy(responses.present), log_probs, 0.0).sum(dim=1).exp()
    (gradient,) = torch.autograd.grad((probabilities * torch.from_numpy(rewards)).sum(), parameters)
    return gradient.numpy()


@dataclass(frozen=True)
class PolicyPair:
    """The policy that sampled and the policy that is trained, on one tree.

    Attributes:
        tree: of both.
        old_table, new_table: log-probabilities `[tree.size, vocabulary]`, nats.
        score_table: `grad log pi` of the trained policy, `[tree.size, vocabulary, parameters]`.
    """

    tree: TokenTree
    old_table: FloatArray
    new_table: FloatArray
    score_table: FloatArray

    @classmethod
    def of(cls, family: PolicyFamily, old: FloatArray, new: FloatArray) -> PolicyPair:
        """Two parameter vectors of one family."""
        return cls(family.tree, log_table(family, old), log_table(family, new), scores(family, new))

    @property
    def mask(self) -> BoolArray:
        return self.tree.responses.mask

    @property
    def parameters(self) -> int:
        return self.score_table.shape[-1]

    @cached_property
    def old_log_probs(self) -> FloatArray:
        """Of every response's tokens under the policy that sampled; 0 behind the end, `[responses, horizon]`."""
        return np.where(self.tree.responses.present, self.tree.along(self.old_table), 0.0)

    @cached_property
    def new_log_probs(self) -> FloatArray:
        return np.where(self.tree.responses.present, self.tree.along(self.new_table), 0.0)

    @cached_property
    def old_probabilities(self) -> FloatArray:
        """Of every response, `[responses]`."""
        return np.exp(self.old_log_probs.sum(axis=1))

    @cached_property
    def new_probabilities(self) -> FloatArray:
        return np.exp(self.new_log_probs.sum(axis=1))

    @cached_property
    def sequence_kl(self) -> float:
        """KL(old || new) of whole responses, nats."""
        return float(self.old_probabilities @ (self.old_log_probs - self.new_log_probs).sum(axis=1))

    def score_chunks(self, numbers: int = 4_000_000) -> Iterator[tuple[slice, FloatArray]]:
        """The scores along responses, a slice of responses at a time: `[horizon, slice, parameters]`, 0 if masked.

        At most about `numbers` values are held at once.
        """
        responses = self.tree.responses
        step = max(1, numbers // (self.tree.horizon * self.parameters))
        for start in range(0, len(responses), step):
            rows = slice(start, start + step)
            chunk = self.score_table[responses.prefixes[rows].T, responses.tokens[rows].T]
            chunk[~responses.mask[rows].T] = 0.0
            yield rows, chunk
