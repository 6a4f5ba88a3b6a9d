"""The guard as a list of ASGI middleware, outermost first."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from vlm_serve.api.guard.keys import KeyRing
from vlm_serve.api.guard.middleware.access_log import AccessLog
from vlm_serve.api.guard.middleware.answer_timeout import AnswerTimeout
from vlm_serve.api.guard.middleware.authentication import Authentication
from vlm_serve.api.guard.middleware.body_limit import BodyLimit
from vlm_serve.api.guard.middleware.head_limit import HeadLimit
from vlm_serve.api.guard.middleware.origins import HostCheck, OriginCheck
from vlm_serve.api.guard.middleware.rate_limit import RateLimit
from vlm_serve.api.guard.middleware.security_headers import SecurityHeaders
from vlm_serve.api.guard.settings import ServerSettings


def guard_middleware(
    settings: ServerSettings, open_paths: frozenset[str], open_folders: tuple[str, ...] = ()
) -> list[Middleware]:
    """What every request passes before the interface sees it.

    `open_paths`, and the paths below `open_folders` (which end with `/`), need no API key: the page's files and
    `/health`. Raises `UserError` for a key file that can't be used.
    """
    layers = [Middleware(AccessLog, settings.access_log), Middleware(SecurityHeaders)]
    layers.append(Middleware(HeadLimit, settings.max_header_bytes))
    if settings.allowed_origins:
        layers.append(_cors(settings.allowed_origins))
    layers.append(Middleware(OriginCheck, settings.allowed_origins))
    if settings.keys_file is None:
        layers.append(Middleware(HostCheck, (settings.host, *settings.allowed_hosts)))
    else:
        paths = open_paths | {"/metrics"} if settings.open_metrics else open_paths
        layers.append(Middleware(Authentication, KeyRing(settings.keys_file), paths, open_folders))
    if settings.requests_per_minute is not None:
        layers.append(Middleware(RateLimit, settings.requests_per_minute, settings.burst))
    limits = settings.max_body_bytes, settings.max_pending_bytes, settings.body_timeout
    layers.append(Middleware(BodyLimit, *limits, several_owners=settings.keys_file is not None))
    layers.append(Middleware(AnswerTimeout, settings.answer_timeout))
    return layers


def _cors(origins: tuple[str, ...]) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "retry-after"),
        max_age=600,
    )
