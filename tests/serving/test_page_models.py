"""The page while models and files change under it: an answer never gets another model's names or another file's row."""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import onnx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import needs_browser
from tests.serving.server import process_of
from tests.serving.test_page import drop, model, tiles  # noqa: F401, fixtures

pytestmark = needs_browser
PREDICT = re.compile("/v1/predict")


def renamed(source: Path, target: Path, name: str, prefix: str = "") -> None:
    """Write a model with another name, and classes by which its answers are known."""
    file = onnx.load(source)
    properties = {item.key: item.value for item in file.metadata_props}
    card = json.loads(properties["card"])
    card["name"] = name
    card["classes"] = [f"{prefix}{label}" for label in card["classes"]]
    onnx.helper.set_model_props(file, {"card": json.dumps(card, sort_keys=True)})
    onnx.save(file, target)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("models")
    renamed(model, folder / "alpha.onnx", "alpha")
    renamed(model, folder / "beta.onnx", "beta", "grade of ")
    return folder


@pytest.fixture(scope="module")
def server(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, "subprocess.Popen[bytes]"]]:
    with process_of(place, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, server: tuple[httpx.Client, object]) -> Iterator[Page]:
    opened = chromium.new_page()
    opened.goto(f"{server[0].base_url}/ui/")
    expect(opened.locator("#card dl")).to_be_visible()
    yield opened
    opened.close()


def choose(page: Page, name: str) -> None:
    page.locator("#model").select_option(label=f"{name}, version 1")


def saved(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.locator("#download").click()
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_bytes().decode(), newline="")))


def check_all_by(page: Page, name: str, count: int) -> None:
    """All rows, on the page and in the CSV, are of one model and have its names."""
    expect(page.locator("#status")).to_contain_text(f"{count} of {count} classified", timeout=20_000)
    expect(page.locator("#card dl")).to_contain_text(f"{name}, version 1")
    rows = [row for row in saved(page) if not row["ERROR"]]
    assert rows and {row["MODEL"] for row in rows} == {name}
    assert {row["LABEL"].startswith("grade of ") for row in rows} == {name == "beta"}
    assert {label.startswith("P(grade of ") for label in rows[0] if label.startswith("P(")} == {name == "beta"}
    labels = page.locator(".result .bars dt").all_text_contents()
    assert labels and {label.startswith("grade of ") for label in labels} == {name == "beta"}


def once(page: Page, pattern: "re.Pattern[str]", act: Callable[[Route], None]) -> None:
    """Let the first request to an address fare otherwise."""
    page.route(pattern, act, times=1)


