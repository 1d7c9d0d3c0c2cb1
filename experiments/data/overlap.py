"""Training problems that a benchmark also holds, in the same or nearly the same words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Layout that changes nothing a reader sees, then words, numbers and single characters that carry meaning.
_LAYOUT = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|quad|qquad|[,;:! ])|[$~]")
# Letters of scripts without spaces between words count one by one.
_TOKEN = re.compile(r"\\?[a-z]+|\d+|[^\W\d_]|[+\-*/^=<>!%]")
_CAPITALISED = re.compile(r"\b[A-Z][a-z]+\b")
_COMMAND = re.compile(r"\\[a-z]+")
_SYNONYMS = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\le": "\\leq", "\\ge": "\\geq"}


@dataclass(frozen=True)
class Overlap:
    """Training problem `train_index` against problem `test_index`: `share` of the shorter one's n-grams are in both.

    `exact` says that their `wording` is the same.
    """

    train_index: int
    test_index: int
    share: float
    exact: bool


def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers and operators of a problem; case, spacing, punctuation and LaTeX layout do not count."""
    flat = _without_layout(text).lower()
    return tuple(_SYNONYMS.get(token, token) for token in _TOKEN.findall(flat))


def wording(text: str) -> str:
    """A problem's text without what a reader does not see: layout, spacing, a word's capital, a full stop at the end.

    Everything else counts: (0, 1) and [0, 1], x and |x|, x and X, f(2) and f'(2) are different problems.
    """
    flat = _COMMAND.sub(lambda m: _SYNONYMS.get(m[0], m[0]), _without_layout(text))
    flat = _CAPITALISED.sub(lambda m: m[0].lower(), flat)
    return re.sub(r"\s+", "", flat).rstrip(".")


def _without_layout(text: str) -> str:
    return _LAYOUT.sub(" ", unicodedata.normalize("NFKC", text))


def find_overlaps(
    train: Iterable[str], test: Sequence[str], ngram: int = 8, share: float = 0.6, boilerplate: int = 3
) -> list[Overlap]:
    """Each training problem that shares at least `share` of n-grams with a benchmark problem, by its closest one.

    The share is of the n-grams of the shorter text, so that a problem with a sentence added or left out is found.
    N-grams that stand in more than `boilerplate` benchmark problems ("where m and n are relatively prime positive
    integers find m + n") say nothing about a problem and do not count. Texts shorter than `ngram` tokens overlap
    only when all their tokens are the same.

    Linear in the training text: the n-grams of the benchmarks are indexed once.
    """
    test_tokens = [tokens(text) for text in test]
    by_text: dict[tuple[str, ...], int] = {}
    for index, words in enumerate(test_tokens):
        if words:
            by_text.setdefault(words, index)
    grams = [_ngrams(words, ngram) for words in test_tokens]
    holders: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(grams):
        for gram in found:
            holders.setdefault(gram, []).append(index)
    common = {gram for gram, where in holders.items() if len(where) > boilerplate}
    sizes = [len(found - common) for found in grams]
    telling = holders.keys() - common
    result = []
    for train_index, text in enumerate(train):
        words = tokens(text)
        if words in by_text:
            twin = by_text[words]
            result.append(Overlap(train_index, twin, 1.0, exact=wording(text) == wording(test[twin])))
            continue
        own = _ngrams(words, ngram)
        shared = Counter(index for gram in own & telling for index in holders[gram])
        if not shared:
            continue
        size = len(own - common)
        best, value = max(
            ((index, count / min(size, sizes[index])) for index, count in shared.items()), key=lambda item: item[1]
        )
        if value >= share:
            result.append(Overlap(train_index, best, value, exact=False))
    return result


def _ngrams(words: tuple[str, ...], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[i:] for i in range(n)), strict=False))
