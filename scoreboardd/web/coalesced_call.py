"""Work that many ask for at once, done once for all of them.

Unlike the usual single flight, nobody is given the result of work that had begun before they asked: it might have begun
too early to contain what they ask for. Who asks while a run is under way waits for the next, with all others who do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CoalescedCall(Generic[T]):
    """However many call at once, `work` runs twice at most: one run at a time, and one that the others wait for.

    A run is done in the task of one of those who share it, so that there is never work without a caller. If that caller
    is cancelled, the run is too, and the next of them begins it anew. A failure is raised in all who share the run.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._next: asyncio.Future[T] | None = None
        "The result of the run that has not begun."

    async def __call__(self) -> T:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        result = self._next
        async with self._turn:
            if not result.done():
                if self._next is result:
                    self._next = None  # later callers get the next run
                try:
                    result.set_result(await self._work())
                except Exception as error:  # noqa: BLE001  raised below, in everyone's task
                    result.set_exception(error)
        return result.result()
