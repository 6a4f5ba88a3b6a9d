"""Inside `offline`, the thread that loads a model reaches no network; others go on."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from vlm_core.offline import offline


@pytest.fixture
def address():
    """A server that listens on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


def reach(address):
    with socket.create_connection(address, timeout=10):
        return "reached"


def test_this_thread_opens_no_connection_and_others_do(address):
    with offline(), ThreadPoolExecutor() as others:
        with pytest.raises(
            ConnectionRefusedError, match="a saved model loads from its own folder and never from the"
        ):
            reach(address)
        with socket.socket() as own, pytest.raises(ConnectionRefusedError):
            own.connect(address)
        with socket.socket() as own, pytest.raises(ConnectionRefusedError):
            own.connect_ex(address)
        with pytest.raises(ConnectionRefusedError):
            socket.getaddrinfo("localhost", 80)
        assert others.submit(reach, address).result() == "reached"
    assert reach(address) == "reached"


def test_local_sockets_are_no_network(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        with offline(), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))


def test_the_hubs_library_is_told_and_gets_its_setting_back(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with offline():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
