"""`--web`: the folder in a real browser without a network, and its pixels and probabilities in node."""

import base64
import functools
import http.server
import io
import json
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image, ImageCms
from playwright.sync_api import Page, expect

from export.export import export_runs
from export.options import ExportOptions
from export.package import package_file
from export.targets import web
from serving.model.predictor import Predictor
from tests.browser import browser, needs_browser
from tests.conftest import DATA, ROOT
from xtrain.errors import ConfigError, OutputError
from xtrain.images import decode_image
from xtrain.images.conversion import eight_bit, fit

RUNTIME = ROOT / "build" / "node_modules" / "onnxruntime-web"
NODE = shutil.which("node")
needs_runtime = pytest.mark.skipif(
    not RUNTIME.is_dir(), reason=f"needs npm's onnxruntime-web in {RUNTIME}; `make test` puts it there"
)
needs_node = pytest.mark.skipif(NODE is None, reason="needs node")


def node(script: str, value: Any) -> Any:
    """Run a script with `input` as its value; return what it gives to `output`."""
    program = (
        "let text = ''; process.stdin.on('data', (part) => { text += part; });"
        "process.stdin.on('end', async () => { const input = JSON.parse(text);"
        "const output = (value) => process.stdout.write(JSON.stringify(value));"
        f"{script} }});"
    )
    command = [str(NODE), "-e", program]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(value), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text_of(array: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def tiles() -> list[Path]:
    return sorted(path for path in (DATA / "tiles").glob("*") if path.suffix in (".png", ".tif"))


@needs_node
def test_pixels_are_pillows_to_the_last_bit() -> None:
    """Every size up and down, the three known tiles, grey from colour, and every value under every alpha."""
    random = np.random.default_rng(22)
    cases, expected = [], []

    def add(source: NDArray[np.uint8], shape: tuple[int, int, int], result: NDArray[np.uint8]) -> None:
        height, width, channels = (*source.shape, 1)[:3]
        cases.append({"height": height, "width": width, "channels": channels, "data": text_of(source), "shape": shape})
        expected.append(text_of(result))

    sizes = [1, 2, 3, 5, 7, 13, 27, 28, 29, 31, 56, 63, 64, 65, 97, 128, 223, 224, 225]
    for index in range(300):
        width, height, *target = (int(side) for side in random.choice(sizes, 4))
        channels = 3 if index % 2 else 1
        source = random.integers(0, 256, (height, width, channels), np.uint8).squeeze(2 if channels == 1 else ())
        source = np.where(source > 127, 255, 0).astype(np.uint8) if index % 5 == 0 else source
        shape = (*target, 3 if index % 3 else 1)
        add(source, shape, fit(Image.fromarray(source), shape))
    values, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    transparent = np.dstack([values, 255 - values, np.roll(values, 7, 1), alphas])
    add(transparent, (256, 256, 3), np.asarray(eight_bit(Image.fromarray(transparent))))
    for tile in tiles():
        image = decode_image(tile.read_bytes())
        for shape in ((28, 28, 3), (28, 28, 1), (37, 91, 3)):
            add(np.asarray(image), shape, fit(image, shape))

    measured = node(
        """require("./export/targets/browser/pixels.js");
        output(input.map(({ width, height, channels, data, shape }) => Buffer.from(globalThis.xtrain.pixels.fit(
            { width, height, channels, data: Buffer.from(data, "base64") }, shape)).toString("base64")));""",
        cases,
    )
    assert len(measured) == len(expected) > 300
    assert [index for index, pair in enumerate(zip(measured, expected, strict=True)) if pair[0] != pair[1]] == []


@needs_node
@needs_runtime
def test_node_gives_the_probabilities_of_python(sample_model: Path) -> None:
    """A second runtime for the exported file, unchanged."""
    images = np.random.default_rng(22).integers(0, 256, (16, 28, 28, 3), np.uint8)
    measured = node(
        """const ort = await import(input.module);
        const session = await ort.InferenceSession.create(require("node:fs").readFileSync(input.model));
        const pixels = new ort.Tensor("uint8", Buffer.from(input.images, "base64"), [16, 28, 28, 3]);
        const { probabilities } = await session.run({ images: pixels });
        output([...probabilities.data]); process.exitCode = 0;""",
        {
            "module": str(RUNTIME / "dist" / "ort.wasm.bundle.min.mjs"),
            "model": str(sample_model),
            "images": text_of(images),
        },
    )
    expected = Predictor(sample_model, "cpu").predict(images)
    np.testing.assert_allclose(np.reshape(measured, expected.shape), expected, atol=1e-5)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, sample_run: Path) -> Path:
    if not RUNTIME.is_dir():
        pytest.skip(f"needs npm's onnxruntime-web in {RUNTIME}; `make test` puts it there")
    place = tmp_path_factory.mktemp("web")
    options = ExportOptions(explain=True, web=place / "site", onnxruntime_web=RUNTIME)
    export_runs([sample_run], place / "m.onnx", options)
    return place / "site"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["file", "http"])
