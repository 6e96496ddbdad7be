"""Does slow work a little before its result is needed. Knows nothing of what the work is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Generator[Result, None, None]:
    """Do work on each item, in order, on a thread that stays at most `count` results ahead of the caller.

    An exception of the work comes out in its item's place. Closing the generator waits for the item in hand, forgets
    the others and leaves no thread.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="medvl-ahead") as thread:
        try:
            for item in items:
                waiting.append(thread.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
