"""Routes of the page: `/`, and its files under `/page/DIGEST/`, which browsers may keep for ever."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vlm_serve.page.static_files import StaticFile, static_files

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy of the page: own scripts and styles alone, none inline, and no string becomes HTML."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
REVALIDATED = "no-cache"
KEPT = "public, max-age=31536000, immutable"


def routes() -> list[Route]:
    """The page at `/`; it speaks to `v1/` beside it, so it works under a path prefix, too."""
    return [
        Route("/", _index, name="page"),
        Route("/page/{digest}/{path:path}", _file, name="page_file"),
    ]


def _index(request: Request) -> Response:
    return _response(request, static_files().index, REVALIDATED)


def _file(request: Request) -> Response:
    """A file whose address holds another digest is of another version of the page: 404."""
    known = static_files()
    file = known.others.get(request.path_params["path"])
    if file is None or request.path_params["digest"] != known.digest:
        raise HTTPException(404, "The page has no such file.")
    return _response(request, file, KEPT)


def _response(request: Request, file: StaticFile, caching: str) -> Response:
    """The file, or 304 where the browser holds it already."""
    headers = {**HEADERS, "Cache-Control": caching, "ETag": file.etag}
    sent = request.headers.get("if-none-match", "")
    if file.etag in (tag.strip().removeprefix("W/") for tag in sent.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.content_type)
