"""What an operation of the API is: the entries of the table in `routes`, of which router and OpenAPI are made."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.http.access import Access
from serving.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]
Schema = dict[str, Any]
BINARY: Schema = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class MediaType:
    """A media type of a body or a response.

    `limit` names the `Settings` field with the largest number of bytes, or is that number.
    """

    schema: Schema
    limit: str | int = "max_bytes"

    def max_bytes(self, settings: Settings) -> int:
        """Return the largest number of bytes."""
        return self.limit if isinstance(self.limit, int) else int(getattr(settings, self.limit))


@dataclass(frozen=True)
class Operation:
    """One path and method.

    Attributes:
        path: with parameters in braces.
        method: `GET` or `POST`.
        endpoint: answers it.
        summary: one sentence for the description.
        responses: media types of the 200.
        body: media types that it takes; a request of another one is refused with 415.
        statuses: of its errors, besides those of any with a token (401, 429) or a body (400, 408, 413, 415, 429).
        parameters: of path and query, as OpenAPI describes them.
        access: who may send it.
        any_body: whether another media type is read as the first one.
    """

    path: str
    method: str
    endpoint: Endpoint
    summary: str
    responses: Mapping[str, MediaType]
    body: Mapping[str, MediaType] = field(default_factory=dict)
    statuses: tuple[int, ...] = ()
    parameters: tuple[Schema, ...] = ()
    access: Access = "token"
    any_body: bool = False

    @property
    def all_statuses(self) -> list[int]:
        """Every status that it can give besides 200, ascending."""
        statuses = set(self.statuses)
        if self.access != "open":
            statuses |= {401, 429}
        if self.body:
            statuses |= {400, 408, 413, 415, 429}  # 415 for an encoding, too
        return sorted(statuses)