def test_another_model_answers_everything_anew(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    drop(page, tiles)
    check_all_by(page, "alpha", 4)
    choose(page, "beta")
    check_all_by(page, "beta", 4)


def test_a_late_card_of_a_model_that_is_not_chosen_any_more(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    def late(route: Route) -> None:
        time.sleep(1)
        route.continue_()

    drop(page, tiles)
    check_all_by(page, "alpha", 4)
    once(page, re.compile("/v1/model.*beta"), late)
    choose(page, "beta")
    choose(page, "alpha")
    time.sleep(1.5)
    check_all_by(page, "alpha", 4)


def test_a_card_that_cannot_be_read(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    drop(page, tiles)
    check_all_by(page, "alpha", 4)
    once(page, re.compile("/v1/model.*beta"), lambda route: route.fulfill(status=500, body="no"))
    choose(page, "beta")
    expect(page.locator("#failure")).to_contain_text("500")
    expect(page.locator(".result.answered, .result.unsure")).to_have_count(0)
    page.locator("#resume").click()
    check_all_by(page, "beta", 4)


def test_a_token_asked_for_in_the_middle_keeps_the_model(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    choose(page, "beta")
    refusal = json.dumps({"error": {"message": "a token is needed"}})
    once(page, PREDICT, lambda route: route.fulfill(status=401, body=refusal))
    drop(page, tiles)
    expect(page.locator("#access")).to_be_visible()
    page.locator("#token").fill("wörter")
    page.keyboard.press("Enter")
    expect(page.locator("#failure")).to_contain_text("letters that no token has")
    page.locator("#token").fill("words")
    page.keyboard.press("Enter")
    check_all_by(page, "beta", 4)


def test_a_file_that_was_replaced_classifies_all_anew(
    page: Page,
    server: tuple[httpx.Client, "subprocess.Popen[bytes]"],
    place: Path,
    model: Path,  # noqa: F811
    tiles: list[Path],  # noqa: F811
) -> None:
    """Under the same name and version, by SIGHUP; the page knows it by the digest in the next answer."""
    client, process = server
    drop(page, tiles)
    check_all_by(page, "alpha", 4)
    before = saved(page)[0]["SHA256"]
    renamed(model, place / "new", "alpha", "new ")
    (place / "new").replace(place / "alpha.onnx")
    os.kill(process.pid, signal.SIGHUP)
    for _ in range(100):
        if client.get("/v1/model?model=alpha").json()["sha256"] != before:
            break
        time.sleep(0.1)
    drop(page, tiles[:1])
    expect(page.locator("#status")).to_contain_text("5 of 5 classified")
    labels = page.locator(".result .bars dt").all_text_contents()
    assert len(labels) == 12 and all(label.startswith("new ") for label in labels)
    assert len({row["SHA256"] for row in saved(page)}) == 1 and saved(page)[0]["SHA256"] != before


def test_a_proxy_that_fails_for_a_moment_costs_nothing(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    page.route(PREDICT, lambda route: route.fulfill(status=502, body="bad gateway"), times=2)
    drop(page, tiles[:3])
    check_all_by(page, "alpha", 3)
    expect(page.locator(".result.error")).to_have_count(0)


def test_a_fault_of_the_server_stops_the_run_and_is_no_answer(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    once(page, PREDICT, lambda route: route.fulfill(status=500, body="no"))
    drop(page, tiles[:3])
    expect(page.locator("#failure")).to_contain_text("500")
    expect(page.locator("#status")).to_contain_text("0 of 3 classified")
    page.locator("#resume").click()
    check_all_by(page, "alpha", 3)


def test_a_file_that_changes_after_it_was_chosen_is_one_error(
    page: Page,
    tiles: list[Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    files = [Path(shutil.copy(tiles[index % 2], tmp_path / f"{index}.png")) for index in range(5)]

    def change(route: Route) -> None:
        files[1].write_bytes(b"another")
        files[3].unlink()
        route.abort()

    once(page, PREDICT, change)
    page.locator("#files").set_input_files(files)
    expect(page.locator("#status")).to_contain_text("5 of 5 classified, ")
    names = page.locator(".result.error .name").all_text_contents()
    assert names == ["1.png", "3.png"]
    expect(page.locator(".result.error .label").first).to_contain_text("has changed or is gone")


def test_each_heatmap_is_its_own_images(
    page: Page,
    server: tuple[httpx.Client, object],
    tiles: list[Path],  # noqa: F811
) -> None:
    drop(page, tiles[:3])
    expect(page.locator("#status")).to_contain_text("3 of 3 classified")
    for tile in tiles[:3]:
        item = page.locator(".result", has=page.get_by_text(tile.name, exact=True))
        item.hover()
        expect(item.locator(".heatmap")).to_be_visible()
        query = {"explain": "true", "model": "alpha"}
        answer = server[0].post("/v1/predict", params=query, files={"image": tile.read_bytes()}).json()
        shown = str(item.locator(".heatmap").get_attribute("src")).partition(",")[2]
        assert base64.b64decode(shown) == base64.b64decode(answer["predictions"][0]["heatmap"])


def test_removing_all_ends_the_run(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    asked: list[str] = []

    def slow(route: Route) -> None:
        asked.append(route.request.url)
        time.sleep(0.3)
        route.continue_()

    page.route(PREDICT, slow)
    drop(page, tiles[:2] * 40)
    page.locator("#clear").click()
    time.sleep(1)
    before = len(asked)
    time.sleep(1)
    assert len(asked) == before
    page.unroute(PREDICT)
    drop(page, tiles[2:3])
    check_all_by(page, "alpha", 1)


def test_the_keyboard_stays_where_it_is(page: Page, tiles: list[Path], tmp_path: Path) -> None:  # noqa: F811
    """A click on an image, answers that come in, another order, and buttons that go."""
    for index in range(130):
        shutil.copy(tiles[index % 2], tmp_path / f"{index:03}.png")
    page.locator("#folder").set_input_files(tmp_path)
    page.locator("#stop").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#resume")).to_be_focused()
    page.locator(".result", has_text="017.png").click()
    page.keyboard.press("Escape")
    page.locator("#resume").evaluate("(button) => button.click()")
    expect(page.locator("#status")).to_contain_text("130 of 130 classified", timeout=20_000)
    expect(page.locator(".result:focus .name")).to_contain_text("017.png")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_contain_text("017.png")
    page.keyboard.press("Escape")
    page.locator("#more").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".result:focus .name")).to_contain_text("120.png")


def test_two_servers_with_different_models_end_the_run(page: Page, tiles: list[Path]) -> None:  # noqa: F811
    """As behind a load balancer while a new model is rolled out: no endless uploads, and no mixed answers."""
    asked: list[str] = []

    def other(route: Route) -> None:
        asked.append(route.request.url)
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "sha256": "0" * 64})

    page.route(PREDICT, other)
    drop(page, tiles[:2])
    expect(page.locator("#failure")).to_contain_text("different models answer by turns", timeout=20_000)
    expect(page.locator("#status")).to_contain_text("0 of 2 classified")
    assert len(asked) <= 4
    page.unroute(PREDICT)
    page.locator("#resume").click()
    check_all_by(page, "alpha", 2)
