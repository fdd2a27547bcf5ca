"""`Client` waits for each response, `AsyncClient` has several requests under way; `xtrain.Client`."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from serving.client.exchanges import Answer, Exchanges, Steps, http_client, query_of
from serving.client.groups import Pictures, groups

T = TypeVar("T")
Progress = Callable[[int], None]


class Client(Exchanges):
    """Asks a server, one request after another. A context manager; usable by one thread at a time."""

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = 60.0, retries: int = 4, verify: Any = True
    ) -> None:
        """Remember the server; nothing is sent yet.

        Args:
            url: such as `http://127.0.0.1:3000`.
            token: bearer token, where the server asks for one.
            timeout: seconds that the server may be silent.
            retries: of a request that the server was too busy for (429, 502, 503; it says when to come again), or
                whose connection broke; 0 for none.
            verify: an `ssl.SSLContext` of one's own; by default the authorities of SSL_CERT_FILE, or the usual ones.

        Raises:
            ConfigError: `retries` below 0, or a `timeout` that is not above 0.
            ServerError: no address, or a proxy or certificates in the environment that cannot be used.
        """
        super().__init__(url, token, retries)
        self._http = http_client(httpx.Client, url, timeout, verify)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> dict[str, Any]:
        """Return the loaded models, and the name of the `default` one."""
        return self._run(self.get_steps("/v1/models", {}))

    def card(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """Return the card of a model, None being the default one."""
        return self._run(self.get_steps("/v1/model", query_of(model, version)))

    def predict(self, images: Pictures, **options: Any) -> list[Answer]:
        """Return what the server says of each image, in order.

        Args:
            images: one or many paths, encoded images (bytes) or PIL images, of any size, or an array (N, H, W, C) uint8
                at the native size.
            options: as of `stream`.

        Raises:
            ServerError: no answer, or an error that another image would get as well.
        """
        return list(self.stream(images, **options))

    def stream(
        self,
        images: Pictures,
        *,
        model: str | None = None,
        version: str | None = None,
        explain: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Answer]:
        """Yield what the server says of each image, in order; a few images are read at a time.

        Args:
            images: as of `predict`.
            model: name of a loaded model, None for the default one.
            version: of it, None for its latest.
            explain: also ask for the heatmap.
            progress: called with the number of images of each answer.

        Raises:
            ServerError: as `predict`.
        """
        query = query_of(model, version, explain)
        for group in groups(images):
            answers = self._run(self.predict_steps(group, query))
            yield from answers
            if progress is not None:
                progress(len(answers))

    def score(self, path: str | Path, model: str | None = None, version: str | None = None) -> str:
        """Return the `ID,CLASS` table of an `.npz` or `.npy` of images at the native size.

        Raises:
            DataError: the file cannot be read.
            ServerError: as `predict`.
        """
        return self._run(self.score_steps(path, query_of(model, version)))

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                result: httpx.Response | httpx.RequestError | None = None
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    try:
                        result = self._http.send(step)
                    except httpx.RequestError as error:
                        result = error
                step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class AsyncClient(Exchanges):
    """Asks a server, several requests at a time. An asynchronous context manager."""

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = 60.0, retries: int = 4, verify: Any = True
    ) -> None:
        """Remember the server; the arguments are those of `Client`."""
        super().__init__(url, token, retries)
        self._http = http_client(httpx.AsyncClient, url, timeout, verify)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> dict[str, Any]:
        """As `Client.models`."""
        return await self._run(self.get_steps("/v1/models", {}))

    async def card(self, model: str | None = None, version: str | None = None) -> dict[str, Any]:
        """As `Client.card`."""
        return await self._run(self.get_steps("/v1/model", query_of(model, version)))

    async def predict(self, images: Pictures, **options: Any) -> list[Answer]:
        """As `Client.predict`; `options` as of `stream`."""
        return [answer async for answer in self.stream(images, **options)]

    async def stream(
        self,
        images: Pictures,
        *,
        model: str | None = None,
        version: str | None = None,
        explain: bool = False,
        progress: Progress | None = None,
        parallel: int = 4,
    ) -> AsyncIterator[Answer]:
        """As `Client.stream`, with `parallel` requests at a time; files are read on the loop, a few at a time."""
        query = query_of(model, version, explain)
        waiting: deque[asyncio.Task[list[Answer]]] = deque()
        try:
            for group in groups(images):
                waiting.append(asyncio.ensure_future(self._run(self.predict_steps(group, query))))
                if len(waiting) >= parallel:
                    async for answer in _answers_of(waiting.popleft(), progress):
                        yield answer
            while waiting:
                async for answer in _answers_of(waiting.popleft(), progress):
                    yield answer
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def score(self, path: str | Path, model: str | None = None, version: str | None = None) -> str:
        """As `Client.score`."""
        return await self._run(self.score_steps(path, query_of(model, version)))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                result: httpx.Response | httpx.RequestError | None = None
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    try:
                        result = await self._http.send(step)
                    except httpx.RequestError as error:
                        result = error
                step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def _answers_of(request: "asyncio.Task[list[Answer]]", progress: Progress | None) -> AsyncIterator[Answer]:
    """Wait for a request; yield its answers, then report their number."""
    answers = await request
    for answer in answers:
        yield answer
    if progress is not None:
        progress(len(answers))
