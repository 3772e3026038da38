"""A request from its head to its answer: limits, deadline, the queue, the network, the answer."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from keras_resnet.data.images import resize_with_pillow
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.explanation.overlay import drawable
from keras_resnet.server.backends import TOP_CLASS, Answer, Backend, Question
from keras_resnet.server.batching import QueueFull
from keras_resnet.server.bodies import JSON, Refused, accepted, image_file, json_response, read_body
from keras_resnet.server.metrics import Metrics
from keras_resnet.server.pictures import LARGEST_PICTURE, decode_image, lay_over
from keras_resnet.server.repository import NotServed, Repository, Servable
from keras_resnet.server.settings import ServerSettings
from keras_resnet.server.signatures import no_heatmap, read_predict, write_predict

PNG = "image/png"
MOST_LABELS = 1000
_FEW_NUMBERS = 4096  # of an answer that is written at once: handing it to a thread would take longer
log = logging.getLogger(__name__)

# Reads a request for a servable; returns its questions, and what makes the response of their answers.
Handler = Callable[[Request, Servable], Awaitable[tuple[list[Question], Callable[[list[Answer]], Awaitable[Response]]]]]


class Service:
    """Answers requests.

    Args:
        repository: The models.
        settings: The limits.
        metrics: Counts.

    Attributes:
        is_stopping: Whether the server has been told to stop; what it has accepted is answered.
    """

    def __init__(self, repository: Repository, settings: ServerSettings, metrics: Metrics):
        self.repository, self.settings, self.metrics = repository, settings, metrics
        self.is_stopping, self.in_progress = False, 0
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="image")
        metrics.watch(repository, lambda: self.in_progress)

    def close(self) -> None:
        """Ends the threads that read images."""
        self._pool.shutdown(cancel_futures=True)

    async def predict(self, request: Request, name: str, version: int | None) -> Response:
        """Answers `:predict`, TensorFlow Serving's request."""
        return await self._answer("predict", self._read_predict, request, name, version)

    async def classify(self, request: Request, name: str, version: int | None) -> Response:
        """Answers `:classify`: labels with probabilities for an image file."""
        return await self._answer("classify", self._read_classify, request, name, version)

    async def explain(self, request: Request, name: str, version: int | None) -> Response:
        """Answers `:explain`: the heat map of a class, as numbers or laid over the image."""
        return await self._answer("explain", self._read_explain, request, name, version)

    async def _answer(self, verb: str, read: Handler, request: Request, name: str, version: int | None) -> Response:
        began = asyncio.get_running_loop().time()
        try:
            response = await self._answer_in_time(read, request, name, version)
        except Refused as refusal:
            response = refusal.response()
        except QueueFull as full:
            response = Refused(503, str(full), {"Retry-After": str(full.retry_after)}).response()
        except NotServed as error:
            response = Refused(404, str(error)).response()
        except UserError as error:
            response = Refused(400, str(error)).response()
        known = name if name in self.repository.models else ""
        self.metrics.request(known, verb, response.status_code, asyncio.get_running_loop().time() - began)
        return response

    async def _answer_in_time(self, read: Handler, request: Request, name: str, version: int | None) -> Response:
        if self.in_progress >= self.settings.queue_size:
            raise QueueFull(1)
        self.in_progress += 1
        status, doing = 408, "received"
        try:
            async with asyncio.timeout(self.settings.deadline_seconds):
                with self.repository.use(name, version) as servable:
                    with servable.batcher.arrival():
                        questions, respond = await read(request, servable)
                        status, doing = 504, "answered"
                        futures = servable.batcher.submit(questions)
                    return await respond(await self._answers(futures))
        except TimeoutError:
            sentence = f"The request could not be {doing} within {self.settings.deadline_seconds:g} s."
            # A client that is still sending is not listened to any longer.
            raise Refused(status, sentence, {"Connection": "close"} if status == 408 else None) from None
        finally:
            self.in_progress -= 1

    async def _answers(self, futures: Sequence[asyncio.Future]) -> list[Answer]:
        try:
            return list(await asyncio.gather(*futures))
        except UserError as error:  # the file's fault, not the client's
            log.error("%s", error)
            raise Refused(500, str(error)) from None
        except Exception:
            log.exception("A batch failed.")
            raise Refused(500, "The network failed on this request. The server's log says more.") from None

    async def _in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _read_predict(self, request: Request, servable: Servable):
        body = await read_body(request, self.settings.max_body_bytes)
        backend = servable.backend
        asked = await self._in_pool(self._parse_predict, body, backend)

        def write(answers: list[Answer]) -> Response:
            return json_response(write_predict(answers, asked, backend.labels))

        async def respond(answers: list[Answer]) -> Response:
            is_short = len(answers) * len(backend.labels) <= _FEW_NUMBERS
            return write(answers) if is_short else await self._in_pool(write, answers)

        return asked.questions, respond

    def _parse_predict(self, body: bytes, backend: Backend):
        until = time.monotonic() + self.settings.deadline_seconds
        limits = {"max_images": self.settings.queue_size, "max_pixels": self.settings.max_pixels, "until": until}
        return read_predict(body, backend, **limits)

    async def _read_classify(self, request: Request, servable: Servable):
        top = _whole_number(request, "top", default=5, lowest=1, highest=MOST_LABELS)
        backend = servable.backend
        image, _ = await self._image(request, backend, drawn=False)

        async def respond(answers: list[Answer]) -> Response:
            return json_response(_named(servable) | {"predictions": _best(answers[0], backend.labels, top)})

        return [Question(image)], respond

    async def _read_explain(self, request: Request, servable: Servable):
        top = _whole_number(request, "top", default=5, lowest=1, highest=MOST_LABELS)
        backend = servable.backend
        if backend.heatmaps == "none":
            raise UserError(no_heatmap(backend))
        target = _target(request.query_params.get("target"), backend)
        media = accepted(request, (JSON, PNG))
        image, pixels = await self._image(request, backend, drawn=media == PNG)

        async def respond(answers: list[Answer]) -> Response:
            (answer,) = answers
            shown = int(answer.probabilities.argmax()) if target == TOP_CLASS else target
            label, probability = backend.labels[shown], float(answer.probabilities[shown])
            if media == PNG:
                title = f"{label} {probability:.1%}"
                picture = await self._in_pool(
                    lambda: lay_over(pixels, answer.heatmap, backend.preprocessing, title=title)
                )
                return Response(picture, media_type=PNG, headers={"Vary": "Accept"})
            found = {
                "predictions": _best(answer, backend.labels, top),
                "explained": {"label": label, "probability": probability},
                "heatmap": answer.heatmap.tolist(),
            }
            return json_response(_named(servable) | found, headers={"Vary": "Accept"})

        return [Question(image, target)], respond

    async def _image(self, request: Request, backend: Backend, *, drawn: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The image of a request as the network takes it, and as it is drawn: uint8, no larger than a picture."""
        body = await read_body(request, self.settings.max_body_bytes)
        contents = await image_file(request, body)

        def decode() -> tuple[np.ndarray, np.ndarray | None]:
            limit = self.settings.max_pixels
            pixels = decode_image(contents, backend.preprocessing, name="The body", max_pixels=limit)
            shown = drawable(pixels, LARGEST_PICTURE) if drawn else None
            return resize_with_pillow(pixels, backend.preprocessing), shown

        return await self._in_pool(decode)


def _named(servable: Servable) -> dict[str, str]:
    return {"model": servable.name, "version": str(servable.version)}


def _best(answer: Answer, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    best = np.argsort(-answer.probabilities, kind="stable")[:top]
    return [{"label": labels[index], "probability": float(answer.probabilities[index])} for index in best]


def _whole_number(request: Request, name: str, *, default: int, lowest: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and lowest <= int(text) <= highest):
        raise UserError(f"{name} is a whole number from {lowest} to {highest}, got {text[:80]!r}.")
    return int(text)


def _target(text: str | None, backend: Backend) -> int:
    """The class to explain, by its label or its number."""
    if text is None:
        return TOP_CLASS
    if backend.heatmaps != "class":
        raise UserError(f"{no_heatmap(backend)} Leave target out.")
    if text in backend.labels:
        return backend.labels.index(text)
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < len(backend.labels):
        return int(text)
    raise unknown_name("class", text[:80], backend.labels)
