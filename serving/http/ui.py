"""The page at `/ui/`: the files of `serving/ui`, which ask the server they came from and nobody else."""

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from serving.http.context import context
from serving.http.errors import HTTPError

FOLDER = Path(__file__).resolve().parent.parent / "ui"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # ask whether it is still the same
}


@cache
def files() -> dict[str, tuple[bytes, str, str]]:
    """Return content, media type and entity tag of each file by its name; read once."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            found[path.name] = content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return found


async def redirect(request: Request) -> Response:
    """Send the browser to `/ui/`, below whatever path a proxy has put in front."""
    context(request).operation = "ui"
    return RedirectResponse("ui/", 308)


async def page(request: Request) -> Response:
    """Answer with a file of the page, or 304 where the browser has it.

    Raises:
        HTTPError: 404, there is no such file.
    """
    context(request).operation = "ui"
    name = request.path_params.get("name") or "index.html"
    if name not in files():
        raise HTTPError(404, "no file of the page has this name; it begins at /ui/")
    content, media_type, tag = files()[name]
    headers = {**HEADERS, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=f"{media_type}; charset=utf-8", headers=headers)


ROUTES = [Route("/ui", redirect), Route("/ui/", page), Route("/ui/{name}", page)]
