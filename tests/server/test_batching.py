"""What waits is computed together, in order, within its limits; nothing is lost and nothing is mixed up."""

import asyncio
import threading
import time

import pytest

from keras_resnet.server.batching import Batcher, QueueFull


def batcher_of(run, **options):
    return Batcher(run, **{"batch_size": 4, "window_seconds": 0.0, "queue_size": 100, **options})


def double(questions):
    return [2 * question for question in questions]


class Gate:
    """A computation that waits until it may go on, and remembers its batches."""

    def __init__(self):
        self.open, self.began, self.batches = threading.Event(), threading.Event(), []

    def run(self, questions):
        self.began.set()
        assert self.open.wait(10)
        self.batches.append(list(questions))
        return double(questions)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_every_question_gets_its_own_answer():
    async def main():
        batcher = batcher_of(double)
        futures = [batcher.submit([number, number + 1000]) for number in range(40)]
        answers = [await asyncio.gather(*pair) for pair in futures]
        await batcher.close()
        assert answers == [[2 * number, 2 * number + 2000] for number in range(40)]

    asyncio.run(main())


def test_what_waits_while_a_batch_is_computed_is_the_next_one():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate.run)
        first = batcher.submit([1])
        await until(gate.began.is_set)
        others = [batcher.submit([number])[0] for number in range(2, 8)]
        gate.open.set()
        assert await asyncio.gather(*first, *others) == [2, 4, 6, 8, 10, 12, 14]
        await batcher.close()
        assert gate.batches == [[1], [2, 3, 4, 5], [6, 7]]

    asyncio.run(main())


def test_a_window_is_waited_only_while_somebody_arrives():
    async def main():
        sizes = []
        batcher = batcher_of(double, window_seconds=5.0, observe=lambda size, seconds: sizes.append(size))
        began = time.monotonic()
        await asyncio.gather(*batcher.submit([1]))
        assert time.monotonic() - began < 2  # nobody else is there
        with batcher.arrival():
            first = batcher.submit([1])
            await asyncio.sleep(0.05)
            assert not first[0].done()  # it waits for the one that arrives
            second = batcher.submit([2])
        await asyncio.gather(*first, *second)
        assert time.monotonic() - began < 4  # nor the rest of the window, when that one is there
        with batcher.arrival():
            full = batcher.submit([1, 2, 3, 4])
            await asyncio.gather(*full)  # a full batch waits for nobody
        assert sizes == [1, 2, 4]
        await batcher.close()

    asyncio.run(main())


def test_the_window_ends_though_a_client_never_finishes():
    async def main():
        batcher = batcher_of(double, window_seconds=0.05)
        with batcher.arrival():
            assert await asyncio.wait_for(batcher.submit([3])[0], 5) == 6
        await batcher.close()

    asyncio.run(main())


def test_a_full_queue_takes_all_of_a_request_or_nothing():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate.run, queue_size=4)
        running = batcher.submit([1])
        await until(gate.began.is_set)
        waiting = batcher.submit([2, 3, 4])
        with pytest.raises(QueueFull) as refused:
            batcher.submit([5, 6])
        assert refused.value.retry_after >= 1
        assert len(batcher) == 3
        last = batcher.submit([7])
        gate.open.set()
        assert await asyncio.gather(*running, *waiting, *last) == [2, 4, 6, 8, 14]
        await batcher.close()

    asyncio.run(main())


def test_who_gives_up_is_not_computed():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate.run)
        first = batcher.submit([1])
        await until(gate.began.is_set)
        given_up, kept = batcher.submit([2, 3])
        given_up.cancel()
        gate.open.set()
        assert await kept == 6
        assert await first[0] == 2
        assert gate.batches == [[1], [3]]
        await batcher.close()

    asyncio.run(main())


def test_one_bad_question_does_not_cost_the_others_their_answers():
    def run(questions):
        if 13 in questions:
            raise ArithmeticError("13")
        return double(questions)

    async def main():
        batcher = batcher_of(run)
        futures = batcher.submit([1, 13, 2])
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert (answers[0], answers[2]) == (2, 4)
        assert isinstance(answers[1], ArithmeticError)
        assert await batcher.submit([5])[0] == 10  # and it goes on
        await batcher.close()

    asyncio.run(main())


def test_closing_answers_what_waits():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate.run, batch_size=1)
        futures = batcher.submit([1, 2, 3])
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.02)
        gate.open.set()
        await closing
        assert [future.result() for future in futures] == [2, 4, 6]

    asyncio.run(main())


def test_the_time_to_try_again_is_what_the_queue_should_take():
    async def main():
        def run(questions):
            time.sleep(0.05)
            return questions

        batcher = batcher_of(run, batch_size=1, queue_size=1000)
        await asyncio.gather(*batcher.submit(range(20)))
        batcher.submit(range(200))
        assert 5 <= batcher.retry_after() <= 60  # 200 × 0.05 s, by a moving average
        for _ in range(3):
            batcher.submit(range(200))
        assert batcher.retry_after() <= 60
        batcher._waiting.clear()
        await batcher.close()

    asyncio.run(main())
