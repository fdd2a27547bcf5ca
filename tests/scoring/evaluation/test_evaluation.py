"""`xeval` beyond its first figures: forms, prediction sets, comparisons, published results."""

import csv
import json
import re
from pathlib import Path

import medmnist
import numpy as np
import pytest

from export.export import export_runs
from scoring.evaluation.formats import escape_latex
from scoring.figures.baselines import METHODS, PUBLISHED, baselines
from scoring.figures.totals import OF_A_CLASS, TOTALS
from serving.model.predictor import Predictor
from tests.conftest import Command, train
from xtrain import api
from xtrain.data import catalog
from xtrain.data.datasets import read_npz
from xtrain.errors import ConfigError


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> list[Path]:
    """Two more seeds of the sample's model, of one epoch."""
    folder = tmp_path_factory.mktemp("others")
    for seed in (23, 24):
        run = train(folder / f"seed{seed}", "simplecnn", "--data", sample, "--epochs", 1, "--seed", seed)
        export_runs([run], folder / f"seed{seed}.onnx")
    return [folder / "seed23.onnx", folder / "seed24.onnx"]


def test_every_figure_has_its_interval_and_the_seed_repeats_it(
    command: Command, sample_model: Path, sample: Path
) -> None:
    outputs = [command("xeval", sample_model, sample, "--json").out for _ in range(2)]
    assert outputs[0] == outputs[1]
    report = json.loads(outputs[0])
    assert set(report["figures"]) == set(TOTALS) - {"quadratic_kappa"} and report["resamples"] == 1000
    for name, figure in report["figures"].items():
        low, high = figure["interval"]
        assert low <= figure["value"] <= high, name
    assert [entry["label"] for entry in report["classes"]] == list(catalog.load(str(sample)).classes)
    assert report["figures"]["accuracy"]["value"] == report["accuracy"]
    assert report["risk_coverage"][-1] == [1.0, pytest.approx(1 - report["accuracy"])]
    ordered = json.loads(command("xeval", sample_model, sample, "--json", "--ordinal", "--bootstrap", "0").out)
    assert ordered["figures"]["quadratic_kappa"]["interval"] is None and ordered["resamples"] == 0


def test_text_names_what_its_intervals_are(command: Command, sample_model: Path, sample: Path) -> None:
    text = command("xeval", sample_model, sample).out
    assert all(TOTALS[name].title in text for name in TOTALS if name != "quadratic_kappa")
    assert "1000 resamples within classes, seed 22" in text and "302 images" in text
    assert "resamples" not in command("xeval", sample_model, sample, "--bootstrap", "0").out


def test_csv_holds_every_figure_in_full(command: Command, sample_model: Path, sample: Path) -> None:
    lines = list(csv.DictReader(command("xeval", sample_model, sample, "--csv").out.splitlines()))
    totals = {line["figure"]: line for line in lines if not line["class"]}
    assert set(totals) == set(TOTALS) - {"quadratic_kappa"}
    assert len(lines) == len(totals) + 9 * len(OF_A_CLASS)
    test = read_npz(sample).splits["test"]
    assert (
        float(totals["accuracy"]["value"])
        == (Predictor(sample_model).predict(test.images).argmax(axis=1) == test.labels).mean()
    )
    assert all(float(line["low"]) <= float(line["value"]) <= float(line["high"]) for line in totals.values())


def test_markdown_and_latex_are_whole_tables(
    command: Command, sample_model: Path, others: list[Path], sample: Path
) -> None:
    compared = ["--compare", others[0], "--bootstrap", "50"]
    markdown = command("xeval", sample_model, sample, "--markdown", *compared).out
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert "official protocol, 302 images" in markdown.splitlines()[0]
    assert {line.count("|") for line in rows} == {4, 6} and "McNemar" in markdown
    latex = command("xeval", sample_model, sample, "--latex", *compared).out
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == latex.count("\\bottomrule") == 3
    for block in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", latex, re.DOTALL):
        cells = {line.count("&") for line in block[1].splitlines() if line.endswith("\\\\")}
        assert cells == {len(block[0]) - 1}
    assert not re.search(r"(?<!\\)%", "".join(line for line in latex.splitlines() if not line.startswith("%")))
    assert escape_latex("50 % of a_b & c\\d^e") == r"50 \% of a\_b \& c\textbackslash{}d\textasciicircum{}e"


