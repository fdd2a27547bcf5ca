"""The page at /ui in a real browser, on real tiles; what needs the browser is skipped where there is none."""

import base64
import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from export.export import export_runs
from export.options import ExportOptions
from serving.model.predictor import Predictor
from tests.browser import needs_browser
from tests.conftest import DATA
from tests.serving.server import running

HOSTILE = '<img src=x onerror="document.title=1">.png'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, sample_run: Path) -> Path:
    path = tmp_path_factory.mktemp("page") / "sample.onnx"
    export_runs([sample_run], path, ExportOptions(explain=True))
    return path


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with running(model, tmp_path_factory.mktemp("server")) as client:
        yield client


@pytest.fixture
def page(chromium: Browser, server: httpx.Client) -> Iterator[Page]:
    """The page, opened; at the end nothing was asked of another host, and nothing has complained."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    opened, asked, complaints = context.new_page(), list[str](), list[str]()
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.goto(f"{server.base_url}/ui")
    expect(opened.locator("#card dl")).to_be_visible()
    yield opened
    assert all(url.startswith((str(server.base_url), "blob:", "data:")) for url in asked), asked
    assert not complaints
    context.close()


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of the real tiles, or noise; one under a name that is HTML; then a broken file."""
    folder = tmp_path_factory.mktemp("tiles")
    found = sorted((DATA / "tiles").glob("*.png"))[:6:2]
    files = [folder / name for name in ("a.png", "b.png", HOSTILE, "broken.png")]
    for index, file in enumerate(files[:3]):
        if found:
            shutil.copy(found[index], file)
        else:
            noise = np.random.default_rng(index).integers(0, 256, (224, 224, 3), np.uint8)
            Image.fromarray(noise).save(file)
    files[3].write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    return files


def drop(page: Page, files: list[Path]) -> None:
    """Drop files on the page as a person would: one event with all of them."""
    content = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
    transfer = page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, content] of files) {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: "image/png" }));
            }
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def expected(model: Path, tiles: list[Path]) -> list[dict[str, Any]]:
    """What the file itself says of the three."""
    predictor = Predictor(model, "cpu")
    probabilities = predictor.predict(tiles[:3])
    best = probabilities.argmax(axis=1)
    return [
        {"class": int(index), "label": predictor.card.classes[index], "probability": float(row[index])}
        for index, row in zip(best, probabilities, strict=True)
    ]


