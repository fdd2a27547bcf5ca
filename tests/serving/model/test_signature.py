"""Signed models: openssl on the other side, files and keys that are wrong, and a server that takes signed ones only."""

import shutil
import subprocess
from pathlib import Path

import pytest

from export.options import ExportOptions
from export.package import package_file
from serving.model import onnxfile
from serving.model.predictor import Predictor
from serving.model.repository import ModelRepository
from serving.model.signature import LARGEST_KEY, PrivateKey, PublicKey, sidecar
from tests.conftest import Command
from tests.serving.server import running
from xtrain.errors import ConfigError, ModelFileError

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, for keys")
pytestmark = needs_openssl


def openssl(*arguments: str | Path) -> int:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, timeout=30).returncode


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem and public.pem, another.pem, and keys of other kinds."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "other"):
        assert openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.pem") == 0
        assert openssl("pkey", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.public.pem") == 0
    assert openssl("genpkey", "-algorithm", "x25519", "-out", folder / "x25519.pem") == 0
    assert openssl("genrsa", "-out", folder / "rsa.pem", "1024") == 0
    encrypted = ("-in", folder / "key.pem", "-aes256", "-passout", "pass:1234", "-out", folder / "encrypted.pem")
    assert openssl("pkey", *encrypted) == 0
    return folder


@pytest.fixture
def signed(sample_model: Path, keys: Path, tmp_path: Path) -> Path:
    path = tmp_path / "models" / "m.onnx"
    path.parent.mkdir()
    shutil.copy(sample_model, path)
    assert package_file(path, ExportOptions(sign=keys / "key.pem")) == [sidecar(path)]
    return path


def test_openssl_verifies_it_and_signs_as_we_do(signed: Path, keys: Path, tmp_path: Path) -> None:
    digest = tmp_path / "digest"
    digest.write_bytes(bytes.fromhex(onnxfile.sha256(signed)))
    verify = ("pkeyutl", "-verify", "-pubin", "-rawin", "-in", digest, "-sigfile", sidecar(signed), "-inkey")
    assert openssl(*verify, keys / "key.public.pem") == 0 and openssl(*verify, keys / "other.public.pem") == 1
    again = tmp_path / "again.sig"
    assert openssl("pkeyutl", "-sign", "-rawin", "-in", digest, "-inkey", keys / "key.pem", "-out", again) == 0
    assert again.read_bytes() == sidecar(signed).read_bytes()


def test_a_file_without_its_signature_is_not_loaded(signed: Path, keys: Path) -> None:
    key, other = (PublicKey.read(keys / f"{name}.public.pem") for name in ("key", "other"))
    Predictor(signed, "cpu", key=key)
    with pytest.raises(ModelFileError, match="not a signature of this file"):
        Predictor(signed, "cpu", key=other)
    good = sidecar(signed).read_bytes()
    for bad in (b"", good[:-1], good + b"\n", bytes(64), good[:32] + bytes(32)):
        sidecar(signed).write_bytes(bad)
        with pytest.raises(ModelFileError, match="not a signature of this file"):
            Predictor(signed, "cpu", key=key)
    sidecar(signed).unlink()
    with pytest.raises(ModelFileError, match="no signature in m.onnx.sig"):
        Predictor(signed, "cpu", key=key)
    Predictor(signed, "cpu")


@pytest.mark.parametrize("name", ["key.public", "x25519", "rsa", "encrypted", "none"])
def test_what_is_no_private_key(keys: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--sign"):
        PrivateKey.read(keys / f"{name}.pem")


@pytest.mark.parametrize("name", ["key", "x25519", "rsa", "none"])
def test_what_is_no_public_key(keys: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--verify-key"):
        PublicKey.read(keys / f"{name}.pem")


def test_a_key_is_read_up_to_a_bound(keys: Path, tmp_path: Path, command: Command, sample_model: Path) -> None:
    pem = (keys / "key.public.pem").read_text()
    for spare, accepted in ((0, True), (1, False)):
        path = tmp_path / "long.pem"
        path.write_text("x" * (LARGEST_KEY - len(pem) - 1 + spare) + "\n" + pem)
        if accepted:
            assert PublicKey.read(path) == PublicKey.read(keys / "key.public.pem")
        else:
            with pytest.raises(ConfigError, match="larger than 64 KiB"):
                PublicKey.read(path)
    for name, option in (("xserve", "--verify-key"), ("xexport", "--sign")):
        ended = command(name, sample_model, option, "/dev/zero")
        assert ended.code == 2 and f"{option} /dev/zero: is larger than 64 KiB" in ended.error


def test_a_new_export_leaves_no_old_signature(sample_run: Path, keys: Path, tmp_path: Path, command: Command) -> None:
    output = tmp_path / "m.onnx"
    assert command("xexport", str(sample_run), "-o", str(output), "--sign", str(keys / "key.pem")).code == 0
    PublicKey.read(keys / "key.public.pem").verify(output, onnxfile.sha256(output))
    assert command("xexport", str(sample_run), "-o", str(output), "--overwrite").code == 0
    assert not sidecar(output).exists()


def test_a_server_loads_signed_models_only(signed: Path, keys: Path, tmp_path: Path, command: Command) -> None:
    tokens = tmp_path / "admins"
    tokens.write_text("an-admin-of-sixteen\n")
    options = ("--verify-key", str(keys / "key.public.pem"), "--admin-tokens", str(tokens))
    shutil.copy(signed, signed.parent / "unsigned.onnx")
    with running(signed, tmp_path, *options) as client:
        headers = {"Authorization": "Bearer an-admin-of-sixteen"}
        refused = client.post("/v1/model", json={"path": "unsigned.onnx"}, headers=headers)
        assert refused.status_code == 422 and "no signature in unsigned.onnx.sig" in refused.text
        assert client.post("/v1/model", json={"path": "m.onnx"}, headers=headers).is_success
    unsigned = tmp_path / "unsigned.onnx"  # in another folder, where no choice of a server before is kept
    shutil.copy(signed, unsigned)
    ended = command("xserve", str(unsigned), *options)
    assert ended.code == 1 and "no signature" in ended.error
    ended = command("xserve", str(signed), "--verify-key", str(keys / "key.pem"))
    assert ended.code == 2 and "no public key of Ed25519" in ended.error


def test_an_empty_variable_opens_nothing(sample_model: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XTRAIN_VERIFY_KEY", "XTRAIN_TOKENS"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, "")
            ended = command("xserve", str(sample_model))
            assert ended.code == 2 and f"{variable} is set and empty" in ended.error


def test_a_signed_file_under_another_models_name(signed: Path, keys: Path) -> None:
    """In NAME/VERSION/model.onnx the folder names the model, and its owner is not who signed."""
    repository = ModelRepository(signed.parent, key=PublicKey.read(keys / "key.public.pem"))
    for name in ("sample", "lymph-node"):
        target = signed.parent / name / "1" / "model.onnx"
        target.parent.mkdir(parents=True)
        shutil.copy(signed, target)
        shutil.copy(sidecar(signed), sidecar(target))
    signed.unlink()
    loaded = {entry.name: entry for entry in repository.entries()}
    repository.load(loaded["sample"])
    with pytest.raises(ModelFileError, match="names the model 'sample'"):
        repository.load(loaded["lymph-node"])