def page(request: pytest.FixtureRequest, site: Path) -> Iterator[Page]:
    """The page, with the network cut as soon as it has its model."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = site.as_uri() if request.param == "file" else f"http://127.0.0.1:{server.server_port}"
    try:
        with browser() as opened_browser:
            context = opened_browser.new_context(offline=request.param == "file")
            opened, asked, complaints = context.new_page(), list[str](), list[str]()
            opened.on("request", lambda one: asked.append(one.url))
            opened.on("pageerror", lambda error: complaints.append(str(error)))
            opened.on("console", lambda message: complaints.append(message.text))
            opened.goto(f"{address}/index.html")
            expect(opened.locator("#card dl")).to_be_visible(timeout=30_000)
            context.set_offline(True)
            yield opened
            assert all(url.startswith((address, "blob:", "data:")) for url in asked), asked
            assert not complaints
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@needs_browser
@needs_runtime
def test_the_folder_classifies_without_a_network(page: Page, site: Path, tmp_path: Path) -> None:
    files = tiles()[::4]
    if not files:
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "noise.png")
        files = [tmp_path / "noise.png"]
    photo = tmp_path / "photo.jpg"  # browsers and Pillow decode JPEG by the same library
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)).save(photo, quality=80)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    page.locator("#files").set_input_files([*files, photo, tmp_path / "broken.png"])
    expect(page.locator("#status")).to_contain_text(f"{len(files) + 2} of {len(files) + 2} classified", timeout=30_000)
    expect(page.locator(".result.error")).to_contain_text("damaged")
    with page.expect_download() as download:
        page.locator("#download").click()
    lines = Path(download.value.path()).read_text().splitlines()[1:]
    rows = {line.split(",")[0]: line.split(",")[-9:] for line in lines}
    predictor = Predictor(site / "model.onnx", "cpu")
    for file in (*files, photo):
        np.testing.assert_allclose(np.float32(rows[file.name]), predictor.predict(file)[0], atol=1e-5)
    item = page.locator(".result", has=page.get_by_text(photo.name, exact=True))
    item.hover()
    expect(item.locator(".heatmap")).to_be_visible()
    if page.url.startswith("http"):  # from a disk axe-core cannot read the style sheet
        assert not Axe().run(page).violations_count


def deep_with_alpha() -> bytes:
    """A PNG of 16 bits a channel, grey and alpha, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = struct.pack(">x4H", 60_000, 65_535, 30_000, 32_768)  # one row, no filter
    header = struct.pack(">2I5B", 2, 1, 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def encodings() -> Iterator[tuple[str, bytes]]:
    """The same small picture as many kinds of file: name and content."""
    random = np.random.default_rng(5)
    image = Image.fromarray(random.integers(0, 256, (37, 53, 3), np.uint8))
    alpha = Image.fromarray(random.integers(0, 256, (37, 53, 4), np.uint8))
    grey = image.convert("L")
    deep = Image.fromarray(random.integers(0, 65_536, (37, 53), np.uint16))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    exif = Image.Exif()
    exif[274] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

    def made(source: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        source.save(buffer, kind, **options)
        return buffer.getvalue()

    for name, source in {
        "rgb": image,
        "alpha": alpha,
        "grey": grey,
        "palette": image.quantize(40),
        "deep": deep,
    }.items():
        yield f"png {name}", made(source, "PNG")
        if name != "deep":
            yield f"tiff {name}", made(source, "TIFF")
    yield "png one bit", made(grey.convert("1"), "PNG")
    yield "png with a profile", made(image, "PNG", icc_profile=profile)
    yield "png turned", made(image, "PNG", exif=exif)
    yield "png dark of 16 bits", made(Image.fromarray(np.full((9, 9), 4000, np.uint16)), "PNG")
    yield "png of 16 bits with a transparent grey", made(deep, "PNG", transparency=4000)
    yield "png of 16 bits with alpha", deep_with_alpha()
    yield "png in two frames", made(image, "PNG", save_all=True, append_images=[image.rotate(180)])
    yield "png cut off", made(image, "PNG")[:-400]
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield f"jpeg {subsampling}", made(image, "JPEG", subsampling=subsampling, quality=70)
    yield "jpeg progressive", made(image, "JPEG", progressive=True)
    yield "jpeg grey", made(grey, "JPEG")
    yield "jpeg cmyk", made(image.convert("CMYK"), "JPEG")
    yield "jpeg with a profile", made(image, "JPEG", icc_profile=profile)
    yield "jpeg turned", made(image, "JPEG", exif=exif)
    yield "jpeg turned by xmp", made(image, "JPEG", xmp=xmp)
    yield "jpeg of two", made(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    yield "webp", made(image, "WEBP", lossless=True)
    yield "webp alpha", made(alpha, "WEBP", lossless=True, exact=True)
    yield "webp turned", made(image, "WEBP", exif=exif)
    yield "bmp", made(image, "BMP")
    for compression in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        yield f"tiff {compression}", made(image, "TIFF", compression=compression)
    yield "tiff predictor", made(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    yield "tiff turned", made(image, "TIFF", tiffinfo={274: 6})
    yield "gif", made(image, "GIF")
    yield "text", b"no image at all"


@needs_browser
@needs_runtime
def test_every_encoding_is_decoded_as_by_the_server_or_refused(page: Page) -> None:
    """Chromium's bytes against Pillow's: what differs must be refused, whatever the browser makes of it."""
    if not page.url.startswith("file"):
        return
    files = dict(encodings())
    measured = page.evaluate(
        """async (files) => {
            const results = {};
            for (const [name, content] of Object.entries(files)) {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                try {
                    const picture = await globalThis.xtrain.decode(new File([bytes], name));
                    results[name] = [...globalThis.xtrain.pixels.fit(picture, [20, 24, 3])];
                } catch (error) {
                    results[name] = error.message;
                }
            }
            return results;
        }""",
        {name: base64.b64encode(content).decode() for name, content in files.items()},
    )
    decoded = []
    for name, content in files.items():
        if isinstance(measured[name], str):
            continue
        expected = fit(decode_image(content), (20, 24, 3))  # the server takes whatever the browser takes
        assert measured[name] == expected.ravel().tolist(), name
        decoded.append(name)
    refused = set(files) - set(decoded)
    assert refused == {
        *(
            "png dark of 16 bits",
            "png of 16 bits with a transparent grey",
            "png of 16 bits with alpha",
            "png in two frames",
            "png cut off",
            "jpeg turned by xmp",
            "jpeg of two",
            "webp turned",
        ),
        *("tiff alpha", "tiff palette", "tiff jpeg", "tiff turned", "gif", "text"),
    }, {name: measured[name] for name in refused}
    transparent = {measured[f"png of 16 bits with {what}"] for what in ("a transparent grey", "alpha")}
    assert transparent == {"a PNG of 16 bits a channel with transparency; save 8 bits a channel"}


@needs_browser
@needs_runtime
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("references", "computes other probabilities"),
        ("canvas", "changes the pixels"),
        ("ort-wasm.js", "copy the folder whole"),
        ("model-0.js", "copy the folder whole"),
    ],
)
def test_a_browser_or_a_copy_that_would_answer_otherwise_is_told(
    site: Path, tmp_path: Path, spoil: str, message: str
) -> None:
    copy = shutil.copytree(site, tmp_path / "site")
    if spoil == "references":
        text = (copy / "card.js").read_text()
        facts = json.loads(text.removeprefix("const MODEL = ").rstrip(";\n"))
        facts["card"]["references"]["probabilities"][0][0] += 0.01
        (copy / "card.js").write_text(f"const MODEL = {json.dumps(facts)};")
    elif spoil != "canvas":
        (copy / spoil).unlink()
    with browser() as opened:
        page = opened.new_page()
        if spoil == "canvas":
            page.add_init_script(
                "const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;"
                "OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...place) {"
                "const image = read.apply(this, place); image.data[4] ^= 1; return image; };"
            )
        page.goto(f"{copy.as_uri()}/index.html")
        expect(page.locator("#failure")).to_contain_text(message, timeout=20_000)


def test_without_the_runtime_nothing_is_written(sample_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="npm install onnxruntime-web"):
        package_file(sample_model, ExportOptions(web=tmp_path / "site", onnxruntime_web=tmp_path))
    (tmp_path / "dist").mkdir()
    for name in web.FILES:
        (tmp_path / "dist" / name).write_bytes(b"another version")
    with pytest.raises(ConfigError, match=f"not that of onnxruntime-web {web.VERSION}"):
        package_file(sample_model, ExportOptions(web=tmp_path / "site", onnxruntime_web=tmp_path))
    assert not (tmp_path / "site").exists()


@needs_runtime
def test_a_folder_of_somebody_else_is_kept(sample_model: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("somebody's")
    with pytest.raises(OutputError, match="no export wrote"):
        package_file(sample_model, ExportOptions(web=tmp_path / "site", onnxruntime_web=RUNTIME, overwrite=True))
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
