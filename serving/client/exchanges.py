"""What a client sends and how it takes the responses, whether it waits or is asynchronous.

Each exchange is a generator: it yields a request to send, or seconds to wait, and is sent the response.
"""

import base64
import math
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from serving.client.groups import Group, Unreadable
from xtrain.errors import ConfigError, DataError, XtrainError

T = TypeVar("T")
HttpClient = TypeVar("HttpClient", httpx.Client, httpx.AsyncClient)
Query = dict[str, str | None]
Steps = Generator[httpx.Request | float, httpx.Response | httpx.RequestError | None, T]

BUSY = (429, 502, 503)  # answered otherwise a moment later
REFUSED = (400, 413, 415)  # an image's own fault
TOO_MUCH = 504  # with fewer images there may be time
MAX_WAIT = 60.0  # seconds between two tries, whatever Retry-After says


class ServerError(XtrainError):
    """A server that cannot be reached, or that answers with an error.

    Attributes:
        status: of its response; 0 without one.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What a server says of one image.

    Attributes:
        name: the file's path, or its number.
        label: name of the most probable class; None where the image was refused, and `error` says why.
        index: of that class.
        probability: of that class.
        probabilities: (classes,) in the order of the card's classes.
        heatmap: PNG of the image under its heatmap, where it was asked for.
        sha256: of the model's file that answered.
        error: what is wrong with the image.
    """

    name: str
    label: str | None = None
    index: int | None = None
    probability: float | None = None
    probabilities: tuple[float, ...] = ()
    heatmap: bytes | None = None
    sha256: str | None = None
    error: str | None = None


class Exchanges:
    """What both clients send, and how they take the responses."""

    def __init__(self, url: str, token: str | None, retries: int) -> None:
        if retries < 0:
            raise ConfigError(f"retries is {retries}; it must be at least 0")
        self.url, self.retries = url.rstrip("/"), retries
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._reached = False  # who has never answered is not waited for

    def get_steps(self, path: str, query: Query) -> Steps[dict[str, Any]]:
        """Return the JSON object at a path.

        Raises:
            ServerError: another answer.
        """
        response = yield from self._send(lambda: self._request("GET", path, query))
        return self._object(response)

    def predict_steps(self, group: Group | Unreadable, query: Query) -> Steps[list[Answer]]:
        """Return what is said of each image; where a group is refused, each of its images is sent by itself.

        Raises:
            ServerError: no answer, or an error that another image would get as well.
        """
        if isinstance(group, Unreadable):
            return [Answer(group.name, error=group.error)]
        try:
            response = yield from self._send(lambda: self._request("POST", "/v1/predict", query, **group.body()))
            found = self._object(response)
            try:
                pairs = zip(group.names, found["predictions"], strict=True)
                return [_answer(name, values, found["sha256"]) for name, values in pairs]
            except (KeyError, TypeError, ValueError) as error:
                raise ServerError(f"{self.url}: not the answer of xserve; check the address") from error
        except ServerError as error:
            if len(group.names) == 1 and error.status in REFUSED:
                return [Answer(group.names[0], error=error.args[0].partition(f" {error.status} ")[2])]
            if len(group.names) == 1 or error.status not in (*REFUSED, TOO_MUCH):
                raise
        answers = []
        for part in group.parts():
            answers += yield from self.predict_steps(part, query)
        return answers

    def score_steps(self, path: str | Path, query: Query) -> Steps[str]:
        """Return the CSV of an `.npz` or `.npy`.

        Raises:
            DataError: the file cannot be read.
            ServerError: no answer, or an error.
        """
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:  # as a name with a zero byte
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: cannot be read ({reason}); name an .npz or .npy") from error
        body = {"content": content, "headers": {"Content-Type": "application/octet-stream"}}
        response = yield from self._send(lambda: self._request("POST", "/v1/score", query, **body))
        return response.text

    def _request(self, method: str, path: str, query: Query, **body: Any) -> httpx.Request:
        given = {name: value for name, value in query.items() if value is not None}
        headers = {**self.headers, **body.pop("headers", {})}
        try:
            return httpx.Request(method, self.url + path, params=given, headers=headers, **body)
        except (httpx.InvalidURL, ValueError) as error:  # as a token that is no header
            raise ServerError(f"{self.url}: cannot be asked ({error}); check the address and the token") from error

    def _send(self, make: Callable[[], httpx.Request]) -> Steps[httpx.Response]:
        """Send a request, again while the server is busy; return its response."""
        for attempt in range(self.retries + 1):
            answer = yield make()
            pause = min(MAX_WAIT, 0.5 * 2**attempt) * random.uniform(0.5, 1)
            if isinstance(answer, httpx.RequestError):
                if attempt == self.retries or not self._reached:
                    reason = str(answer) or type(answer).__name__
                    advice = "start xserve, or name an .onnx"
                    if "CERTIFICATE_VERIFY" in reason:
                        advice = "name the certificate of its authority in SSL_CERT_FILE"
                    raise ServerError(f"{self.url}: no answer ({reason}); {advice}") from answer
            else:
                assert answer is not None
                self._reached = True
                if answer.status_code not in BUSY or attempt == self.retries:
                    return self._checked(answer)
                asked = answer.headers.get("Retry-After", "")
                pause = min(MAX_WAIT, float(asked)) if asked.isdecimal() else pause
            yield pause
        raise AssertionError("unreachable")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.reason_phrase
        where, status = response.url.copy_with(query=None), response.status_code
        raise ServerError(f"{where}: {status} {message}", status)

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ServerError(f"{self.url}: not the answer of xserve; check the address")
        return found


LOOPBACK = ("localhost", "::1")


def http_client(kind: type[HttpClient], url: str, timeout: float, verify: Any) -> HttpClient:
    """Return a client of httpx; what goes to this machine goes through no proxy of the environment.

    Args:
        kind: `httpx.Client` or `httpx.AsyncClient`.
        url: of the server.
        timeout: seconds that it may be silent.
        verify: an `ssl.SSLContext`, or True for the authorities of the environment.

    Raises:
        ConfigError: a `timeout` that is not above 0.
        ServerError: no address, or a proxy or certificates in the environment that cannot be used.
    """
    if not 0 < timeout < math.inf:
        raise ConfigError(f"timeout is {timeout}; it must be a number of seconds above 0")
    try:
        host = httpx.URL(url).host
        alone = host in LOOPBACK or host.startswith("127.")
        if verify is True:
            verify = httpx.create_ssl_context()
    except (httpx.InvalidURL, OSError, ValueError) as error:
        raise ServerError(f"{url}: cannot be asked ({error}); check the address and SSL_CERT_FILE") from error
    try:
        return kind(timeout=timeout, verify=verify, trust_env=not alone)
    except (ValueError, ImportError) as error:
        raise ServerError(f"{url}: cannot be asked ({error}); check the proxy in the environment") from error


def query_of(model: str | None, version: str | None, explain: bool = False) -> Query:
    """Return the query of a request; None stands for what is left out."""
    return {"model": model, "version": version, "explain": "true" if explain else None}


def _answer(name: str, values: dict[str, Any], sha256: str) -> Answer:
    if "error" in values:
        return Answer(name, error=str(values["error"]["message"]))
    drawn = values.get("heatmap")
    return Answer(
        name,
        values["label"],
        values["class"],
        values["probability"],
        tuple(values["probabilities"]),
        None if drawn is None else base64.b64decode(drawn),
        sha256,
    )
