"""One key's bodies and one address's connections leave room for those of others."""

import socket
import time
from types import SimpleNamespace

import pytest
from guarded_server import application, head, response, served

from vlm_serve.api.guard.keys import add_key
from vlm_serve.api.guard.middleware.body_limit import PendingBytes
from vlm_serve.api.guard.protocol import limited_protocol
from vlm_serve.api.guard.settings import ServerSettings


def taken(pending, owner, bodies, size=100):
    """How many bodies of an owner find room."""
    count = 0
    for _ in range(bodies):
        pending.add(owner, size)
        if pending.has_room(owner, size):
            count += 1
        else:
            pending.add(owner, -size)
    return count


def test_bodies_of_one_owner_leave_room_for_another():
    pending = PendingBytes(1000, several_owners=True)
    assert taken(pending, "busy", 20) == 5
    assert taken(pending, "other", 20) == 2
    assert taken(pending, "third", 20) == 1
    assert taken(pending, "busy", 20) == 0
    pending.add("busy", -500)
    assert taken(pending, "third", 20) == 3
    assert set(pending._of) == {"other", "third"}


def test_one_body_may_be_as_large_as_all_together():
    pending = PendingBytes(1000, several_owners=True)
    assert taken(pending, "a", 1, 1000) == 1
    assert taken(pending, "b", 1, 1) == 0


def test_a_single_owner_has_all():
    assert taken(PendingBytes(1000, several_owners=False), "", 20) == 10


def test_a_key_s_slow_bodies_don_t_keep_out_another_key(tmp_path):
    file = tmp_path / "keys.json"
    keys = [add_key(file, name) for name in ("busy", "modest")]
    settings = ServerSettings(model=".", keys_file=file, max_body_bytes=400, max_pending_bytes=1000)
    with served(application(settings), settings) as address:

        def opened(key, size):
            connection = socket.create_connection(address)
            connection.sendall(head("/v1/echo", "content-length: 400", f"authorization: Bearer {key}"))
            connection.sendall(b"x" * size)
            time.sleep(0.1)
            return connection

        held = [opened(keys[0], 240) for _ in range(2)]
        refused = opened(keys[0], 240)
        assert response(refused)[0] == 503
        other = opened(keys[1], 400)
        assert response(other)[0] == 200
        for connection in (*held, refused, other):
            connection.close()


@pytest.mark.parametrize(
    ("others", "host", "expected"),
    [
        (["192.0.2.1"] * 4, "192.0.2.1", False),
        (["192.0.2.1"] * 4, "192.0.2.2", True),
        (["192.0.2.1"] * 4 + ["192.0.2.2"] * 2, "192.0.2.2", False),
        (["2001:db8::1", "2001:db8::2", "192.0.2.2"], "2001:db8::3", False),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3"], "192.0.2.2", True),
    ],
)
def test_an_address_with_few_connections_is_served_when_others_have_all(others, host, expected):
    protocol = limited_protocol(ServerSettings(model=".", max_connections=4))
    connection = object.__new__(protocol)
    connection.client = host, 1
    connection.connections = [connection, *(SimpleNamespace(client=(other, 1)) for other in others)]
    assert connection._has_a_fair_share() is expected
