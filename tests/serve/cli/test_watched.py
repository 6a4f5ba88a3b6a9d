"""A model folder that changes while it is served."""

import asyncio
import shutil

import pytest
from scripted_engine import ScriptedEngine

from vlm_core.errors import UserError
from vlm_serve.cli.watched import WatchedEngine, folder_version
from vlm_serve.engine.request import GenerationRequest, SamplingParams, TextPrompt

REQUEST = GenerationRequest("r", TextPrompt("text"), SamplingParams())


class Closable(ScriptedEngine):
    was_closed = False
    problem = None

    def failure(self):
        return self.problem

    async def close(self, grace=30.0):
        self.was_closed = True


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def change(folder, text="{}"):
    (folder / "manifest.json").write_text(text)


def watched(folder, start=None, name=""):
    return WatchedEngine(Closable(), folder, folder_version(folder), name, start)


def looks(engine, times=2):
    async def look():
        for _ in range(times):
            await engine.look()

    asyncio.run(look())


def test_an_unchanged_folder_is_not_loaded(folder):
    engine = watched(folder, start=lambda: pytest.fail("loaded"))
    looks(engine, 3)
    assert engine.stats()["model_folder_changed"] == 0


def test_a_change_is_told_once_and_has_no_effect(folder, caplog):
    engine = watched(folder)
    change(folder)
    looks(engine, 5)
    assert caplog.text.count("has changed; its old content is served") == 1
    assert engine.stats()["model_folder_changed"] == 1
    change(folder, "[]")
    looks(engine, 3)
    assert caplog.text.count("has changed; its old content is served") == 2


def test_a_folder_that_is_gone_is_a_change(folder, caplog):
    engine = watched(folder)
    shutil.rmtree(folder)
    looks(engine, 3)
    assert engine.stats()["model_folder_changed"] == 1
    assert caplog.text.count("has changed") == 1


def test_a_change_and_back_is_none(folder):
    engine = watched(folder)
    content = (folder / "manifest.json").read_text()
    change(folder)
    looks(engine)
    change(folder, content)
    looks(engine)
    assert engine.stats()["model_folder_changed"] == 0


def test_new_content_is_served_once_it_is_complete(folder):
    new = Closable()
    engine = watched(folder, start=lambda: new)
    old = engine._engine
    change(folder, "half")
    looks(engine, 1)
    assert engine._engine is old, "it may be being written"
    change(folder, "whole")
    looks(engine, 1)
    assert engine._engine is old
    looks(engine, 1)
    assert engine._engine is new
    assert old.was_closed
    assert not new.was_closed
    assert engine.stats()["model_folder_changed"] == 0


@pytest.mark.parametrize("error", [UserError("a file is damaged"), RuntimeError("out of memory")])
def test_content_that_cannot_be_loaded_changes_nothing(folder, caplog, error):
    def start():
        raise error

    engine = watched(folder, start=start)
    old = engine._engine
    change(folder)
    looks(engine, 5)
    assert engine._engine is old
    assert not old.was_closed
    assert engine.stats()["model_folder_changed"] == 1
    assert caplog.text.count(f"cannot be loaded, so that its old content is served: {error}") == 1


def test_the_old_content_ends_after_its_last_request(folder):
    new = Closable()

    async def run():
        engine = watched(folder, start=lambda: new)
        old = engine._engine
        old.events = (*old.events[:2], None)
        answer = engine.submit(REQUEST)
        await anext(answer)
        change(folder)
        await engine.look()
        await engine.look()
        assert not old.was_closed
        async for _ in engine.submit(REQUEST):
            pass
        assert (len(old.requests), len(new.requests)) == (1, 1)
        await answer.aclose()
        await engine.look()
        assert old.was_closed

    asyncio.run(run())


def test_closing_ends_both(folder):
    engine = watched(folder)
    asyncio.run(engine.close())
    assert engine._engine.was_closed


def test_the_name_in_the_api(folder):
    assert watched(folder).facts().name == "scripted"
    assert watched(folder, name="other").facts().name == "other"


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("vlm_serve.cli.watched.POLL_SECONDS", 0.0)


def test_the_watch_ends_once_no_request_can_be_answered(folder, at_once):
    engine = watched(folder)
    engine._engine.problem = UserError("no worker lives")
    assert asyncio.run(asyncio.wait_for(engine.watch(), 5)) is engine._engine.problem
    assert engine.failure() is engine._engine.problem


def test_new_content_is_loaded_though_no_worker_of_the_old_one_lives(folder, at_once):
    new = Closable()
    engine = watched(folder, start=lambda: new)
    engine._engine.problem = UserError("no worker lives")
    change(folder)

    async def run():
        watching = asyncio.create_task(engine.watch())
        while engine._engine is not new:
            await asyncio.sleep(0.01)
        assert not watching.done()
        new.problem = UserError("no worker of the new one lives")
        assert await asyncio.wait_for(watching, 5) is new.problem

    asyncio.run(run())


def test_the_watch_ends_if_the_new_content_can_t_be_loaded_either(folder, at_once):
    def start():
        raise UserError("a file is damaged")

    engine = watched(folder, start=start)
    engine._engine.problem = UserError("no worker lives")
    change(folder)
    assert asyncio.run(asyncio.wait_for(engine.watch(), 5)) is engine._engine.problem
