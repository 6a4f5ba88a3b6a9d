"""Inside `offline`, the thread that loads a model reaches no network; others go on."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vlm_core.runtime.offline import offline


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
        with pytest.raises(ConnectionRefusedError, match="a saved model loads only from its own folder"):
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


def test_two_threads_that_leave_in_the_order_in_which_they_came(address):
    """The first one's leaving opens nothing to the second, and the last leaves nothing behind."""
    own = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    both, first_left = threading.Barrier(2, timeout=10), threading.Event()

    def first():
        with offline():
            both.wait()
        first_left.set()
        return reach(address)

    def second():
        with offline():
            both.wait()
            assert first_left.wait(10)
            with pytest.raises(ConnectionRefusedError):
                reach(address)
        return reach(address)

    with ThreadPoolExecutor(2) as threads:
        assert [f.result() for f in (threads.submit(first), threads.submit(second))] == ["reached", "reached"]
    assert (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo) == own


def test_inside_of_itself_it_lasts_to_the_outer_end(address):
    with offline():
        with offline():
            pass
        with pytest.raises(ConnectionRefusedError):
            reach(address)
    assert reach(address) == "reached"
