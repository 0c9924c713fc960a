"""Work on many pieces in a few threads: results come in order, and memory stays flat however many there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from agentmesh.errors import ArgumentInvalid
from agentmesh.primitives.arguments import uint_argument

THREADS_MAX: Final = 64  # each holds a chunk or two
_T = TypeVar("_T")
_R = TypeVar("_R")


def check_working(threads: object, progress: object, resume: object) -> None:
    """Refuse what does not say how work is to go on.

    Raises:
        ArgumentInvalid: not an int from 1 to 64, neither a call nor `None`, not a bool.
    """
    uint_argument("threads", threads, THREADS_MAX, 1)
    if progress is not None and not callable(progress):
        raise ArgumentInvalid("progress", "not callable")
    if type(resume) is not bool:
        raise ArgumentInvalid("resume", "not a bool")


def in_order(threads: int, work: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Yield what `work` returns for each item, in their order; what it raises comes in the place of its item.

    Whoever takes no more closes this, or lets an error pass through: what has not begun is not begun then, and what has
    is waited for, so that no thread is left at work on what its caller closes.

    Args:
        threads: 1 works in the caller's thread; from 2 on `work` is called by so many at once.
        work: What is done with an item.
        items: Taken as they are needed, one more than there are threads ahead of what was yielded.
    """
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
