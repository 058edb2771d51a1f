"""Batches of rows of like length under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["batches"]


def batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Rows sorted by length, longest first, in batches.

    Longest first, so that memory runs out in the first batch or never. Each row comes exactly
    once; rows of equal length keep their order, so equal input gives equal batches.

    Parameters
    ----------
    lengths
        Tokens of each row.
    tokens_per_batch
        Rows times longest row of a batch, at most; a row longer than that is a batch of its own.

    Examples
    --------
    >>> list(batches([3, 9, 4, 4], 12))
    [[1], [2, 3, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        end = start + max(1, tokens_per_batch // longest)
        yield order[start:end]
        start = end
