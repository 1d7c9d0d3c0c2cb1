"""The hot path of the position statistics: tokens moved from their columns to their positions, then summed.

Tool output sits between a response's model tokens, so column and position differ from row to row. Each row is
first scattered to its positions, into a buffer that collects some 130,000 slots (several small micro-batches,
or a part of a large one). On a full buffer a clip window is a fixed vector, every sum is dense, and eight
clip flags are added as the bytes of one integer. Buffers are reused, and nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctpo import position_moments as pm
from ctpo.position_moments import Layout, Moments
from ctpo.surrogates.terms import clip_candidates

_SLOTS = 131_072
_MAX_ROWS = 255  # flags are counted in bytes
# Adding and subtracting 1.5 * 2**52 units rounds a float64 to the nearest multiple of the unit.
_ROUNDING = [
    (1.5 * 2.0**52 * unit, 1.5 * 2.0**52 * square_unit)
    for unit, square_unit in zip(pm.VALUE_UNITS, pm.COARSE_SQUARE_UNITS, strict=True)
]
_CODED = (pm.TOKENS, pm.OWN_HIGH, pm.OWN_LOW, pm.OWN_DUAL)  # bits 0 to 3 of a slot's code


@dataclass(frozen=True)
class Tokens:
    """The tokens of some responses, `[rows, response_length]`; where `mask` is False anything may stand.

    `log_ratio` is the cumulative one; `own` holds what the run's method clipped (high, low, by its dual
    clip).
    """

    log_ratio: Tensor
    token_log_ratio: Tensor | None
    advantages: Tensor
    mask: Tensor
    positions: Tensor
    own: tuple[Tensor | None, Tensor | None, Tensor | None]
    folds: Tensor | None

    def rows(self, start: int, stop: int) -> Tokens:
        """Some of the responses."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[start:stop]

        return Tokens(
            self.log_ratio[start:stop],
            cut(self.token_log_ratio),
            self.advantages[start:stop],
            self.mask[start:stop],
            self.positions[start:stop],
            (cut(self.own[0]), cut(self.own[1]), cut(self.own[2])),
            cut(self.folds),
        )


@dataclass(frozen=True)
class Sums:
    """What a buffer held, by row and over its first `bins` position bins."""

    bins: int
    sums: Tensor
    """As in `Moments`: float64 `[6, rows, bins]`."""
    counts: Tensor
    """As in `Moments`: int64 `[features, rows, bins]`."""
    buckets: Tensor
    """int64 `[2, rows * bins * bin_width]`: each slot's place, for S and d, in a flattened `[bins, 152]`
    histogram. A view of the buffer: good until the next `take`."""
    folds: Tensor | None


