"""The page of `xeval --report`: whole, self-contained, harmless, readable; in a real browser too."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from export.export import export_runs
from scoring.report.charts import roc_curve
from tests.browser import browser, needs_browser
from tests.conftest import Command, train
from tests.scoring.figures.rows import draw
from xtrain.data import catalog


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory, sample_run: Path) -> Path:
    """The sample's model with heatmaps."""
    from export.options import ExportOptions

    path = tmp_path_factory.mktemp("explained") / "sample.onnx"
    export_runs([sample_run], path, ExportOptions(explain=True))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, explained: Path, sample: Path) -> Path:
    from scoring.cli import evaluate

    path = tmp_path_factory.mktemp("page") / "report.html"
    words = [str(explained), str(sample), "--report", str(path), "--sets", "0.9", "--compare", str(explained)]
    evaluate.main(words, standalone_mode=False)
    return path


class Elements(HTMLParser):
    """Counts tags and keeps addresses; `unclosed` are the elements that never end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def test_the_page_holds_everything_and_loads_nothing(page: Path, sample: Path) -> None:
    text = page.read_text()
    elements = Elements(text)
    assert elements.open == [], "every element ends"
    assert "script" not in elements.count and "link" not in elements.count
    assert all(address.startswith("data:image/png;base64,") for address in elements.addresses)
    assert "default-src 'none'" in text and "not validated for diagnosis" in text
    for part in (
        "Figures",
        "Prediction sets",
        "McNemar",
        "Confusion",
        "Reliability",
        "AUGRC",
        "ROC",
        "How this was made",
    ):
        assert part in text, part
    for label in catalog.load(str(sample)).classes:
        assert text.count(label) >= 3
    assert elements.count["polyline"] == 2 + 1 + 9, "the diagonals, risk-coverage, a ROC curve a class"
    assert elements.count["img"] % 2 == 0 and elements.count["img"] >= 2 * 5 * 9, "each image with its heatmap"
    assert len(text) < 3_000_000
    assert "pathmnist-sample.npz --sets 0.9 --compare" in text, "the command, as it was called"


def test_the_same_command_writes_the_same_bytes(
    command: Command, explained: Path, sample: Path, tmp_path: Path
) -> None:
    pages = []
    for _ in range(2):
        words = [explained, sample, "--report", tmp_path / "r.html", "--overwrite", "--bootstrap", "20"]
        assert command("xeval", *words).code == 0
        pages.append((tmp_path / "r.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_report_replaces_nothing_by_accident(
    command: Command, sample_model: Path, sample: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.html").write_text("mine")
    result = command("xeval", sample_model, sample, "--report", tmp_path / "mine.html")
    assert result.code == 1 and "--overwrite" in result.error and (tmp_path / "mine.html").read_text() == "mine"
    result = command("xeval", sample_model, sample, "--report", tmp_path / "report.pdf")
    assert result.code == 2 and ".html" in result.error
    result = command("xeval", sample_model, sample, "--report", sample_model, "--overwrite")
    assert result.code == 1 and "would be replaced" in result.error
    assert command("xeval", sample_model, sample, "--overwrite").code == 2
    result = command(
        "xeval", sample_model, sample, "--report", tmp_path / "new.html", "--sets", "0.9", "--split", "val"
    )
    assert result.code == 2 and not (tmp_path / "new.html").exists()


def test_class_names_are_text_and_many_classes_are_a_list(command: Command, tmp_path: Path) -> None:
    """Names from a file that nobody trusts, and 45 classes, whose matrix nobody reads."""
    random, names = np.random.default_rng(0), [f"<script>alert({index})</script>\"&'" for index in range(45)]
    labels = np.repeat(np.arange(45), 4)
    arrays = {
        f"{split}_{kind}": random.integers(0, 256, (180, 28, 28, 3), np.uint8) if kind == "images" else labels
        for split in ("train", "val", "test")
        for kind in ("images", "labels")
    }
    np.savez(tmp_path / "hostile.npz", class_names=np.array(names), **arrays)
    export_runs(
        [train(tmp_path / "run", "simplecnn", "--data", tmp_path / "hostile.npz", "--epochs", 1)], tmp_path / "m.onnx"
    )
    result = command("xeval", tmp_path / "m.onnx", tmp_path / "hostile.npz", "--report", tmp_path / "r.html")
    assert result.code == 0, result.err
    text = (tmp_path / "r.html").read_text()
    elements = Elements(text)
    assert "script" not in elements.count and "&lt;script&gt;alert(0)" in text
    assert "taken for" in text and "classes with the smallest area" in text
    assert re.search(r"The 20 classes with the most mistakes, of 45", text)
    assert "without heatmaps" in text and elements.count["img"] <= 20 * 10


def test_the_area_under_a_roc_curve_is_the_auc() -> None:
    from scoring.figures.totals import OF_A_CLASS, measure

    rows = draw(150)
    for index in range(rows.classes):
        false, true = np.array(roc_curve(rows, index)).T
        assert np.trapezoid(true, false) == pytest.approx(measure(rows).classes[index, OF_A_CLASS.index("auc")])
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


@needs_browser
def test_the_page_in_a_browser(page: Path) -> None:
    """From the disk: no message on the console, every picture shown, no complaint of axe-core, a phone's width."""
    with browser() as chromium:
        tab = chromium.new_page(viewport={"width": 390, "height": 800})
        messages: list[str] = []
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
        tab.goto(page.as_uri())
        assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.locator(".confusion td").first.get_attribute("title")
        assert messages == []
        # axe-core runs as a script of the test's, which the page's own policy would not let in.
        bypassing = chromium.new_context(bypass_csp=True).new_page()
        bypassing.goto(page.as_uri())
        found = Axe().run(bypassing)
        assert found.violations_count == 0, found.generate_report()
