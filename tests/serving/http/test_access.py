"""Tokens, request ids and the log, on a real server."""

import json
import time
from pathlib import Path

import httpx
import pytest

from serving.http import access
from serving.http.access import Token, Tokens
from tests.conftest import Command
from tests.serving.http.test_app import PNG, error
from tests.serving.server import running
from xtrain.errors import ConfigError


def test_tokens_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# old\nfirst-token\n\n  second-token \n")
    tokens = Tokens.read(path)
    for header in ("Bearer first-token", "bearer second-token", "Bearer  first-token"):
        assert tokens.find(header)
    for header in ("", "Bearer", "Bearer ", "first-token", "Basic first-token", "Bearer first-toke", "Bearer # old"):
        assert tokens.find(header) is None
    for text in ("", "# only\n", "\u00e9\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="needs at least one token"):
            Tokens.read(path)
    for text in ("two words\n", "token 0\n", "token -1\n", "token inf\n", "token nan\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not a number of requests a second"):
            Tokens.read(path)


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOOK", 0.0)
    path = tmp_path / "tokens"
    path.write_text("first\n")
    tokens = Tokens.read(path)
    for text, accepted in (
        ("second\n", "second"),
        ("", "second"),
        (None, "second"),
        ("third 5\n", "third"),
    ):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        for name in ("first", "second", "third"):
            assert (tokens.find(f"Bearer {name}") is not None) == (name == accepted), (text, name)


def test_a_tokens_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(access.time, "monotonic", lambda: now)
    token = Token(b"", rate=5)
    assert [token.take() for _ in range(10)] == [0.0] * 10, "two seconds' worth at once"
    assert token.take() == pytest.approx(0.2)
    now += 1
    assert [token.take() for _ in range(5)] == [0.0] * 5 and token.take() > 0
    now += 1000
    assert [token.take() for _ in range(10)] == [0.0] * 10 and token.take() > 0
    slow = Token(b"", rate=0.1)
    assert slow.take() == 0 and slow.take() == pytest.approx(10)


def test_too_many_requests_of_one_token(sample_model: Path, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("slow 1\nfast\n")
    with running(sample_model, tmp_path, "--tokens", str(tmp_path / "tokens")) as client:

        def get(token: str) -> httpx.Response:
            return client.get("/v1/model", headers={"Authorization": f"Bearer {token}"})

        assert [get("slow").status_code for _ in range(2)] == [200, 200]
        refused = get("slow")
        assert "has sent its requests" in error(refused, 429, "queue_full") and refused.headers["Retry-After"] == "1"
        assert {get("fast").status_code for _ in range(20)} == {200}
        time.sleep(1.1)
        assert get("slow").status_code == 200


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
