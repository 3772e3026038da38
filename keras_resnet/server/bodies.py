"""What a request brings, read within its limits; and what it is told when it is not answered."""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

JSON = "application/json"
# A body of these types, or of none, is the file itself; the last is what `curl --data-binary` says.
_FILE_TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")


class Refused(Exception):
    """A request that is not answered as it asks.

    Args:
        status: The status of the answer.
        message: What the client did and can do, a sentence.
        headers: Of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers

    def response(self) -> Response:
        """Returns the answer: {"error": …}, as TensorFlow Serving has it."""
        return json_response({"error": str(self)}, self.status, self.headers)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Returns an answer in JSON."""
    content = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, status, headers, media_type=JSON)


async def read_body(request: Request, limit: int) -> bytes:
    """Reads the body of a request.

    Args:
        request: The request.
        limit: Most bytes; a longer body is refused by the length that it claims, or as soon as it is longer.

    Returns:
        The body.

    Raises:
        Refused: It is too long, or compressed, or the client has gone.
    """
    too_long = Refused(413, f"The body has more than the {limit:,} bytes that are allowed. Send a smaller image.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Compressed bodies are not read. Leave Content-Encoding out.")
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and (len(claimed) > 18 or int(claimed) > limit):
        raise too_long
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_long
            chunks.append(chunk)
    except ClientDisconnect:
        raise Refused(400, "The connection ended before the body did.") from None
    return b"".join(chunks)


async def image_file(request: Request, body: bytes) -> bytes:
    """Returns the image file of a request: its body, or the one file of a form.

    Args:
        request: The request, whose body is read.
        body: The body.

    Returns:
        The bytes of the file.

    Raises:
        Refused: The body is something else, or empty, or a form without a file or with several.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        contents = await _file_of_form(request, body)
    elif not kind or kind.startswith(_FILE_TYPES):
        contents = body
    else:
        raise Refused(
            415, f"The body must be an image file or a form with one, got {kind!r}. JSON goes to :predict.", None
        )
    if not contents:
        raise Refused(400, "The body is empty. Send the bytes of an image file.")
    return contents


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=16) as form:
            files = [value for _, value in form.multi_items() if not isinstance(value, str)]
            if len(files) != 1:
                raise Refused(400, "The form holds no file. Send one, as: curl --form image=@FILE.")
            return await files[0].read()
    except HTTPException as error:
        raise Refused(400, f"The form cannot be read: {error.detail}") from None
    except (ValueError, LookupError) as error:  # a name that is not text, an unknown charset
        raise Refused(400, f"The form cannot be read: {error}.") from None


def accepted(request: Request, offered: Sequence[str]) -> str:
    """Returns the media type of the answer that a client likes best.

    Args:
        request: The request; without Accept it takes anything.
        offered: What there is, the default first.

    Returns:
        One of `offered`.

    Raises:
        Refused: It accepts none of them.
    """
    likes = []
    for part in request.headers.get("accept", "*/*").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        try:
            likes.append((float(quality), kind))
        except ValueError:
            continue

    def quality_of(media: str) -> tuple[float, int]:
        # The most specific entry counts: */* stands for what is not named.
        for rank, kind in ((2, media), (1, media.partition("/")[0] + "/*"), (0, "*/*")):
            found = [quality for quality, liked in likes if liked == kind]
            if found:
                return max(found), rank
        return 0.0, 0

    best = max(offered, key=quality_of)
    if not quality_of(best)[0] > 0:
        raise Refused(406, f"The answer is {' or '.join(offered)}, and the request accepts neither.")
    return best


class Keys:
    """The API keys of a server.

    Args:
        keys: One of which a request must carry; empty: none is needed.
    """

    def __init__(self, keys: Sequence[str]):
        # Digests have one length: the time of a comparison tells nothing, and all are compared.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, request: Request) -> bool:
        """Whether a request carries a key, as "Authorization: Bearer KEY" or "X-API-Key: KEY"."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.headers.get("x-api-key", "")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return not self._digests or any(matches)
