"""An exported file as a static folder: the page of the service, with the model and onnxruntime-web in the browser.

FOLDER/index.html             opened from a disk or served by anything that serves files
FOLDER/model.onnx             the file, unchanged, for HTTP; model-N.js hold it for a disk, up to `LARGEST` bytes
FOLDER/card.js                its card
FOLDER/ort.js, ort-wasm.js    onnxruntime-web

A browser loads scripts from a disk, and neither modules nor other files. So everything is a classic script.
"""

import base64
import gzip
import hashlib
import json
import shutil
from pathlib import Path

from serving.model import onnxfile
from serving.model.card import Card
from xtrain.errors import ConfigError
from xtrain.files import replacing_folder

VERSION = "1.30.0"  # of onnxruntime-web
FILES = {  # of its package, with their SHA-256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
LARGEST = 100 * 2**20  # bytes of a model that is opened from a disk; the browser holds it three times meanwhile
PIECE = 12 * 2**20  # bytes of it in one script
PAGE = Path(__file__).resolve().parent.parent.parent / "serving" / "ui"
SCRIPTS = Path(__file__).resolve().parent / "browser"
SERVER = '<script defer src="server.js"></script>\n'  # what the page loads to ask a server
BROWSER = ("card.js", "ort.js", "ort-wasm.js", "pixels.js", "decode.js", "local.js")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "worker-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


def write(model: Path, card: Card, folder: Path, runtime: Path | None = None, overwrite: bool = False) -> Path:
    """Write the folder; return it.

    Args:
        model: the exported file.
        card: inside it.
        folder: to write.
        runtime: folder of the npm package onnxruntime-web; None for `node_modules` here or above.
        overwrite: whether a folder of an earlier export may be replaced.

    Raises:
        ConfigError: the package is not there, or is another version.
        OutputError: the folder cannot be written, or holds something else.
    """
    module, wasm = (read_runtime(name, runtime) for name in FILES)
    with replacing_folder(folder, overwrite) as staged:
        for source in (*PAGE.iterdir(), *SCRIPTS.iterdir()):
            if source.suffix in (".css", ".js", ".txt") and source.name != "server.js":
                shutil.copyfile(source, staged / source.name)
        (staged / "index.html").write_text(index((PAGE / "index.html").read_text(encoding="utf-8")), encoding="utf-8")
        (staged / "ort.js").write_text(as_function(module.decode()), encoding="utf-8")
        packed = base64.b64encode(gzip.compress(wasm, 9, mtime=0)).decode()
        (staged / "ort-wasm.js").write_text(f'const ORT_WASM = "{packed}";\n', encoding="utf-8")
        _write_model(model, card, staged)
    return folder


def index(page: str) -> str:
    """Return the page's HTML with the scripts that compute in place of the one that asks a server."""
    assert SERVER in page and "<title>" in page
    scripts = "".join(f'<script defer src="{name}"></script>\n' for name in BROWSER)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>'
    return page.replace(SERVER, scripts).replace("<title>", policy, 1)


def read_runtime(name: str, folder: Path | None) -> bytes:
    """Return a file of onnxruntime-web.

    Raises:
        ConfigError: it is not there, or not that of `VERSION`.
    """
    here = Path.cwd()
    places = [folder] if folder else [place / "node_modules" / "onnxruntime-web" for place in (here, *here.parents)]
    advice = f"run `npm install onnxruntime-web@{VERSION}`, or name its folder with --onnxruntime-web"
    for place in places:
        path = place / "dist" / name
        if path.is_file():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != FILES[name]:
                raise ConfigError(f"--web: {path} is not that of onnxruntime-web {VERSION}; {advice}")
            return content
    raise ConfigError(f"--web: {name} of onnxruntime-web is not in {places[0]}; {advice}")


def as_function(module: str) -> str:
    """Return onnxruntime-web's module as a script with one function, `loadOrt`, which gives what it exports.

    From a disk no module is loaded; and the function's own text becomes part of a worker's.
    """
    code, _, exports = module.split("//# sourceMappingURL")[0].rstrip().rpartition("export{")
    local = dict(pair.split(" as ")[::-1] for pair in exports.removesuffix("};").split(","))
    returned = ",".join(f"{name}:{local[name]}" for name in ("InferenceSession", "Tensor", "env"))
    code = code.replace("import.meta.url", "location.href")
    return f'function loadOrt(){{"use strict";\n{code}return{{{returned}}};\n}}\n'


def _write_model(model: Path, card: Card, folder: Path) -> None:
    """Write the file, its pieces and its card."""
    shutil.copyfile(model, folder / "model.onnx")
    size = model.stat().st_size
    starts = range(0, size, PIECE) if size <= LARGEST else range(0)
    with open(model, "rb") as file:
        for number, _ in enumerate(starts):
            text = base64.b64encode(file.read(PIECE)).decode()
            (folder / f"model-{number}.js").write_text(f'addPiece("{text}");\n', encoding="utf-8")
    values = card.as_json()
    values.pop("training_rows")
    facts = {"card": values, "sha256": onnxfile.sha256(model), "bytes": size, "pieces": len(starts)}
    # JSON is JavaScript, and without its `<` no text in it can end the script.
    text = json.dumps(facts, ensure_ascii=True).replace("<", "\\u003c")
    (folder / "card.js").write_text(f"const MODEL = {text};\n", encoding="utf-8")
