"""An engine whose answers take a while; run as a program, a server of it that is stopped by signals."""

import asyncio

from scripted_engine import ScriptedEngine

from vlm_serve.engine.request import Failed, Finished, Piece, Started


class SlowEngine(ScriptedEngine):
    """Answers after `seconds`, or fails what is left after the grace, as `Engine.close` promises."""

    seconds = 0.5

    def __init__(self):
        super().__init__()
        self.closing = None

    async def submit(self, request):
        self.requests.append(request)
        self.closing = self.closing or asyncio.Event()
        yield Started(1, 0)
        yield Piece("begun", 1)
        try:
            await asyncio.wait_for(self.closing.wait(), self.seconds)
        except TimeoutError:
            yield Finished("stop", 1)
        else:
            yield Failed("overloaded", "the server is shutting down")

    async def close(self, grace=30.0):
        if self.closing is not None:
            await asyncio.sleep(grace)
            self.closing.set()


def main():
    """Serve until a signal; `ready` is printed once the server listens. The grace is a minute."""
    from vlm_core.cli.output import say
    from vlm_serve.api.app import create_app
    from vlm_serve.api.guard.protocol import server_config
    from vlm_serve.api.guard.settings import ServerSettings
    from vlm_serve.cli.graceful import GracefulServer
    from vlm_serve.cli.listen import bound_socket

    settings, engine = ServerSettings(model=".", grace=60), SlowEngine()
    engine.closing = asyncio.Event()
    config = server_config(create_app(engine, settings), settings)
    with bound_socket("127.0.0.1", 0) as listener:
        GracefulServer(config, engine, settings.grace, lambda: say("ready")).run([listener])


if __name__ == "__main__":
    main()
