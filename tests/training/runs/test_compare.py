"""`xtrain show` and `xtrain compare` on real runs."""

import csv
import json
from pathlib import Path

from tests.conftest import Command, train
from training.runs import folder as run_folder
from training.runs.folder import open_run


def test_show(command: Command, sample_run: Path) -> None:
    result = command("xtrain", "show", sample_run)
    best = open_run(sample_run).best
    assert result.code == 0 and "official protocol, seed 22" in result.out and f"{best.accuracy:.4f} (" in result.out
    assert "optimizer        adam" in result.out and "850 train" in result.out and "torch" in result.out
    values = json.loads(command("xtrain", "show", sample_run, "--json").out)
    assert values["metrics"]["accuracy"] == best.accuracy and values["metrics"]["split"] == "val"
    assert values["settings"]["batch_norm"] is True and values["finished"]


def test_an_unfinished_run_says_how_to_go_on(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "simplecnn", "--data", tiny, "--epochs", 1)
    (run / run_folder.SUMMARY).unlink()
    assert f"unfinished: xtrain simplecnn --resume {run}" in command("xtrain", "show", run).out


def test_compare_shows_what_differs(command: Command, tiny: Path, tmp_path: Path) -> None:
    first = train(tmp_path / "a", "simplecnn", "--data", tiny, "--epochs", 1)
    second = train(tmp_path / "b", "simplecnn", "--data", tiny, "--epochs", 1, "--seed", 23, "--no-dropout")
    result = command("xtrain", "compare", first, second, "--csv", tmp_path / "all.csv")
    head, *rows, note = result.out.splitlines()
    assert head.split()[:3] == ["run", "seed", "dropout"] and "95 % interval" in head and len(rows) == 2
    assert rows[1].split()[:3] == [str(second), "23", "off"] and note.startswith("all validated on the same rows")
    table = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [row["seed"] for row in table] == ["22", "23"] and float(table[0]["low"]) <= float(table[0]["accuracy"])
    assert table[0]["protocol"] == "official" and table[0]["split"] == "val"
    assert "exists already" in command("xtrain", "compare", first, "--csv", tmp_path / "all.csv").error


def test_runs_on_other_rows_do_not_compare(command: Command, tiny: Path, sample_run: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "a", "simplecnn", "--data", tiny, "--epochs", 1)
    result = command("xtrain", "compare", run, sample_run)
    assert result.out.splitlines()[-1].startswith("the runs were validated on different rows")


def test_no_run(command: Command, tmp_path: Path) -> None:
    assert "name a run folder" in command("xtrain", "show", tmp_path).error


def test_a_table_never_replaces_a_run(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "a", "simplecnn", "--data", tiny, "--epochs", 1)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for name in run_folder.FILES:
        result = command("xtrain", "compare", run, "--csv", run / name, "--overwrite")
        assert result.code == 1 and "is read by this command" in result.error
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert "ends in .csv" in command("xtrain", "compare", run, "--csv", tmp_path / "x.xlsx").error
    assert "leave it out" in command("xtrain", "compare", run, "--overwrite").error
    result = command("xtrain", "compare", run, "--csv", "-")
    assert result.out.startswith("run,model,data,") and len(result.out.splitlines()) == 2
    assert "validated" not in result.out and "validation accuracy" in result.err
