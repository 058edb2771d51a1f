"""Inputs that once did harm, each with what they did: every one is a test from then on."""

from __future__ import annotations

__all__ = ["FOUND"]


def _bomb() -> bytes:
    """Nine references to nine references, nine times over: 400 million values in 600 bytes."""
    nine = (b"- &a%d [%s]" % (n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9))
    return b"\n".join([b"- &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]", *nine])


def _chain() -> bytes:
    """Each holds the one before it: shallow as text, deep as a value."""
    return b"\n".join([b"- &a0 [1]", *(b"- &a%d [*a%d]" % (n, n - 1) for n in range(1, 3_000))])


FOUND: tuple[tuple[str, str, bytes], ...] = (
    ("settings", "date_that_is_none", b"index: 2001-99-99"),
    ("settings", "tag_that_lies", b"index: !!timestamp x"),
    ("settings", "empty_number", b"index: !!int ''"),
    ("settings", "number_of_5000_digits", b"index: " + b"9" * 5_000),
    ("settings", "deep", b"index: " + b"[" * 100_000),
    ("settings", "holds_itself", b"index: &a [*a]"),
    ("settings", "bomb", b"index:\n" + _bomb()),
    ("settings", "chain", b"index:\n" + _chain()),
    ("contract", "template_with_an_attribute", b"template: '{text.nothing}'"),
    ("contract", "template_of_a_gigabyte", b"template: '{text:>1000000000}'"),
    # The refusal named it as it was, which no terminal can show.
    ("contract", "name_with_half_a_pair", b'{"di\\ud800": "cosine"}'),
    ("contract", "date_that_is_none", b"model: 2001-99-99"),
    ("contract", "deep", b"[" * 100_000),
    # The C reader of YAML recursed until the process died.
    ("golden", "deep", b"\0" + b"[" * 200_000),
    ("golden", "bomb", b"\0queries:\n" + _bomb()),
    ("golden", "deep_json", b'\1{"_id": "1", "text": ' + b"[" * 100_000 + b"\0"),
    # Read from TREC's file, and refused in the file that `golden convert` wrote of it.
    ("golden", "grade_of_202", b"\0021\thow late\0001 0 a 202\n"),
    ("golden", "half_a_pair", b'\1{"_id": "1", "text": "\\ud800"}\0001\ta\t1'),
)
"""Target, name, input."""
