"""Spreads splits over the subtasks of a Flink job.

Flink sends each split to the subtask that owns its key, which is the encoded element that the
split came from. Splits made of one element would all go to one subtask; those with keys of their
own would go where a hash puts them, two on one subtask and none on another. So each split is an
element, and carries a number that is chosen so that its key falls where it should. Other runners
do not care.
"""

from __future__ import annotations

__all__ = ["keyed", "salt_for", "salt_of", "subtask_of", "unkeyed"]

_SALT_BYTES = 4
_INT = 0xFFFFFFFF


def salt_for(state: bytes, split: int, splits: int, max_parallelism: int) -> int:
    """The least number with which a split's key falls into the middle of its share of key groups.

    With N splits, split i has the i-th of N equal shares. From its middle it goes to the subtask
    that any parallelism up to N would give it in an even division: no subtask has two splits more
    than another.

    Parameters
    ----------
    state
        The element without the number.
    split, splits
        Which one, of how many.
    max_parallelism
        Of the Flink job: how many key groups there are.

    Returns
    -------
    int
        0 to 2^32 - 1, what `keyed` puts in front of the state.
    """
    middle = (2 * split + 1) * max_parallelism // (2 * splits)
    # As near as every division asks for, and no nearer than a thousand tries find.
    near = max(max_parallelism // (2 * splits * splits), max_parallelism // 2048)
    tail = _java_hash(1, state)
    head = _length(len(state) + _SALT_BYTES)
    for salt in range(1_000_000):
        code = _java_hash(_java_hash(tail, salt.to_bytes(_SALT_BYTES, "big")), head)
        if abs(_murmur(code) % max_parallelism - middle) <= near:
            return salt
    raise AssertionError(f"no key of split {split} of {splits} falls near group {middle}")


def keyed(state: bytes, salt: int) -> bytes:
    """The element with its number."""
    return salt.to_bytes(_SALT_BYTES, "big") + state


def unkeyed(element: bytes) -> bytes:
    """The element without it."""
    return element[_SALT_BYTES:]


def salt_of(element: bytes) -> int:
    """The number of an element that has one."""
    return int.from_bytes(element[:_SALT_BYTES], "big")


def subtask_of(element: bytes, parallelism: int, max_parallelism: int) -> int:
    """Index of the subtask to which Flink sends an element."""
    code = _java_hash(_java_hash(1, element), _length(len(element)))
    return (_murmur(code) % max_parallelism) * parallelism // max_parallelism


def _java_hash(code: int, data: bytes) -> int:
    """Hash of a `java.nio.ByteBuffer`, which goes from the end to the start."""
    for byte in reversed(data):
        code = (31 * code + (byte - 256 if byte > 127 else byte)) & _INT
    return code


def _length(count: int) -> bytes:
    """Beam's length prefix: 7 bits a byte, the lowest first."""
    out = bytearray()
    while count > 127:
        out.append(count & 127 | 128)
        count >>= 7
    out.append(count)
    return bytes(out)


def _murmur(code: int) -> int:
    """Flink's `MathUtils.murmurHash`."""
    code = code * 0xCC9E2D51 & _INT
    code = (code << 15 | code >> 17) & _INT
    code = code * 0x1B873593 & _INT
    code = (code << 13 | code >> 19) & _INT
    code = (code * 5 + 0xE6546B64) & _INT
    code ^= 4
    code ^= code >> 16
    code = code * 0x85EBCA6B & _INT
    code ^= code >> 13
    code = code * 0xC2B2AE35 & _INT
    code ^= code >> 16
    if code < 0x80000000:
        return code
    return 0 if code == 0x80000000 else 0x100000000 - code