class Staging:
    """A buffer of responses at their positions.

    Buffers have eight columns before position 1, of which the last takes whatever is not counted; so the
    positions start on an eight-byte boundary.
    """

    def __init__(self, layout: Layout, device: torch.device | str):
        self.layout = layout
        self.capacity = min(_MAX_ROWS, max(1, _SLOTS // layout.width))
        self.rows = 0
        self._bins = 0
        self._folds: list[Tensor] = []
        shape = (self.capacity, pm.BYTES + layout.width)
        self._values = torch.zeros(2, *shape, device=device)
        self._candidates = torch.zeros(shape, device=device)
        self._codes = torch.zeros(shape, dtype=torch.uint8, device=device)
        dense = (self.capacity, layout.width)
        self._flags = torch.zeros(layout.features, *dense, dtype=torch.uint8, device=device)
        self._coded = {pm.TOKENS}  # whose flags ever occurred; the others' stay 0
        self._packed = torch.zeros(layout.features, layout.width // pm.BYTES, dtype=torch.int64, device=device)
        self._packed_rows = 0
        self._comparison = torch.empty(dense, device=device)
        self._exact = torch.empty(dense, dtype=torch.float64, device=device)
        self._squares = torch.empty(dense, dtype=torch.float64, device=device)
        self._buckets = torch.empty(2, *dense, dtype=torch.int32, device=device)
        self._wide_buckets = torch.empty(2 * self.capacity * layout.width, dtype=torch.int64, device=device)

        positions = torch.arange(1, layout.width + 1, device=device)
        self._bounds = [window.log_bounds(positions) for window in layout.windows]
        first_bucket = (positions - 1) // layout.bin_width * (2 * pm.BUCKETS)
        self._bucket_of_zero = (first_bucket + pm.BUCKETS).to(torch.int32)

    @property
    def free(self) -> int:
        """Rows that still fit."""
        return self.capacity - self.rows

    def add(self, tokens: Tokens) -> Tensor | None:
        """Place responses (at most `free`). Returns the number of tokens beyond the last position, None for
        none."""
        layout, overflow = self.layout, None
        rows = slice(self.rows, self.rows + len(tokens.mask))
        slots = torch.where(tokens.mask, tokens.positions, 0)
        length = slots.shape[1]
        if length > layout.max_position:
            beyond = slots > layout.max_position
            overflow = beyond.sum()
            slots.masked_fill_(beyond, 0)

        def place(buffer: Tensor, source: Tensor) -> None:
            buffer[rows, pm.BYTES - 1 :].scatter_(1, slots, source.to(buffer.dtype))

        place(self._codes, _code(tokens))
        self._coded |= {feature for feature, flags in zip(_CODED[1:], tokens.own, strict=True) if flags is not None}
        place(self._values[0], tokens.log_ratio)
        place(self._candidates, clip_candidates(tokens.log_ratio, tokens.advantages))
        if tokens.token_log_ratio is not None:
            place(self._values[1], tokens.token_log_ratio)
        else:
            self._difference(rows)
        if tokens.folds is not None:
            self._folds.append(tokens.folds)
        self.rows = rows.stop
        self._bins = max(self._bins, -(-min(length, layout.max_position) // layout.bin_width))
        return overflow

    def _difference(self, rows: slice) -> None:
        log_ratio = self._values[0, rows, pm.BYTES :]
        token = self._values[1, rows, pm.BYTES :]
        token.copy_(log_ratio)
        token[:, 1:] -= log_ratio[:, :-1]
        # Minus zero, which a product with 0 can be, would be counted as a negative number.
        token.mul_(self._codes[rows, pm.BYTES :] & 1).add_(0.0)

    def take(self, positions: Moments | None) -> Sums:
        """Sum what has been placed, and empty the buffer. `rows` must not be 0.

        Sums over rows are added to `positions` if given: real ones at once, counts by `settle_counts`.
        """
        bins = self._bins
        region = (slice(0, self.rows), slice(pm.BYTES, pm.BYTES + bins * self.layout.bin_width))
        values = self._values[(slice(None), *region)]
        sums = self._sum_values(values, bins, positions)
        counts = self._sum_flags(self._clip_flags(region), bins, positions)
        buckets = self._bucket_numbers(values)
        folds = torch.cat(self._folds) if self._folds else None
        for buffer in (self._values, self._candidates, self._codes):
            buffer.zero_()
        self.rows, self._bins, self._folds = 0, 0, []
        return Sums(bins, sums, counts, buckets, folds)

    def _sum_values(self, values: Tensor, bins: int, positions: Moments | None) -> Tensor:
        """Sums by row and bin, float64 `[6, rows, bins]`; those by position are added to `positions`."""
        _, rows, used = values.shape
        by_row = self._exact.new_empty(6, rows, bins)
        ones = self._exact.new_ones(rows)
        kept = min(used, self.layout.max_position)
        exact, squares = self._exact[:rows, :used], self._squares[:rows, :used]

        def add_up(addends: Tensor, row: int, sign: int = 1) -> None:
            torch.sum(addends.unflatten(1, (bins, -1)), -1, out=by_row[row])
            if positions is not None:
                # A product with ones adds in one pass; exact like any order of adding.
                positions.sums[row, :kept].addmv_(addends[:, :kept].t(), ones, alpha=sign)

        for plane, (unit, square_unit) in enumerate(_ROUNDING):
            exact.copy_(values[plane]).add_(unit).sub_(unit)
            add_up(exact, pm.S_SUM + plane)
            # The square of a rounded value is exact, so one rounding splits it without loss.
            torch.mul(exact, exact, out=squares).add_(square_unit).sub_(square_unit)
            add_up(squares, pm.S_SQUARE + plane)
            add_up(squares.addcmul_(exact, exact, value=-1.0), pm.S_SQUARE_FINE + plane, sign=-1)
        by_row[pm.S_SQUARE_FINE :].neg_()
        return by_row

    def _sum_flags(self, flags: Tensor, bins: int, positions: Moments | None) -> Tensor:
        """Sums by row and bin, eight flags per addition: int64 `[features, rows, bins]`."""
        words = flags.view(torch.int64)
        if positions is not None:
            if self._packed_rows + self.rows > _MAX_ROWS:
                self.settle_counts(positions)
            self._packed[:, : words.shape[2]] += words.sum(1)
            self._packed_rows += self.rows
        lanes = words.unflatten(2, (bins, -1)).sum(-1).view(torch.uint8)
        return lanes.unflatten(2, (bins, pm.BYTES)).sum(-1)

    def settle_counts(self, positions: Moments) -> None:
        """Add the counts by position that are still packed in bytes to `positions`."""
        if self._packed_rows:
            positions.counts.add_(self._packed.view(torch.uint8)[:, : self.layout.max_position])
            self._packed.zero_()
            self._packed_rows = 0

    def _clip_flags(self, region: tuple[slice, slice]) -> Tensor:
        """Flags in the order of `Moments.counts`, one byte each: uint8 `[features, rows, used]`."""
        codes, candidates = self._codes[region], self._candidates[region]
        rows, used = codes.shape
        flags, comparison = self._flags[:, :rows, :used], self._comparison[:rows, :used]
        for bit, feature in enumerate(_CODED):
            if feature in self._coded:
                torch.bitwise_right_shift(codes, bit, out=flags[feature]).bitwise_and_(1)
        for i, (low, high) in enumerate(self._bounds):
            feature = pm.FIRST_WINDOW + 2 * i
            # By way of floats: see `exceeds`.
            for k, (left, right) in enumerate(((candidates, high[:used]), (low[:used], candidates))):
                flags[feature + k].view(torch.bool).copy_(torch.gt(left, right, out=comparison))
        return flags

    def _bucket_numbers(self, values: Tensor) -> Tensor:
        # The bits of a positive float32 grow with it: shifted, they number the buckets. The complement of
        # that number is its mirror image below zero.
        _, rows, used = values.shape
        bits = values.view(torch.int32)
        bucket = torch.bitwise_and(bits, 0x7FFFFFFF, out=self._buckets[:, :rows, :used])
        bucket.bitwise_right_shift_(23 - pm.MANTISSA_BITS)
        bucket.sub_((127 + pm.SMALLEST_EXPONENT) << pm.MANTISSA_BITS).clamp_(0, pm.BUCKETS - 1)
        bucket.bitwise_xor_(bits >> 31).add_(self._bucket_of_zero[:used])
        return self._wide_buckets[: bucket.numel()].view(bucket.shape).copy_(bucket).view(2, -1)


def _code(tokens: Tokens) -> Tensor:
    """One byte per token whose bits are its flags in the order of `_CODED`."""
    code = tokens.mask.to(torch.uint8)
    for bit, clipped in enumerate(tokens.own, start=1):
        if clipped is not None:
            code = torch.add(code, clipped.bool().view(torch.uint8), alpha=1 << bit)
    return code
