"""Tokens, request ids and the log, on a real server."""

import json
from pathlib import Path

import httpx
import pytest

from serving.http.access import Tokens
from tests.conftest import Command
from tests.serving.http.test_app import PNG, error
from tests.serving.server import running
from xtrain.errors import ConfigError


def test_tokens_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# old\nfirst-token\n\n  second-token \n")
    tokens = Tokens.read(path)
    for header in ("Bearer first-token", "bearer second-token", "Bearer  first-token"):
        assert tokens.accept(header)
    for header in ("", "Bearer", "Bearer ", "first-token", "Basic first-token", "Bearer first-toke", "Bearer # old"):
        assert not tokens.accept(header)
    for text in ("", "# only\n", "two words\n", "\u00e9\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="needs at least one token"):
            Tokens.read(path)


def test_a_missing_file_of_tokens_starts_no_server(command: Command, sample_model: Path, tmp_path: Path) -> None:
    result = command("xserve", sample_model, "--tokens", tmp_path / "absent")
    assert result.code == 2 and "tokens cannot be read" in result.error


def test_the_door_and_the_log(sample_model: Path, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("open-sesame\nnew-one\n")
    tile = (data_dir / "tiles" / "ADI-TCGA-EENSRDNW.png").read_bytes()
    with running(sample_model, tmp_path, "--tokens", str(tmp_path / "tokens")) as client:

        def post(**headers: str) -> httpx.Response:
            return client.post("/v1/predict", content=tile, headers={**PNG, **headers})

        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic open-sesame"}):
            response = post(**headers)
            error(response, 401, "unauthorized")
            assert response.headers["WWW-Authenticate"] == "Bearer"
        for token in ("open-sesame", "new-one"):
            response = post(Authorization=f"Bearer {token}", **{"X-Request-ID": f"tile-{token}"})
            assert response.status_code == 200 and response.headers["X-Request-ID"] == f"tile-{token}"
        error(client.get("/v1/model"), 401, "unauthorized")
        error(client.get("/v2/models/sample"), 401, "unauthorized")
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/live"):
            assert client.get(path).status_code == 200, path
        assert "Access-Control-Allow-Origin" not in client.get("/livez", headers={"Origin": "http://x"}).headers
        client.get("/v1/" + "x" * 5000 + "%22", headers={"Authorization": "Bearer new-one"})
        assert 'xtrain_rejected_total{reason="unauthorized"} 5.0' in client.get("/metrics").text
    log = (tmp_path / "serve.log").read_text()
    assert "open-sesame" not in log.replace("tile-open-sesame", "") and "guess" not in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"time"')]
    (asked,) = [line for line in lines if line["request_id"] == "tile-new-one"]
    assert (asked["method"], asked["path"], asked["status"]) == ("POST", "/v1/predict", 200) and asked["seconds"] > 0
    assert [line["status"] for line in lines].count(401) == 5
    assert max(len(line["path"]) for line in lines) == 200


def test_no_spelling_of_a_path_passes_without_its_token(sample_model: Path, tmp_path: Path) -> None:
    """Who may send a request is decided by the operation that would answer it, however its path is written."""
    (tmp_path / "tokens").write_text("user\n")
    (tmp_path / "admins").write_text("root\n")
    options = ("--tokens", str(tmp_path / "tokens"), "--admin-tokens", str(tmp_path / "admins"))
    user, body = {"Authorization": "Bearer user"}, b'{"path": "sample.onnx"}'
    with running(sample_model, tmp_path, *options) as client:
        for path in (
            "/v1/model",
            "/v1/model%0A",
            "/v1/model%0D",
            "/v1/model/",
            "/v1//model",
            "/v1/model%00",
            "/V1/model",
        ):
            answer = client.post(path, content=body, headers=user)
            assert answer.status_code in (401, 404), (path, answer.text)
            assert client.get(path).status_code in (401, 404), path
        for path in ("/v1/model%0A", "/v2%0A", "/metrics%0A"):
            assert client.get(path, headers=user).status_code == 404, path
        error(client.post("/v1/model", content=body, headers=user), 401, "unauthorized")
        error(client.get("/v1/nothing"), 401, "unauthorized")
        error(client.put("/v1/predict", headers=user), 405, "method_not_allowed")
        for path in ("/metrics", "/v2/health/live", "/v1/openapi.json"):
            assert client.get(path).status_code == client.head(path).status_code == 200, path
        assert error(client.options("/v2", headers=user), 405, "method_not_allowed") == "this path takes GET"
