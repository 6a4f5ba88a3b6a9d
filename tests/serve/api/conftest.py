"""A server on a tiny model, and clients of it."""

import pytest
from live_server import asgi_client, live_server
from openai import AsyncOpenAI
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
def openai_async(client):
    return AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=client, max_retries=0)


@pytest.fixture
def server(app):
    """(host, port) of a real server."""
    with live_server(app) as address:
        yield address