def test_its_files_come_with_a_policy_and_a_tag(server: httpx.Client) -> None:
    moved = server.get("/ui")
    assert moved.status_code == 308 and moved.headers["location"] == "ui/"
    answer = server.get("/ui/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    again = server.get("/ui/", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content
    for name in ("page.js", "style.css"):
        assert server.get(f"/ui/{name}").headers["x-content-type-options"] == "nosniff"
    for path in ("/ui/..%2fservice.py", "/ui/none.js", "/ui/a/b", "/uix", "/ui//index.html"):
        assert server.get(path).status_code == 404, path
    assert server.post("/ui/").status_code == 405
    assert 'route="ui"' in server.get("/metrics").text


@needs_browser
def test_tiles_that_are_dropped_get_the_models_answers(page: Page, model: Path, tiles: list[Path]) -> None:
    drop(page, tiles)
    expect(page.locator(".result.answered, .result.unsure")).to_have_count(3)
    expect(page.locator("#status")).to_contain_text("4 of 4 classified")
    expect(page.locator(".result.error")).to_contain_text("no image of a known format")
    for tile, answer in zip(tiles, expected(model, tiles), strict=False):
        item = page.locator(".result", has=page.get_by_text(tile.name, exact=True))
        expect(item.locator(".label")).to_contain_text(answer["label"])
        expect(item.locator(".bars dd").first).to_have_text(f"{100 * answer['probability']:.1f} %")
    assert page.title().startswith("xtrain")  # the name that is HTML is text

    page.locator(".result", has_text="a.png").hover()
    heatmap = page.locator(".result .heatmap")
    expect(heatmap).to_be_visible()
    assert page.evaluate("(image) => image.naturalWidth", heatmap.element_handle()) == 224


@needs_browser
def test_the_threshold_the_filters_and_the_order(page: Page, model: Path, tiles: list[Path]) -> None:
    answers = expected(model, tiles)
    drop(page, tiles)
    expect(page.locator("#status")).to_contain_text("4 of 4 classified")
    middle = sorted(answer["probability"] for answer in answers)[1]
    page.locator("#threshold").fill(f"{middle:.2f}")
    page.locator("#threshold").fill("1")
    expect(page.locator(".result.unsure")).to_have_count(sum(answer["probability"] < 1 for answer in answers))
    expect(page.locator(".result.unsure .label").first).to_contain_text("Not sure")
    page.locator("#threshold").fill("0")
    expect(page.locator(".result.answered")).to_have_count(3)

    page.locator("#order").select_option("surest")
    values = [
        float(text.removesuffix(" %"))
        for text in page.locator(".bars > div:first-child dd:first-of-type").all_text_contents()
    ]
    assert values == sorted(values, reverse=True) and len(values) == 3
    page.locator("#class").select_option(str(answers[0]["class"]))
    same = sum(answer["class"] == answers[0]["class"] for answer in answers)
    expect(page.locator(".result")).to_have_count(same)
    page.locator("#class").select_option("")
    page.locator("#low").fill(str(middle + 1e-6))
    expect(page.locator(".result")).to_have_count(1)
    page.locator("#low").fill("")
    page.locator("#state").select_option("error")
    expect(page.locator(".result .name")).to_have_text("broken.png")


@needs_browser
def test_the_results_as_csv(page: Page, model: Path, tiles: list[Path]) -> None:
    drop(page, tiles)
    expect(page.locator("#status")).to_contain_text("4 of 4 classified")
    with page.expect_download() as download:
        page.locator("#download").click()
    text = Path(download.value.path()).read_bytes().decode()
    rows = {row["FILE"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    for tile, answer in zip(tiles, expected(model, tiles), strict=False):
        row = rows[tile.name]
        assert int(row["CLASS"]) == answer["class"] and row["LABEL"] == answer["label"]
        assert float(row["PROBABILITY"]) == pytest.approx(answer["probability"], abs=1e-6)
        assert sum(float(row[name]) for name in row if name.startswith("P(")) == pytest.approx(1, abs=1e-5)
        assert row["UNSURE"] == str(answer["probability"] < 0.5).lower()
    assert rows["broken.png"]["CLASS"] == "" and "known format" in rows["broken.png"]["ERROR"]


@needs_browser
def test_by_keyboard_alone(page: Page, tiles: list[Path]) -> None:
    drop(page, tiles)
    expect(page.locator("#status")).to_contain_text("4 of 4 classified")
    page.locator(".result").first.focus()
    expect(page.locator(".result:focus .heatmap")).to_be_visible()
    for key, position in (("ArrowRight", 1), ("End", 3), ("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        expect(page.locator(".result").nth(position)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_visible()
    expect(page.locator("#detail .bars > div")).to_have_count(9)
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(page.locator(".result").nth(1)).to_be_focused()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(chromium: Browser, server: httpx.Client, tiles: list[Path], scheme: Any) -> None:
    """axe-core has no complaint, and nothing is wider than a phone's screen."""
    context = chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"{server.base_url}/ui/")
    drop(page, tiles)
    expect(page.locator("#status")).to_contain_text("4 of 4 classified")
    page.locator("#threshold").fill("0.95")
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".result").first.click()
    expect(page.locator("#detail")).to_be_visible()
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()
    context.close()


@needs_browser
def test_many_files_go_in_groups_and_a_stop_can_be_taken_back(page: Page, tiles: list[Path], tmp_path: Path) -> None:
    """The list grows by pages; what was stopped goes on."""
    for index in range(150):
        shutil.copy(tiles[index % 2], tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    page.locator("#folder").set_input_files(tmp_path)
    page.locator("#stop").click()
    expect(page.locator("#paused")).to_be_visible()
    page.locator("#resume").click()
    expect(page.locator("#status")).to_contain_text("150 of 150 classified", timeout=20_000)
    expect(page.locator("#skipped")).to_contain_text("1 file of the folder is no image")
    expect(page.locator(".result")).to_have_count(120)
    page.locator("#more").click()
    expect(page.locator(".result")).to_have_count(150)
    page.locator("#clear").click()
    expect(page.locator(".result")).to_have_count(0)


@needs_browser
def test_a_token_is_asked_for(chromium: Browser, sample_model: Path, tiles: list[Path], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a-token-of-sixteen\n")
    with running(sample_model, tmp_path, "--tokens", str(tmp_path / "tokens")) as client:
        page = chromium.new_page()
        page.goto(f"{client.base_url}/ui/")
        expect(page.locator("#access")).to_be_visible()
        page.locator("#token").fill("a-wrong-token")
        page.keyboard.press("Enter")
        expect(page.locator("#failure")).to_contain_text("token")
        page.locator("#token").fill("a-token-of-sixteen")
        page.keyboard.press("Enter")
        expect(page.locator("#card dl")).to_be_visible()
        expect(page.locator("#access")).to_be_hidden()
        drop(page, tiles[:1])
        expect(page.locator("#status")).to_contain_text("1 of 1 classified")
        page.close()


@needs_browser
def test_the_server_goes_away(chromium: Browser, sample_model: Path, tiles: list[Path], tmp_path: Path) -> None:
    page = chromium.new_page()
    with running(sample_model, tmp_path) as client:
        page.goto(f"{client.base_url}/ui/")
        expect(page.locator("#card dl")).to_be_visible()
    drop(page, tiles)
    expect(page.locator("#failure")).to_contain_text("does not answer")
    expect(page.locator("#paused")).to_be_visible()
    page.close()
