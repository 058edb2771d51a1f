"""How alike two rankings are."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["overlap_at", "rank_biased_overlap"]


def rank_biased_overlap(
    first: Sequence[str], second: Sequence[str], persistence: float = 0.9
) -> float:
    r"""Extrapolated rank-biased overlap of two rankings without ties.

    The expected agreement for a reader who goes on to the next rank with probability
    `persistence`, the agreement of the common depth carried on below it. Equation 32 of Webber,
    Moffat and Zobel 2010, "A similarity measure for indefinite rankings":
    with `X(d)` the number of ids in both up to depth d, s and l the shorter and the longer length,

    .. math:: RBO = \frac{1-p}{p} \left( \sum_{d=1}^{l} \frac{X(d)}{d} p^d +
        \sum_{d=s+1}^{l} \frac{X(s) (d - s)}{s d} p^d \right) +
        \left( \frac{X(l) - X(s)}{l} + \frac{X(s)}{s} \right) p^l

    Parameters
    ----------
    first, second
        Ids, best first, each id once.
    persistence
        Above 0, below 1. At .9 the first ten ranks carry 86 % of the weight.

    Returns
    -------
    0 to 1. Two empty rankings agree (1); an empty one and another do not (0).

    Examples
    --------
    >>> rank_biased_overlap(["a", "b", "c"], ["a", "b", "c"])
    1.0
    >>> round(rank_biased_overlap(["a", "b", "c"], ["b", "a", "c"]), 3)
    0.9
    """
    shorter, longer = sorted((list(first), list(second)), key=len)
    s, length = len(shorter), len(longer)
    if not s:
        return float(not length)
    p = persistence
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common = common_at_s = 0
    total = 0.0
    for depth in range(1, length + 1):
        new_long = longer[depth - 1]
        seen_long.add(new_long)
        if depth <= s:
            new_short = shorter[depth - 1]
            seen_short.add(new_short)
            common += new_short in seen_long
            common += new_long in seen_short and new_long != new_short
            common_at_s = common
        else:
            common += new_long in seen_short
            total += common_at_s * (depth - s) / (s * depth) * p**depth
        total += common / depth * p**depth
    tail = (common - common_at_s) / length + common_at_s / s
    # Rounded where sums of powers fall a hair beside 1.
    return min(1.0, round((1 - p) / p * total + tail * p**length, 12))


def overlap_at(first: Sequence[str], second: Sequence[str], k: int) -> float:
    """Share of ids that the first k of both have in common, of the longer of the two.

    1 where both are empty.
    """
    a, b = set(first[:k]), set(second[:k])
    size = max(len(a), len(b))
    return len(a & b) / size if size else 1.0
