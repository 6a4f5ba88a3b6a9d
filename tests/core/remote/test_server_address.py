"""Addresses and keys: what is refused, and that a key is seen nowhere."""

import pytest

from vlm_core.errors import UserError
from vlm_core.remote.server import Server, server_at

KEY = "sk-secret-1234"


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://API.example.com/openai/v1", "https://api.example.com/openai/v1"),
        ("http://[::1]:80", "http://[::1]:80/v1"),
    ],
)
def test_an_address_ends_where_paths_begin(typed, url):
    assert server_at(typed).url == url


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("localhost:8000", "begin the server's address with http:// or https://"),
        ("ftp://host", "expected http://HOST:PORT"),
        ("http://", "expected http://HOST:PORT"),
        ("http://host:99999", "not an address"),
        ("http://a b", "expected http://HOST:PORT"),
        ("http://host/v1?key=x", "without \\? and #"),
        ("http://host/v 1", "without \\? and #"),
        ("http://host/v1/chat/completions", "name the address before /chat/completions"),
    ],
)
def test_what_is_no_address_is_refused(typed, message):
    with pytest.raises(UserError, match=message) as caught:
        server_at(typed)
    assert "key=x" not in str(caught.value)


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(UserError, match="--api-key-env") as caught:
        server_at(f"http://me:{KEY}@host")
    assert KEY not in str(caught.value)


def test_a_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("SERVER_KEY", f"{KEY}\n")
    server = server_at("http://host", "SERVER_KEY")
    assert server.key == KEY
    assert KEY not in repr(server)
    assert server_at("http://host").key is None, "no variable is read without being named"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SERVER_KEY", None, "SERVER_KEY: this environment variable is not set"),
        ("SERVER_KEY", " ", "not set, or empty"),
        ("SERVER_KEY", f"{KEY}\r\nX-Header: 1", "one word of ASCII characters"),
        ("SERVER_KEY", f"{KEY}é", "one word of ASCII characters"),
        (KEY, None, "expected the name of an environment variable"),
    ],
)
def test_a_wrong_key_is_refused_and_not_repeated(monkeypatch, variable, value, message):
    if value is not None:
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message) as caught:
        server_at("http://host", variable)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.0.0.9/v1", "http://[::1]/v1"])
def test_this_machine_is_asked_without_a_proxy(url):
    assert Server(url).is_local
    assert not Server("http://localhost.example.com/v1").is_local
    assert not Server("http://10.0.0.1/v1").is_local
