"""`vlm-serve MODEL`: from settings to a server that answers, and to its end."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from functools import partial

import torch

from vlm_core.cli.output import say
from vlm_core.errors import UserError
from vlm_core.model_folder.assemble import default_device
from vlm_core.runtime.verbosity import errors_only
from vlm_serve.api.app import create_app
from vlm_serve.api.guard.protocol import server_config
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.cli.graceful import GracefulServer
from vlm_serve.cli.listen import address_error, address_of
from vlm_serve.cli.watched import WatchedEngine, folder_version
from vlm_serve.engine.request import Engine
from vlm_serve.engine.settings import EngineSettings
from vlm_serve.engine.worker_process import WorkerPlan
from vlm_serve.engine.workers import Workers


def serve(settings: ServerSettings, sock: socket.socket) -> int:
    """Serve at a bound socket until a signal ends it -> exit code.

    Raises `UserError` for a model that can't be served, and once no worker can answer any more.
    """
    devices = _devices(settings)
    say(f"loading {settings.model} on {', '.join(devices)}", file=sys.stderr)
    start = partial(_start_engine, settings, devices)
    version = folder_version(settings.model)
    reload = start if settings.reload else None
    engine = WatchedEngine(start(), settings.model, version, settings.model_name, reload)
    try:
        with errors_only("asyncio"):  # it warns of every client that goes away
            failure = asyncio.run(_run(engine, settings, devices, sock))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise address_error(error, settings.host, settings.port) from None
    if failure is not None:
        raise failure
    return 0


def _devices(settings: ServerSettings) -> tuple[str, ...]:
    """The devices to use; `UserError` for one that torch does not know."""
    for device in settings.devices:
        try:
            kind = torch.device(device).type
        except (RuntimeError, ValueError):
            raise UserError(
                f"--device {device}: no device that torch knows; cpu, cuda and cuda:1 are some"
            ) from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(f"--device {device}: torch finds no CUDA device")
    return settings.devices or (default_device(),)


def engine_settings(settings: ServerSettings) -> EngineSettings:
    """The engine's part of the settings; what is not set keeps the engine's default."""
    values = {
        "slots": settings.max_slots,
        "state_bytes": settings.memory_bytes,
        "queue": settings.max_queue,
        "max_positions": settings.max_positions,
        "prefill_chunk": settings.prefill_chunk,
        "image_chunk": settings.image_chunk,
        "cache_bytes": settings.cache_bytes,
        "cache_folder": settings.cache_folder,
        "cache_folder_bytes": settings.cache_folder_bytes,
        "shared_cache": settings.shared_cache,
    }
    return EngineSettings(**{name: value for name, value in values.items() if value is not None})


def _start_engine(settings: ServerSettings, devices: tuple[str, ...]) -> Engine:
    plan = WorkerPlan(
        settings.model,
        engine_settings(settings),
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    return Workers(plan, devices, timeout=settings.worker_timeout)


async def _run(
    engine: WatchedEngine, settings: ServerSettings, devices: tuple[str, ...], sock: socket.socket
) -> UserError | None:
    """Serve until told to stop, or until no request can be answered -> why; then the engine is closed in any case."""

    def ready() -> None:
        say(f"{engine.facts().name} on {', '.join(devices)}: {address_of(sock)}")

    try:
        app = create_app(engine, settings)
        server = GracefulServer(server_config(app, settings), engine, settings.grace, ready)
        watching = asyncio.create_task(engine.watch())
        watching.add_done_callback(lambda _: server.stop())
        try:
            await server.serve(sockets=[sock])
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        return None if watching.cancelled() else watching.result()
    finally:
        await engine.close(0)
