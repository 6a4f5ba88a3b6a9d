"""The page on the server itself: the interface, its guard and a real engine on a tiny model."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_page import ChatPage, expect, image_file
from live_server import live_server

from vlm_core.model_folder.assemble import load
from vlm_serve.api.app import create_app
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.settings import EngineSettings


@pytest.fixture(scope="module")
def address(tiny_folder, one_thread):
    model, spec = load(tiny_folder)
    engine = LocalEngine(model, spec.template, EngineSettings())
    settings = ServerSettings(model=tiny_folder)
    with live_server(create_app(engine, settings), settings) as (host, port):
        yield f"http://{host}:{port}/"
    with ThreadPoolExecutor(1) as pool:  # the browser's driver has the event loop of this thread
        pool.submit(asyncio.run, engine.close(0)).result()


@pytest.fixture
def served(tabs, address):
    tab = tabs({})
    tab.clear(address)
    tab.open(address)
    tab.button("Settings").click()
    tab.page.get_by_label("Max tokens").fill("6")
    tab.button("Save").click()
    yield tab
    assert tab.faults == []
    assert tab.violations == []


def test_a_question_on_an_image_is_answered(served: ChatPage):
    served.paste(image_file(size=(32, 32)))
    expect(served.attachments).to_have_count(1)
    served.ask("what color is the shape?")
    expect(served.page.locator(".figures")).to_contain_text(" of ")
    expect(served.page.get_by_role("alert")).to_have_count(0)
    first = served.page.locator(".figures").inner_text()
    served.ask("is there a circle?")
    second = served.page.locator(".figures").last.inner_text()
    assert " 0 of " in first
    assert " 0 of " not in second, "the conversation so far comes from the cache"


def test_the_page_offers_what_the_model_reads(served: ChatPage):
    """The tiny model reads images and videos; its template has no place for a system message."""
    expect(served.button("Choose images or videos")).to_be_visible()
    served.button("Settings").click()
    expect(served.page.get_by_label("System prompt")).to_be_disabled()
    served.page.keyboard.press("Escape")


def test_an_answer_is_made_again(served: ChatPage):
    served.ask("what color is the shape?")
    served.button("Answer again").click()
    expect(served.page.locator(".figures")).to_have_count(1)
    expect(served.page.get_by_role("alert")).to_have_count(0)


def test_an_error_of_the_server_is_shown(served: ChatPage):
    served.button("Settings").click()
    served.page.get_by_label("Max tokens").fill("100000000")
    served.button("Save").click()
    served.send("hello")
    expect(served.page.get_by_role("alert")).to_contain_text("positions of a prompt with its answer")


def test_an_image_that_only_the_server_refuses(served: ChatPage):
    served.paste(image_file(size=(1200, 2)))
    expect(served.attachments).to_have_count(1)
    served.send("what is it?")
    expect(served.page.get_by_role("alert")).to_contain_text("1200×2 pixels")
