"""The Open Inference Protocol over gRPC with its reference client, beside HTTP on the same server."""

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from export.export import export_runs
from export.options import ExportOptions
from serving.grpc.messages import MESSAGES, messages
from serving.model.predictor import Predictor
from tests.conftest import Command
from tests.serving.http.test_operator import certificate  # noqa: F401
from tests.serving.http.test_repository import is_worker, wait_for
from tests.serving.server import free_port, process_of, running

ADMIN = {"authorization": "Bearer root"}
USER = {"authorization": "Bearer user"}
IMAGES = np.random.default_rng(3).integers(0, 256, (70, 28, 28, 3), np.uint8)


@pytest.fixture(scope="module")
def models(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for place, options in (
        ("tissue/1", ExportOptions(calibrate=False)),
        ("tissue/2", ExportOptions(calibrate=False, explain=True)),
        ("other/1", ExportOptions(calibrate=False, tta="dihedral")),
    ):
        (root / place).mkdir(parents=True)
        export_runs([sample_run], root / place / "model.onnx", options)
    return root


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Any]]:
    home, port = tmp_path_factory.mktemp("home"), free_port()
    (home / "admins").write_text("root\n")
    (home / "users").write_text("user\n")
    tokens = ("--tokens", str(home / "users"), "--admin-tokens", str(home / "admins"))
    limits = ("--default-model", "tissue", "--max-batch-bytes", "4000000", "--timeout", "20")
    with running(models, home, "--grpc", f"127.0.0.1:{port}", *tokens, *limits) as client:
        caller = triton.InferenceServerClient(f"127.0.0.1:{port}")
        for _ in range(50):
            try:
                if caller.is_server_live():
                    break
            except InferenceServerException:
                time.sleep(0.1)
        yield client, caller
        caller.close()
    assert "Traceback" not in (home / "serve.log").read_text()


def tensor(images: np.ndarray) -> Any:
    one = triton.InferInput("images", list(images.shape), "UINT8")
    one.set_data_from_numpy(images)
    return one


def test_health_and_metadata(server: tuple[httpx.Client, Any]) -> None:
    _, caller = server
    assert caller.is_server_live() and caller.is_server_ready()  # open, as over HTTP
    assert caller.is_model_ready("tissue", headers=USER) and caller.is_model_ready("tissue", "1", headers=USER)
    facts = caller.get_model_metadata("tissue", headers=USER)
    assert list(facts.versions) == ["1", "2"] and facts.inputs[0].datatype == "UINT8"
    assert [output.name for output in facts.outputs] == ["probabilities", "heatmap"]
    assert caller.get_server_metadata(headers=USER).name == "xtrain"


@pytest.mark.parametrize("version", ["1", "2", ""])
def test_infer(server: tuple[httpx.Client, Any], models: Path, version: str) -> None:
    _, caller = server
    answer = caller.infer("tissue", [tensor(IMAGES)], model_version=version, request_id="r1", headers=USER)
    predictor = Predictor(models / "tissue" / (version or "2") / "model.onnx", "cpu")
    np.testing.assert_allclose(answer.as_numpy("probabilities"), predictor.predict(IMAGES), atol=1e-5)
    response = answer.get_response()
    assert response.id == "r1" and response.model_version == (version or "2")
    if predictor.has_heatmap:
        np.testing.assert_allclose(answer.as_numpy("heatmap")[:, 0], predictor.explain(IMAGES), atol=1e-4)


def test_classification_and_requested_outputs(server: tuple[httpx.Client, Any], models: Path) -> None:
    _, caller = server
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    answer = caller.infer("tissue", [tensor(IMAGES[:3])], outputs=[wanted], headers=USER)
    texts = answer.as_numpy("probabilities")
    expected = Predictor(models / "tissue" / "2" / "model.onnx", "cpu").predict(IMAGES[:3]).argmax(axis=1)
    assert texts.shape == (3, 2) and [int(text.split(b":")[1]) for text in texts[:, 0]] == expected.tolist()
    assert answer.as_numpy("heatmap") is None


