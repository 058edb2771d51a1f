"""Going on when a batch is too large for the memory, and finding the text a model fails on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog

from pipelines.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["forward_rows", "is_out_of_memory"]

_log = structlog.get_logger()

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a memory object",  # oneDNN's words for it
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator, MPS and oneDNN raise plain RuntimeErrors.
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _OUT_OF_MEMORY
    )


def forward_rows(
    rows: list[int],
    forward: Callable[[list[int]], Tensor],
    failed: dict[int, str],
    on_out_of_memory: Callable[[int], None],
) -> Iterator[tuple[list[int], Tensor]]:
    """Runs a batch, in halves where it does not fit or where a text makes the model fail.

    Parameters
    ----------
    rows
        The batch.
    forward
        Vectors of some rows, shape (len(rows), dimension of the model).
    failed
        Filled with the rows the model fails on alone, and the reason; they are not in the result.
    on_out_of_memory
        Told how many rows did not fit.

    Raises
    ------
    ModelError
        One row alone does not fit into memory.
    """
    try:
        vectors = forward(rows)
    except Exception as error:
        if isinstance(error, ModelError):
            raise
        fits = not is_out_of_memory(error)
        if len(rows) == 1:
            if not fits:
                raise ModelError(
                    "one text alone does not fit into memory: use a smaller contract.max_tokens, "
                    f"another runtime.device or a smaller model ({type(error).__name__})"
                ) from error
            # Only the kind: a message of a library could quote the text.
            failed[rows[0]] = f"the model fails on this text: {type(error).__name__}"
            return
    else:
        yield rows, vectors
        return
    # Outside the handler, which would keep the failed batch's tensors alive.
    if not fits:
        on_out_of_memory(len(rows))
        _log.warning("encoder_out_of_memory", rows=len(rows), next_rows=(len(rows) + 1) // 2)
        _release()
    middle = (len(rows) + 1) // 2
    yield from forward_rows(rows[:middle], forward, failed, on_out_of_memory)
    yield from forward_rows(rows[middle:], forward, failed, on_out_of_memory)


def _release() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
