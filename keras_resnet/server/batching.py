"""Requests that arrive together are computed together.

Everything but the computation runs in the event loop, so that nothing needs a lock. While a batch is computed the next
one gathers by itself; the window is waited only while a request is being received that could still join, so that a
lonely client never waits for company.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LONGEST_RETRY = 60  # seconds


class QueueFull(Exception):
    """More waits than the queue holds.

    Attributes:
        retry_after: Whole seconds after which there should be room.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"The queue is full. Try again in {retry_after} s.")
        self.retry_after = retry_after


class Batcher:
    """Gathers questions and answers them in batches, in the order in which they came.

    Must be made in a running event loop.

    Args:
        run: Answers up to `batch_size` questions together, an answer for each; called in a thread of its own.
        batch_size: Questions of a batch at most.
        window_seconds: How long a batch with room in it waits for requests that are being received.
        queue_size: How many questions may wait.
        observe: Takes the size and the seconds of each batch.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        batch_size: int,
        window_seconds: float,
        queue_size: int,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        self._run, self._observe = run, observe
        self._batch_size, self._window, self._queue_size = batch_size, window_seconds, queue_size
        self._waiting: deque[tuple[Any, asyncio.Future, float]] = deque()
        self._news = asyncio.Event()
        self._arriving, self._is_closing, self._seconds_each = 0, False, 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._task = asyncio.create_task(self._work())

    def __len__(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def arrival(self) -> Iterator[None]:
        """Says that a request is being received, for as long as the window of a batch that it could join."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            self._news.set()

    def submit(self, questions: Sequence[Any]) -> list[asyncio.Future]:
        """Puts questions into the queue, all of them or none.

        Args:
            questions: What `run` takes.

        Returns:
            A future of each answer. One that is cancelled is not computed any more.

        Raises:
            QueueFull: They do not fit.
        """
        if len(self._waiting) + len(questions) > self._queue_size:
            raise QueueFull(self.retry_after())
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in questions]
        self._waiting.extend(
            (question, future, loop.time()) for question, future in zip(questions, futures, strict=True)
        )
        self._news.set()
        return futures

    def retry_after(self) -> int:
        """Returns the whole seconds, at least 1, that what waits should take."""
        return min(LONGEST_RETRY, max(1, math.ceil(len(self._waiting) * self._seconds_each)))

    async def close(self) -> None:
        """Answers what waits, then ends."""
        self._is_closing = True
        self._news.set()
        await self._task
        self._thread.shutdown()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self._is_closing:
                    return
                self._news.clear()
                await self._news.wait()
            await self._gather()
            batch = self._take()
            if batch:
                await self._answer(batch)

    async def _gather(self) -> None:
        """Waits until the batch is full, nobody is arriving, or the window of its first question is over."""
        loop = asyncio.get_running_loop()
        until = self._waiting[0][2] + self._window
        while len(self._waiting) < self._batch_size and self._arriving and not self._is_closing:
            self._news.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return
            if loop.time() >= until:
                return

    def _take(self) -> list[tuple[Any, asyncio.Future]]:
        batch: list[tuple[Any, asyncio.Future]] = []
        while self._waiting and len(batch) < self._batch_size:
            question, future, _ = self._waiting.popleft()
            if not future.done():  # its client may have given up
                batch.append((question, future))
        return batch

    async def _answer(self, batch: list[tuple[Any, asyncio.Future]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            answers = await loop.run_in_executor(self._thread, self._run, [question for question, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                # One of them may be the cause; the others have a right to their answers.
                for alone in batch:
                    await self._answer([alone])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        seconds = loop.time() - began
        self._seconds_each = 0.8 * self._seconds_each + 0.2 * seconds / len(batch)
        self._observe(len(batch), seconds)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