@pytest.mark.parametrize(
    ("images", "name", "headers", "code", "message"),
    [
        (IMAGES[:1], "none", USER, "NOT_FOUND", "not loaded"),
        (IMAGES[:1], "tissue", None, "UNAUTHENTICATED", "a bearer token is needed"),
        (IMAGES[:1], "tissue", {"authorization": "Bearer guess"}, "UNAUTHENTICATED", "token"),
        (IMAGES[:1, :5], "tissue", USER, "INVALID_ARGUMENT", "unresized"),
        (IMAGES[:0], "tissue", USER, "INVALID_ARGUMENT", "no image"),
        (np.zeros((3000, 28, 28, 3), np.uint8), "tissue", USER, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_refusals(
    server: tuple[httpx.Client, Any], images: np.ndarray, name: str, headers: Any, code: str, message: str
) -> None:
    _, caller = server
    with pytest.raises(InferenceServerException, match=message) as refused:
        caller.infer(name, [tensor(images)], headers=headers)
    assert code in str(refused.value.status())


def test_requests_by_hand(server: tuple[httpx.Client, Any]) -> None:
    """Values in the contents, and what no client of the protocol sends."""
    _, caller = server
    stub = caller._client_stub
    metadata = tuple(USER.items())
    request = service_pb2.ModelInferRequest(model_name="tissue", model_version="1")
    one = request.inputs.add(name="images", datatype="UINT8", shape=[1, 28, 28, 3])
    one.contents.uint_contents.extend(range(240))
    one.contents.uint_contents.extend([7] * (2352 - 240))
    assert len(stub.ModelInfer(request, metadata=metadata).raw_output_contents[0]) == 36
    for change in (
        lambda r: r.inputs[0].contents.uint_contents.append(300),
        lambda r: r.inputs[0].contents.uint_contents.append(1),
        lambda r: r.inputs[0].shape.extend([1] * 200),
        lambda r: r.inputs[0].ClearField("contents"),
        lambda r: r.ClearField("inputs"),
        lambda r: r.ClearField("model_name"),
        lambda r: r.raw_input_contents.extend([b"1", b"2"]),
        lambda r: r.raw_input_contents.extend([b"1"]),
        lambda r: r.outputs.add(name="other"),
        lambda r: (
            r.outputs.add(name="probabilities")
            .parameters["classification"]
            .CopyFrom(service_pb2.InferParameter(int64_param=-1))
        ),
    ):
        wrong = service_pb2.ModelInferRequest()
        wrong.CopyFrom(request)
        change(wrong)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(wrong, metadata=metadata)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    one.contents.uint_contents.extend([1] * 1_200_000)
    with pytest.raises(grpc.RpcError, match="raw_input_contents") as refused:
        stub.ModelInfer(request, metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelConfig(service_pb2.ModelConfigRequest(name="tissue"), metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health_is_answered_beside_calls_that_send_nothing(server: tuple[httpx.Client, Any]) -> None:
    _, caller = server
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(20)
        yield from ()

    call = caller._channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    waiting = [call.future(nothing(), metadata=tuple(USER.items())) for _ in range(12)]
    try:
        time.sleep(0.3)
        assert caller.is_server_live(client_timeout=5) and caller.is_server_ready(client_timeout=5)
        assert not any(one.done() for one in waiting)
    finally:
        for one in waiting:
            one.cancel()
        ended.set()
    assert caller.infer("tissue", [tensor(IMAGES)], headers=USER, client_timeout=10)


def nothing_reserved(client: httpx.Client) -> bool:
    """Whether calls gave their memory back; the client may have its answer a moment before."""
    for _ in range(100):
        if "xtrain_reserved_bytes 0.0" in client.get("/metrics").text:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("content", [b"\xff", b"\xff" * 2_000_000, bytes(2_000_000), b"\x0a\x05a"])
def test_bytes_that_are_no_message(server: tuple[httpx.Client, Any], content: bytes) -> None:
    client, caller = server
    call = caller._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        call(content, metadata=tuple(USER.items()), timeout=20)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert nothing_reserved(client)


def test_a_deadline_of_the_call(server: tuple[httpx.Client, Any]) -> None:
    _, caller = server
    with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
        caller.infer("other", [tensor(IMAGES)], headers=USER, client_timeout=0.001)
    assert caller.is_server_live()


def test_the_repository(server: tuple[httpx.Client, Any], models: Path) -> None:
    client, caller = server
    with pytest.raises(InferenceServerException, match="admin's bearer token"):
        caller.unload_model("other", headers=USER)
    caller.unload_model("other", headers=ADMIN)
    loaded = client.get("/v1/models", headers={"Authorization": "Bearer user"}).json()["models"]
    assert "other" not in {one["name"] for one in loaded}
    index = {(one.name, one.version): one.state for one in caller.get_model_repository_index(headers=USER).models}
    assert index == {("tissue", "1"): "READY", ("tissue", "2"): "READY", ("other", "1"): "UNAVAILABLE"}
    caller.load_model("other", headers=ADMIN)
    assert caller.is_model_ready("other", headers=USER)
    with pytest.raises(InferenceServerException, match="without parameters"):
        caller.load_model("other", headers=ADMIN, config="{}")


def test_both_count_in_the_same_metrics(server: tuple[httpx.Client, Any]) -> None:
    client, caller = server
    caller.infer("tissue", [tensor(IMAGES)], headers=USER)
    text = client.get("/metrics").text
    assert 'xtrain_requests_total{code="200",route="grpc_model_infer"}' in text
    assert nothing_reserved(client)


def test_tls_for_both(sample_model: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    cert, key = certificate
    port = free_port()
    shutil.copy(cert, tmp_path / "both.pem")
    with open(tmp_path / "both.pem", "a") as file:
        file.write(key.read_text())
    context = ssl.create_default_context(cafile=cert)
    options = ("--certificate", str(tmp_path / "both.pem"), "--grpc", f"127.0.0.1:{port}")
    with running(sample_model, tmp_path, *options, tls=context) as client:
        assert client.get("/v1/model").is_success
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert call(b"", timeout=20, wait_for_ready=True) == b"\x08\x01"


def test_a_port_that_is_taken_after_the_start_is_waited_for(sample_model: Path, tmp_path: Path) -> None:
    """As when a worker is replaced: the next one is not ready before it answers over both."""
    port = free_port()
    with process_of(sample_model, tmp_path, "--grpc", f"127.0.0.1:{port}") as (client, process):
        (worker,) = [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]
        worker.suspend()
        worker.kill()
        worker.wait(10)
        with socket.socket() as other:
            for _ in range(200):  # before the next worker is there
                with contextlib.suppress(OSError):
                    other.bind(("127.0.0.1", port))
                    other.listen()
                    break
                time.sleep(0.005)
            else:
                pytest.skip("the next worker was faster than this test")
            wait_for(client, lambda: client.get("/livez").status_code == 200)
            wait_for(client, lambda: "gRPC cannot listen" in (tmp_path / "serve.log").read_text())
            assert client.get("/readyz").status_code == 503
        wait_for(client, lambda: client.get("/readyz").status_code == 200)


def test_the_messages_are_the_protocols() -> None:
    """Field by field the numbers, types and names of the reference client's."""
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name in MESSAGES:
        ours = messages()[name].DESCRIPTOR
        places = {
            "TensorMetadata": "ModelMetadataResponse",
            "InferInputTensor": "ModelInferRequest",
            "InferRequestedOutputTensor": "ModelInferRequest",
            "InferOutputTensor": "ModelInferResponse",
            "ModelIndex": "RepositoryIndexResponse",
        }
        other = theirs[places[name]].nested_types_by_name[name] if name in places else theirs[name]
        for field in ours.fields:
            same = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (same.number, same.type, same.is_repeated), name
    theirs_service = {method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    from serving.grpc.server import METHODS

    assert set(METHODS) <= theirs_service


def test_a_stop_does_not_wait_for_a_call_that_sends_nothing(sample_model: Path, tmp_path: Path) -> None:
    port, ended = free_port(), threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(20)
        yield from ()

    with process_of(sample_model, tmp_path, "--grpc", f"127.0.0.1:{port}") as (client, process):
        client.close()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer").future(nothing())
            time.sleep(0.5)
            assert not call.done()
            began = time.monotonic()
            process.terminate()
            assert process.wait(timeout=30) == 0 and time.monotonic() - began < 8
            ended.set()
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_one_port_for_both_is_refused(command: Command, sample_model: Path) -> None:
    port = free_port()
    result = command("xserve", sample_model, "--port", port, "--grpc", f"127.0.0.1:{port}")
    assert result.code == 2 and f"both want port {port}" in result.error


@pytest.mark.parametrize("address", ["3001", ":3001", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x"])
def test_an_address_that_is_none(command: Command, sample_model: Path, address: str) -> None:
    result = command("xserve", sample_model, "--grpc", address)
    assert result.code == 2 and "is not HOST:PORT" in result.error
