"""Limits of bytes and time on real connections: slow heads, slow bodies, clients that don't read."""

import asyncio
import socket
import time
from unittest.mock import Mock

import pytest
from guarded_server import application, error, head, response, served, until_closed
from uvicorn.server import ServerState

from vlm_serve.api.guard.protocol import limited_protocol, server_config
from vlm_serve.api.guard.settings import ServerSettings


@pytest.fixture(scope="module")
def server():
    settings = ServerSettings(
        model=".",
        header_timeout=0.4,
        body_timeout=0.4,
        send_timeout=0.5,
        answer_timeout=0.6,
        max_body_bytes=1000,
        max_pending_bytes=1500,
        max_header_bytes=4096,
    )
    app = application(settings)
    with served(app, settings) as address:
        yield app, address


@pytest.fixture
def connection(server):
    with socket.create_connection(server[1]) as opened:
        yield opened


def test_too_many_connections():
    settings = ServerSettings(model=".", max_connections=2)
    with served(application(settings), settings) as address:
        opened = [socket.create_connection(address) for _ in range(3)]
        time.sleep(0.2)
        opened[0].sendall(head("/health", method="GET"))
        status, refusal = error(opened[0])
        assert (status, refusal["code"]) == (503, "overloaded")
        opened[0].close()
        time.sleep(0.2)
        opened[1].sendall(head("/health", method="GET"))
        assert response(opened[1]) == (200, "ok")
        for connection in opened[1:]:
            connection.close()


def test_another_protocol_is_not_spoken_and_not_logged(connection, caplog):
    connection.sendall(head("/v1/echo", "content-length: 0", "connection: upgrade", "upgrade: websocket"))
    assert response(connection)[0] == 200
    assert "upgrade" not in caplog.text.lower()


def test_a_connection_without_a_request_is_closed(connection):
    assert error(connection)[0] == 408


def test_a_slow_head_is_ended(connection):
    """Slow loris: a byte now and then keeps no connection open."""
    start = time.monotonic()
    for byte in head("/v1/echo"):
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            break
        time.sleep(0.05)
        if time.monotonic() - start > 3:
            break
    assert time.monotonic() - start < 2
    assert error(connection)[0] == 408


def test_the_head_of_a_second_request_has_the_limit_too(connection):
    connection.sendall(head("/v1/echo", "content-length: 0"))
    assert response(connection)[0] == 200
    connection.sendall(b"POST /v1/ec")
    assert error(connection)[0] == 408


def test_a_large_head_is_refused(connection):
    connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 8000)
    assert error(connection)[0] == 400


def test_a_large_head_that_comes_at_once_is_refused(connection):
    connection.sendall(head("/v1/echo", "x: " + "y" * 4096, "content-length: 0"))
    status, fault = error(connection)
    assert (status, fault["code"]) == (431, "head_too_large")


@pytest.mark.parametrize("text", [b"\0" * 50 + b"\r\n\r\n", b"HELO\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_refused(connection, text):
    connection.sendall(text)
    assert error(connection)[0] == 400


def test_a_slow_body_is_ended(connection):
    connection.sendall(head("/v1/echo", "content-length: 100") + b"x")
    status, fault = error(connection)
    assert (status, fault["code"]) == (408, "body_timeout")


def test_an_announced_size_is_refused_before_the_body_comes(connection):
    connection.sendall(head("/v1/echo", "content-length: 1001"))
    status, fault = error(connection)
    assert (status, fault["message"]) == (
        413,
        "The request's body has more than the 1000 bytes that are allowed.",
    )


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "0x1"])
def test_sizes_that_are_no_numbers(connection, length):
    connection.sendall(head("/v1/echo", f"content-length: {length}"))
    assert error(connection)[0] in (400, 413)


def test_a_chunked_body_is_counted(connection):
    connection.sendall(head("/v1/echo", "transfer-encoding: chunked") + b"400\r\n" + b"x" * 1024 + b"\r\n")
    assert error(connection)[0] == 413


def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(connection):
    size = 3_000_000
    connection.sendall(head("/v1/echo", f"content-length: {size}") + b"x" * size)
    assert error(connection)[0] == 413
    connection.sendall(head("/v1/echo", "content-length: 0"))
    assert response(connection)[0] == 200


def test_bodies_of_all_requests_together_are_limited(server):
    _, address = server
    with socket.create_connection(address) as first, socket.create_connection(address) as second:
        first.sendall(head("/v1/late", "content-length: 900") + b"x" * 900)
        time.sleep(0.1)
        second.sendall(head("/v1/echo", "content-length: 900") + b"x" * 900)
        status, fault = error(second)
        assert (status, fault["code"]) == (503, "overloaded")
        assert error(first)[0] == 504
        second.sendall(head("/v1/echo", "content-length: 900") + b"x" * 900)
        assert response(second)[0] == 200, "the bytes of an ended request are free again"


def test_a_client_that_does_not_read_is_disconnected(server):
    app, address = server
    with socket.create_connection(address) as connection:
        connection.sendall(head("/v1/flood", method="GET"))
        deadline = time.monotonic() + 5
        while getattr(app.state, "flood", "") != "ended":
            assert time.monotonic() < deadline, "the answer of a client that reads nothing goes on"
            time.sleep(0.05)


@pytest.mark.parametrize("left", [0, 100])
def test_the_end_of_an_answer_must_be_read_too(left):
    """Less than what pauses writing stays in the transport's buffer, whose closing waits for the client."""
    settings = ServerSettings(model=".", send_timeout=0.05)
    config = server_config(application(settings), settings)
    transport = Mock()
    transport.get_write_buffer_size.return_value = 100

    async def run():
        protocol = limited_protocol(settings)(config, ServerState(), {})
        protocol.connection_made(transport)
        protocol.on_response_complete()
        transport.get_write_buffer_size.return_value = left
        await asyncio.sleep(0.2)
        protocol.connection_lost(None)

    asyncio.run(run())
    assert transport.abort.called == bool(left)


def test_an_answer_without_end_is_ended(connection):
    connection.sendall(head("/v1/late", method="GET"))
    status, fault = error(connection)
    assert (status, fault["code"]) == (504, "answer_timeout")


def test_a_stream_without_end_has_an_error_as_its_last_event(connection):
    connection.sendall(head("/v1/events", "connection: close", method="GET"))
    text = until_closed(connection).decode()
    assert "data: 1\n\n" in text
    assert '"code": "answer_timeout"' in text.rpartition("data: ")[2]
    assert text.endswith("0\r\n\r\n"), "the body is complete"


def test_a_bug_is_an_error_with_the_id_that_is_logged(connection, caplog):
    connection.sendall(head("/v1/fault", method="GET"))
    status, fault = error(connection)
    number = fault["message"].split()[-1].rstrip(".")
    assert status == 500
    assert fault["type"] == "server_error"
    assert f"{number}: internal error" in caplog.text
    assert "a bug" not in str(fault)


@pytest.mark.parametrize(("proxies", "client"), [((), "127.0.0.1"), (("127.0.0.1/32",), "203.0.113.9")])
def test_a_proxy_names_the_client_only_if_it_is_trusted(caplog, proxies, client):
    settings = ServerSettings(model=".", trusted_proxies=proxies)
    with (
        caplog.at_level("INFO"),
        served(application(settings), settings) as address,
        socket.create_connection(address) as connection,
    ):
        connection.sendall(head("/health", "x-forwarded-for: 203.0.113.9", method="GET"))
        assert response(connection)[0] == 200
    assert f"{client} - GET /health" in caplog.text
