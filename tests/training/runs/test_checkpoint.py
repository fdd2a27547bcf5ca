import pickle
from pathlib import Path

import pytest
import torch

from training.runs import checkpoint
from xtrain.data import catalog
from xtrain.errors import CheckpointError


def test_a_run_reads_back(sample_run: Path, sample: Path) -> None:
    best = checkpoint.load(sample_run)
    assert best.config.model == "simplecnn" and best.config.seed == 22
    assert best.spec.shape == (28, 28, 3) and best.spec.classes == catalog.load(str(sample)).classes
    assert best.data.protocol == "official" and best.data.rows == {"train": 850, "val": 150, "test": 302}
    logits = best.classifier()(torch.zeros(2, 28, 28, 3, dtype=torch.uint8))
    assert logits.shape == (2, 9)


def test_saving_again_gives_the_same(sample_run: Path, tmp_path: Path) -> None:
    first = checkpoint.load(sample_run)
    checkpoint.save(tmp_path / "again.pt", first)
    second = checkpoint.load(tmp_path / "again.pt")
    assert second.digest == first.digest and second.spec == first.spec and second.config == first.config


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never run",))


def test_what_needs_unpickling_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": 1, "weights": Evil()}, path)
    with pytest.raises(CheckpointError, match="will not be unpickled"):
        checkpoint.load(path)
    with open(tmp_path / "plain.pt", "wb") as file:
        pickle.dump(Evil(), file)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "plain.pt")
    assert capsys.readouterr().out == ""


def test_damage_is_found(sample_run: Path, tmp_path: Path) -> None:
    content = (sample_run / "best.pt").read_bytes()
    half = tmp_path / "half.pt"
    half.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.load(half)
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    flipped = tmp_path / "flipped.pt"
    flipped.write_bytes(changed)
    with pytest.raises(CheckpointError):
        checkpoint.load(flipped)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path)


def test_changed_weights_are_found(sample_run: Path, tmp_path: Path) -> None:
    content = torch.load(sample_run / "best.pt", weights_only=True)
    next(iter(content["weights"].values())).add_(1)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match="do not match their digest"):
        checkpoint.load(tmp_path / "changed.pt")


def test_another_format_is_named(sample_run: Path, tmp_path: Path) -> None:
    content = torch.load(sample_run / "best.pt", weights_only=True)
    torch.save({**content, "format": 99}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(tmp_path / "newer.pt")
