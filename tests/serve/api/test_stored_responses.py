"""The store of responses: its limits, and its owners."""

import asyncio

from live_server import asgi_client
from scripted_engine import ScriptedEngine

from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.api.stored_responses import ResponseStore, StoredItem, StoredResponse
from vlm_serve.engine.request import ChatMessage, ImageFile


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def store_of(*, max_responses=10, max_bytes=10**6, max_age=1000.0, clock=None):
    return ResponseStore(max_responses, max_bytes, max_age, clock=clock or Clock())


def stored(name, size=0):
    message = ChatMessage("user", (ImageFile(bytes(size), "image"),))
    return StoredResponse({"id": name}, (StoredItem("msg_1", "user", "completed", message),))


def test_the_store_drops_what_was_used_least():
    store = store_of(max_responses=2)
    store.put("", stored("a"))
    store.put("", stored("b"))
    assert store.get("", "a") is not None
    store.put("", stored("c"))
    assert store.get("", "b") is None
    assert store.get("", "a") is not None
    assert len(store) == 2


def test_the_store_keeps_its_budget():
    store = store_of(max_bytes=100_000)
    for i in range(10):
        store.put("", stored(str(i), 30_000))
        assert store.nbytes <= 100_000
    assert len(store) == 3
    store.put("", stored("large", 200_000))
    assert store.get("", "large") is None
    assert len(store) == 3, "one that can't be kept drops no other"
    for i in range(7, 10):
        store.delete("", str(i))
    assert (len(store), store.nbytes) == (0, 0)


def test_a_response_is_gone_when_it_is_old():
    clock = Clock()
    store = store_of(max_age=60.0, clock=clock)
    store.put("", stored("a"))
    clock.now = 30
    store.put("", stored("b"))
    clock.now = 60
    assert store.get("", "a") is not None, "using it makes it no younger"
    clock.now = 61
    assert store.get("", "a") is None
    assert not store.delete("", "a")
    assert store.get("", "b") is not None
    clock.now = 91
    store.put("", stored("c"))
    assert len(store) == 1
    store.delete("", "c")
    assert store.nbytes == 0


def test_who_stores_most_loses_first_by_bytes_and_by_number():
    store = store_of(max_bytes=100_000)
    store.put("modest", stored("a", 20_000))
    for i in range(10):
        store.put("busy", stored(str(i), 30_000))
    assert store.get("modest", "a") is not None
    assert [i for i in range(10) if store.get("busy", str(i))] == [8, 9]
    store = store_of(max_responses=3)
    store.put("modest", stored("a", 20_000))
    for i in range(10):
        store.put("busy", stored(str(i)))
    assert store.get("modest", "a") is not None
    assert [i for i in range(10) if store.get("busy", str(i))] == [8, 9]


def test_none_is_stored():
    store = store_of(max_responses=0)
    store.put("", stored("a"))
    assert (len(store), store.nbytes) == (0, 0)


def test_owners_don_t_see_each_other_s_responses():
    store = store_of()
    store.put("one", stored("a"))
    assert store.get("two", "a") is None
    assert not store.delete("two", "a")
    assert store.delete("one", "a")
    assert store.nbytes == 0


def test_the_settings_are_the_limits(tiny_folder):
    async def run(settings):
        async with asgi_client(create_app(ScriptedEngine(), settings)) as client:
            body = {"model": "scripted", "input": "a"}
            ids = [(await client.post("/v1/responses", json=body)).json()["id"] for _ in range(3)]
            return [(await client.get(f"/v1/responses/{name}")).status_code for name in ids]

    for limits, statuses in (
        ({}, [200, 200, 200]),
        ({"max_responses": 1}, [404, 404, 200]),
        ({"max_responses": 0}, [404, 404, 404]),
        ({"response_bytes": 1}, [404, 404, 404]),
        ({"response_age": 1e-9}, [404, 404, 404]),
    ):
        assert asyncio.run(run(ServerSettings(model=tiny_folder, **limits))) == statuses
