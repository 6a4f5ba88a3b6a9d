"""`/v1/models`, and what tells that the server lives and what it does."""

from __future__ import annotations

from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vlm_serve.api.server import Server, server_of


def _model(server: Server) -> dict[str, Any]:
    """A model as OpenAI's API has it, and what the page and `vlm-bench run --url` ask besides."""
    facts = server.engine.facts()
    return {
        "id": facts.name,
        "object": "model",
        "created": server.created,
        "owned_by": "vlm-serve",
        "digest": facts.digest,
        "images": facts.images,
        "videos": facts.videos,
        "system": facts.system,
        "max_positions": facts.max_positions,
    }


async def list_models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model(server_of(request))]})


async def retrieve_model(request: Request) -> Response:
    server = server_of(request)
    server.facts(request.path_params["model"])
    return JSONResponse(_model(server))


async def health(request: Request) -> Response:
    """200 if requests can be answered, 503 while no worker is ready; neither waits for the engine.

    "degraded" with 200: some workers are not ready. Why, only the log says: no key is needed here.
    """
    engine = server_of(request).engine
    stats = engine.stats()
    workers, alive = int(stats.get("workers", 1)), int(stats.get("workers_ready", 1))
    ready = alive > 0 and engine.failure() is None
    status = "unavailable" if not ready else "ok" if alive == workers else "degraded"
    body: dict[str, object] = {"status": status, "model": engine.facts().name}
    if "workers" in stats:
        body |= {"workers": workers, "workers_ready": alive}
    if "model_folder_changed" in stats:
        body["model_folder_changed"] = bool(stats["model_folder_changed"])
    return JSONResponse(body, 200 if ready else 503)


async def metrics(request: Request) -> Response:
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(server_of(request).metrics.registry), headers={"Content-Type": content_type})
