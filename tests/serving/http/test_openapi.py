"""The description says what the server does: fuzzed with schemathesis; BentoML's client; and the Swagger page."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import bentoml
import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.routing import Route

from serving.http import ui
from serving.http.app import create_app
from serving.http.routes import OPERATIONS
from serving.model.predictor import Predictor
from tests.serving.http.test_app import error, npy
from tests.serving.server import running
from tests.xtrain.test_images import encode
from xtrain.data.datasets import read_npz

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
PNG = encode(Image.new("RGB", (28, 28)), "PNG")
ARRAYS = [np.zeros((2, 28, 28, 3), np.uint8), np.zeros((28, 28), np.uint8), np.zeros((1, 28, 28, 3), np.float32)]


def damaged(contents: list[bytes]) -> st.SearchStrategy[bytes]:
    """Good files, the same cut off or with one byte changed, and anything else."""
    good = st.sampled_from(contents)
    cut = st.builds(lambda content, share: content[: int(len(content) * share)], good, st.floats(0, 1))
    changed = st.builds(
        lambda content, share, byte: (
            content[: int(len(content) * share)] + bytes([byte]) + content[int(len(content) * share) + 1 :]
        ),
        good,
        st.floats(0, 1),
        st.integers(0, 255),
    )
    return st.one_of(good, cut, changed, st.binary(max_size=200))


schemathesis.openapi.media_type("application/x-npy", damaged([npy(array) for array in ARRAYS]))
for kind in ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/tiff"):
    schemathesis.openapi.media_type(kind, damaged([PNG]))
for kind in ("application/zip", "application/x-npz", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, damaged([npy(array) for array in ARRAYS]))


@pytest.fixture(scope="module")
def client(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("home")
    (home / "admins").write_text("root\n")
    with running(sample_model, home, "--admin-tokens", str(home / "admins")) as client:
        yield client


def test_every_operation_with_a_body_refuses_another_encoding(client: httpx.Client) -> None:
    described = client.get("/v1/openapi.json").json()["paths"]
    for operation in (operation for operation in OPERATIONS if operation.body):
        path = operation.path.replace("{name}", "sample").replace("{version}", "1")
        headers = {"Content-Type": next(iter(operation.body)), "Content-Encoding": "br", "Authorization": "Bearer root"}
        answer = client.request(operation.method, path, content=b"{}", headers=headers)
        assert answer.status_code == 415, operation.path
        assert "415" in described[operation.path][operation.method.lower()]["responses"]


def test_no_request_from_the_description_breaks_it(client: httpx.Client) -> None:
    """Requests that fit it and requests that do not, to every operation: no 5xx, no answer that it does not tell."""
    schema = schemathesis.openapi.from_url(f"{client.base_url}/v1/openapi.json")
    model = client.get("/v1/model").json()
    statuses: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        seen = statuses.setdefault(operation.label, set())
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                if case.path_parameters and mode is GenerationMode.POSITIVE:  # noqa: B023
                    case.path_parameters |= {key: model[key] for key in case.path_parameters}
                answer = case.call_and_validate(checks=CHECKS, headers={"Authorization": "Bearer root"})
                seen.add(answer.status_code)  # noqa: B023

            try:
                ask()
            except Unsatisfiable:  # what takes any string has no request that does not fit
                assert mode is GenerationMode.NEGATIVE
    # Schemathesis leaves out the operation that it read the description from.
    assert set(statuses) == {f"{entry.method} {entry.path}" for entry in OPERATIONS} - {"GET /v1/openapi.json"}
    for label, wanted in {
        "POST /v1/predict": {200, 400, 422},
        "POST /v1/classify": {422},
        "POST /v1/score": {200, 400},
        "POST /v1/model": {422},
        "GET /v2/models/{name}": {200},
        "POST /v2/models/{name}/infer": {400, 404, 422},
    }.items():
        assert wanted <= statuses[label], (label, statuses[label])


def test_every_route_is_described(client: httpx.Client) -> None:
    described = client.get("/v1/openapi.json").json()["paths"]
    served = {
        (route.path, method.lower())
        for route in create_app().routes
        if isinstance(route, Route) and route.endpoint.__name__ != "_unknown" and route not in ui.ROUTES  # for people
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == {(path, method) for path, operations in described.items() for method in operations}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what BentoML imports
def test_the_client_of_bentoml(client: httpx.Client, sample_model: Path, sample: Path) -> None:
    images = read_npz(sample).splits["test"].images[:5]
    expected = Predictor(sample_model, "cpu").predict(images)
    with bentoml.SyncHTTPClient(str(client.base_url)) as caller:
        answer = caller.classify(images=images, top=2)
        got = np.array([item["probabilities"] for item in answer["predictions"]], np.float32)
        np.testing.assert_allclose(got, expected, atol=1e-6)
        assert [len(item["top"]) for item in answer["predictions"]] == [2] * 5
        assert answer["sha256"] == client.get("/v1/model").json()["sha256"]
        with pytest.raises(bentoml.exceptions.BentoMLException, match="wrong_input"):
            caller.classify(images=images[:, :14])
        caller._temp_dir.cleanup()  # type: ignore[attr-defined]  # it leaves that to the collector, with a warning


def test_pixels_as_json(client: httpx.Client) -> None:
    def post(content: bytes, kind: str = "application/json") -> httpx.Response:
        return client.post("/v1/classify", content=content, headers={"Content-Type": kind})

    error(post(b"{}", "text/plain"), 415, "unsupported")
    error(post(b"{"), 400, "unreadable")
    error(post(b"[]"), 400, "unreadable")
    error(post(b"[" * 100_000), 400, "unreadable")
    wide = ["a" * 100_000] + [""] * 10_000  # as an array of strings 4 GB
    for images in (
        None,
        [],
        [[1, 2], [3]],
        [[[[256, 0, 0]]]],
        [[[[0.5, 0, 0]]]],
        [[[[0, 0, 0]]]],
        "x",
        wide,
        [2**70],
        [True],
    ):
        error(post(json.dumps({"images": images}).encode()), 422, "wrong_input")
    image = [[[[0, 0, 0]] * 28] * 28]
    for top in (0, 10, "many", 1.5):
        error(post(json.dumps({"images": image, "top": top}).encode()), 422, "wrong_input")
    error(post(b" " * (17 << 20)), 413, "too_large")
    assert post(json.dumps({"images": image}).encode()).status_code == 200


def test_a_405_says_what_is_allowed(client: httpx.Client) -> None:
    response = client.put("/v1/model")
    error(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, POST"


def test_the_page_loads_from_this_server_alone(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    assert "://" not in page.text
    files = re.findall(r'(?:src|href|url)[=:] ?"(\./[^"]+)"', page.text)
    assert len(files) == 3
    for file in files:
        assert client.get(file[1:]).status_code == 200, file


BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; install one to try the page in it")
def test_the_page_in_a_browser(client: httpx.Client, tmp_path: Path) -> None:
    assert BROWSER
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=15000", "--dump-dom", f"{client.base_url}/"]
    shown = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120).stdout
    assert "Failed to load" not in shown
    paths = set(re.findall(r'class="opblock-summary-path"[^>]*data-path="([^"]+)"', shown))
    assert paths == set(client.get("/v1/openapi.json").json()["paths"])
