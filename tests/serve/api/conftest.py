"""A server on a tiny model, and clients of it."""

import asyncio
import base64
import io

import openai
import pytest
from live_server import asgi_client, live_server
from PIL import Image
from simple_engine import SimpleEngine

from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings


@pytest.fixture(scope="session")
def loaded(tiny_folder):
    """(model, spec); tests don't change them."""
    from vlm_core.model_folder.assemble import load

    return load(tiny_folder)


@pytest.fixture
def engine(loaded, one_thread):
    model, spec = loaded
    return SimpleEngine(model, spec.template)


@pytest.fixture
def settings(tiny_folder):
    return ServerSettings(model=tiny_folder)


@pytest.fixture
def app(engine, settings):
    return create_app(engine, settings)


@pytest.fixture
def client(app):
    """An HTTP client without a socket."""
    return asgi_client(app)


@pytest.fixture
def ask(app):
    """`ask(lambda client: client.chat.completions.create(…))` with the async client, without a socket -> the result.

    A stream is read to its end -> the list of its chunks.
    """

    async def run(call):
        async with asgi_client(app) as http:
            client = openai.AsyncOpenAI(
                api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0
            )
            result = await call(client)
            return [chunk async for chunk in result] if isinstance(result, openai.AsyncStream) else result

    with asyncio.Runner() as runner:  # one loop: engines belong to theirs
        yield lambda call: runner.run(run(call))


@pytest.fixture
def server(app, settings):
    """(host, port) of a real server."""
    with live_server(app, settings) as address:
        yield address


@pytest.fixture(scope="session")
def data_url():
    """`data_url("red")`: an image as a data URL."""

    def encoded(color, size=(32, 32)):
        file = io.BytesIO()
        Image.new("RGB", size, color).save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    return encoded
