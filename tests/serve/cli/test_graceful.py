"""The end of a server: answers that were begun are finished, or get a clear error."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import slow_engine
from guarded_server import head, response, until_closed
from slow_engine import SlowEngine

from vlm_serve.api.app import create_app
from vlm_serve.api.guard.protocol import server_config
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.cli.graceful import GracefulServer
from vlm_serve.cli.listen import bound_socket


class Run:
    """A server in a thread; `stop` is the first signal."""

    def __init__(self, engine, grace):
        settings = ServerSettings(model=".", grace=grace, port=0)
        self.listener = bound_socket("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        ready = threading.Event()
        config = server_config(create_app(engine, settings), settings)
        self.server = GracefulServer(config, engine, grace, ready.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        assert ready.wait(10)

    def stop(self):
        self.server.handle_exit(signal.SIGTERM, None)

    def end(self):
        self.thread.join(15)
        assert not self.thread.is_alive()
        self.listener.close()


@pytest.fixture
def started():
    runs = []

    def start(engine, grace):
        runs.append(Run(engine, grace))
        return runs[-1]

    yield start
    for run in runs:
        run.server.should_exit = run.server.force_exit = True
        run.end()


def ask(address, *, stream=False):
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    data = json.dumps(body).encode()
    connection = socket.create_connection(address)
    fields = ["content-type: application/json", f"content-length: {len(data)}"]
    connection.sendall(head("/v1/chat/completions", *fields) + data)
    return connection


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_begun_is_finished(started, capsys, stream):
    engine = SlowEngine()
    run = started(engine, grace=3)
    with ask(run.address, stream=stream) as connection:
        wait_for(lambda: engine.requests)
        run.stop()
        text = until_closed(connection, 10).decode()
    assert " 200 " in text.splitlines()[0]
    assert "begun" in text
    assert "shutting down" not in text
    assert ("[DONE]" in text) == stream
    run.end()
    assert "SIGTERM: stopping; 1 request has 3 s" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_longer_gets_a_clear_error(started, stream):
    engine = SlowEngine()
    engine.seconds = 60
    run = started(engine, grace=0.3)
    with ask(run.address, stream=stream) as connection:
        wait_for(lambda: engine.requests)
        run.stop()
        start = time.monotonic()
        text = until_closed(connection, 10).decode()
    assert time.monotonic() - start < 5
    assert "The server is shutting down" in text
    assert (" 200 " in text.splitlines()[0]) == stream
    assert (" 503 " in text.splitlines()[0]) == (not stream)
    run.end()


def test_no_new_connection_and_no_idle_one_after_the_signal(started):
    run = started(SlowEngine(), grace=3)
    with socket.create_connection(run.address) as idle:
        idle.sendall(head("/health", method="GET"))
        assert response(idle)[0] == 200
        run.stop()
        assert until_closed(idle, 5) == b""
    run.end()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(run.address)


def test_a_second_signal_ends_at_once():
    """In a process of its own, whose answer never ends."""
    command = [sys.executable, slow_engine.__file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline().startswith("SIGTERM: stopping")
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - start < 3
        assert "ended at once by a second signal" in process.stderr.read()