def test_two_forms_are_one_too_many(command: Command, sample_model: Path, sample: Path) -> None:
    result = command("xeval", sample_model, sample, "--json", "--csv")
    assert result.code == 2 and "--json and --csv" in result.error
    result = command("xeval", sample_model, sample, "--csv", "--sets", "0.9")
    assert result.code == 2 and "use --json" in result.error


def test_prediction_sets_come_from_the_validation_rows(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    report = json.loads(command("xeval", sample_model, sample, "--sets", "0.9", "--json", "--bootstrap", "0").out)
    one, of_class = report["sets"]
    assert (one["method"], of_class["method"]) == ("lac", "class-conditional")
    assert one["calibration_rows"] == 150 and 0.8 < one["coverage"] <= 1 and 1 < one["mean_size"] < 9
    predictor, data = Predictor(sample_model), read_npz(sample)
    validation, test = data.splits["val"], data.splits["test"]
    chosen = np.sort(predictor.predict(validation.images)[np.arange(150), validation.labels])
    probabilities = predictor.predict(test.images)
    covered = probabilities[np.arange(302), test.labels] >= chosen[150 - 136]  # rank ceil(151 * 0.9) from the top
    assert one["coverage"] == covered.mean()
    text = command("xeval", sample_model, sample, "--sets", "0.9").out
    assert "150 validation rows" in text and "another centre" in text
    for split in ("val", "all"):
        assert command("xeval", sample_model, sample, "--sets", "0.9", "--split", split).code == 2
    with np.load(sample) as arrays:  # thresholds of rows that the model was trained on promise too much
        seen = {
            name.replace("train", "val") if "train" in name else name: arrays[name]
            for name in arrays
            if "val" not in name
        }
        np.savez(tmp_path / "seen.npz", **seen)
    result = command("xeval", sample_model, tmp_path / "seen.npz", "--sets", "0.9")
    assert result.code == 1 and "--sets" in result.error and "850 of these 850" in result.error
    assert command("xeval", sample_model, tmp_path / "seen.npz", "--sets", "0.9", "--allow-overlap").code == 0
    for wrong in ("1", "0.5", "nan", "90"):
        assert command("xeval", sample_model, sample, "--sets", wrong).code == 2


def test_models_are_compared_on_the_same_rows(
    command: Command, sample_model: Path, others: list[Path], sample: Path
) -> None:
    report = json.loads(command("xeval", sample_model, sample, "--compare", others[0], "--json").out)["comparison"]
    test = read_npz(sample).splits["test"]
    first, second = (
        Predictor(path).predict(test.images).argmax(axis=1) == test.labels for path in (sample_model, others[0])
    )
    assert report["figures"]["accuracy"]["difference"] == pytest.approx(first.mean() - second.mean())
    assert (report["only_first_right"], report["only_second_right"]) == (
        [int((first & ~second).sum())],
        [int((second & ~first).sum())],
    )
    assert report["seeds"] == 1 and report["rows"] == 302


def test_seeds_are_paired(command: Command, sample_model: Path, others: list[Path], sample: Path) -> None:
    pairs = ["--also", others[0], "--compare", others[1], "--compare", sample_model]
    result = command("xeval", sample_model, sample, *pairs, "--json", "--bootstrap", "20")
    assert json.loads(result.out)["comparison"]["seeds"] == 2
    for wrong in (["--also", others[0]], ["--also", others[0], "--compare", others[1]], ["--compare", others[0]] * 2):
        assert command("xeval", sample_model, sample, *wrong).code == 2


def test_published_predictions_in_the_evaluators_layout(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    """A file that MedMNIST's own evaluator writes of the model's probabilities is the model itself."""
    (tmp_path / "pathmnist.npz").symlink_to(sample)
    probabilities = Predictor(sample_model).predict(read_npz(sample).splits["test"].images)
    evaluator = medmnist.Evaluator("pathmnist", "test", root=str(tmp_path))
    figures = evaluator.evaluate(probabilities, save_folder=str(tmp_path), run="theirs")
    (written,) = tmp_path.glob("*@theirs.csv")
    report = json.loads(command("xeval", sample_model, sample, "--compare", written, "--json", "--bootstrap", "0").out)
    compared = report["comparison"]
    assert compared["second"] == written.stem and compared["p_values"] == [1.0]
    assert compared["figures"]["auc"]["second"] == pytest.approx(figures.AUC, abs=1e-6)
    assert abs(compared["figures"]["loss"]["difference"]) < 1e-6
    text = written.read_text().splitlines()
    for wrong, message in {
        "\n".join(text[:-1]): "1 of 302 rows have no line, the first is 301",
        "\n".join([*text, text[0]]): "line 303: row 0 stands in an earlier line",
        "\n".join([*text[:-1], "400" + text[-1][3:]]): "row 400 is outside 0-301",
        "\n".join(["0,2,0,0,0,0,0,0,0,0", *text[1:]]): "line 1: the scores are no probabilities",
        "\n".join(["0,1,0", *text[1:]]): "line 1 has 2 scores; the model has 9 classes",
        "\n".join(["ID,CLASS", *text[1:]]): "it must hold a row number and numbers alone",
        "\n".join(["0,nan,0,0,0,0,0,0,0,0", *text[1:]]): "no probabilities",
        "": "302 of 302 rows have no line",
    }.items():
        (tmp_path / "wrong.csv").write_text(wrong)
        result = command("xeval", sample_model, sample, "--compare", tmp_path / "wrong.csv")
        assert result.code == 1 and message in result.error


def test_a_rival_that_saw_the_rows_or_has_other_rows_is_refused(
    command: Command, sample_model: Path, sample: Path, kaggle: Path, tmp_path: Path
) -> None:
    """The same file whose splits are exchanged: the other model was trained on what this one is tested on."""
    with np.load(sample) as arrays:
        swapped = {name.replace("test", "train") if "test" in name else name: arrays[name] for name in arrays}
        swapped |= {name.replace("train", "test"): arrays[name] for name in arrays if "train" in name}
    np.savez(tmp_path / "swapped.npz", **swapped)
    run = train(tmp_path / "run", "simplecnn", "--data", tmp_path / "swapped.npz", "--epochs", 1)
    export_runs([run], tmp_path / "swapped.onnx")
    result = command("xeval", sample_model, sample, "--compare", tmp_path / "swapped.onnx")
    assert (
        result.code == 1 and "was trained on 302 of these 302 images" in result.error and "swapped.onnx" in result.error
    )
    result = command("xeval", sample_model, sample, "--compare", tmp_path / "none.onnx")
    assert result.code == 1 and "none.onnx" in result.error


def test_published_results_stand_beside_their_own_rows_only() -> None:
    assert set(PUBLISHED) == set(catalog.MEDMNIST) and {len(rows) for rows in PUBLISHED.values()} == {len(METHODS)}
    best = max(baselines("pathmnist_224", "official", "test"), key=lambda each: each.accuracy)
    assert (best.method, best.accuracy, best.auc) == ("ResNet-50 (28)", 0.911, 0.990)
    for other in (("pathmnist", "pooled", "test"), ("pathmnist", "official", "val"), ("mnist", "official", "test")):
        assert baselines(*other) == []


def test_the_python_function_takes_the_same_options(sample_model: Path, others: list[Path], sample: Path) -> None:
    evaluation = api.evaluate(sample_model, sample, sets=0.8, bootstrap=10, compare=[others[0]])
    assert evaluation.sets[0].level == 0.8 and evaluation.summary.resamples == 10
    assert evaluation.comparison is not None and evaluation.comparison.seeds == 1
    with pytest.raises(ConfigError, match="bootstrap"):
        api.evaluate(sample_model, sample, bootstrap=-1)
