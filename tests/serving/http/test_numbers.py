"""Numbers and headers of every route, of any size and spelling: never a 5xx."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving.http.routes import OPERATIONS
from tests.serving.http.test_app import npy
from tests.serving.server import running

ARRAY = npy(np.zeros((1, 28, 28, 3), np.uint8))
TENSOR: dict[str, Any] = {"name": "images", "shape": [1, 28, 28, 3], "datatype": "UINT8", "data": [0] * 2352}
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.integers(1, 6000).map(lambda count: "0" * count),
    st.integers(1, 6000).map(lambda count: "9" * count),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.sampled_from(["", "-0", "+1", "1e3", "0x1", "1_0", "٣", "²", "NaN", "inf", "1,1", "1 1"]),
)
HEADERS = (
    "Inference-Header-Content-Length",
    "Content-Encoding",
    "Content-Type",
    "X-Request-ID",
    "Authorization",
    "Accept",
    "Accept-Encoding",
    "Range",
    "If-Modified-Since",
    "X-Forwarded-For",
    "traceparent",
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
SIZES = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.integers(1, 2500).map(lambda count: [2**31 - 1] * count),
    st.integers(1, 200).map(lambda count: [1] * count),
    st.integers(1, 5).map(lambda count: [0] * count),
    JSON,
)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("home")
    (home / "admins").write_text("root\n")
    with running(sample_model, home, "--admin-tokens", str(home / "admins")) as client:
        yield client


def never_500(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text[:500]


@QUIET
@given(top=NUMBERS, explain=NUMBERS)
@example(top="0" * 5000, explain="true")
@example(top="9" * 5000, explain="1")
def test_query(client: httpx.Client, top: str, explain: str) -> None:
    parameters = {"top": top, "explain": explain}
    never_500(
        client.post("/v1/predict", params=parameters, content=ARRAY, headers={"Content-Type": "application/x-npy"})
    )


@QUIET
@given(number=st.integers(0, len(OPERATIONS) - 1), name=st.sampled_from(HEADERS), value=NUMBERS)
@example(number=0, name="Inference-Header-Content-Length", value="0" * 5000)
def test_headers(client: httpx.Client, number: int, name: str, value: str) -> None:
    operation = OPERATIONS[number]
    path = operation.path.replace("{name}", "sample").replace("{version}", "1")
    headers = {"Content-Type": next(iter(operation.body), "text/plain"), name: value.strip().encode()}
    body = json.dumps({"inputs": [TENSOR]}).encode() if operation.path.endswith("infer") else ARRAY
    never_500(client.request(operation.method, path, content=body if operation.body else None, headers=headers))


@QUIET
@given(shape=SIZES, size=JSON, count=JSON, inputs=st.one_of(st.none(), JSON))
@example(shape=[2**31 - 1] * 2000, size=None, count=None, inputs=None)
@example(shape=[1] * 100, size=None, count=None, inputs=None)
@example(shape=[1, 28, 28, 3], size=10**400, count=10**18, inputs=None)
def test_tensors(client: httpx.Client, shape: Any, size: Any, count: Any, inputs: Any) -> None:
    tensor = {**TENSOR, "shape": shape, "parameters": {"binary_data_size": size}}
    outputs = [{"name": "probabilities", "parameters": {"classification": count, "binary_data": size}}]
    body = {"inputs": [tensor] if inputs is None else inputs, "outputs": outputs, "id": size}
    never_500(client.post("/v2/models/sample/infer", content=json.dumps(body).encode()))


@QUIET
@given(images=JSON, top=JSON)
def test_pixels(client: httpx.Client, images: Any, top: Any) -> None:
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"images": images, "top": top}).encode()
    never_500(client.post("/v1/classify", content=body, headers=headers))
    right = {"images": np.zeros((1, 28, 28, 3), int).tolist(), "top": top}
    never_500(client.post("/v1/classify", content=json.dumps(right).encode(), headers=headers))


@QUIET
@given(path=JSON)
@example(path="\0")
@example(path="a" * 3000)
@example(path="\ud800")
def test_swaps(client: httpx.Client, path: Any) -> None:
    headers = {"Authorization": "Bearer root"}
    never_500(client.post("/v1/model", content=json.dumps({"path": path}).encode(), headers=headers))


@QUIET
@given(kind=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40), body=st.binary(max_size=300))
def test_forms(client: httpx.Client, kind: str, body: bytes) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={kind}".strip()}
    never_500(client.post("/v1/predict", content=body, headers=headers))
