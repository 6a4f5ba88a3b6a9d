"""A browser for all tests, a stub of the API, and a fresh page for each test."""

import pytest


@pytest.fixture(scope="session")
def browser():
    chat_page = pytest.importorskip("chat_page", reason="playwright is not installed")
    if chat_page.CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page is tested in a real browser")
    with chat_page.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def stub_server():
    from stub_api import StubApi, running

    with running(StubApi()) as stub:
        yield stub


@pytest.fixture
def stub(stub_server):
    stub_server.reset()
    return stub_server


@pytest.fixture
def context_options():
    """What the test's browser differs in; see playwright's `new_context`."""
    return {}


@pytest.fixture
def context(browser, context_options):
    made = browser.new_context(**context_options)
    yield made
    made.close()


@pytest.fixture
def chat(stub, context):
    """The page, opened; at the end no script has failed, and the policy had nothing to stop."""
    from chat_page import ChatPage

    page = ChatPage(context, stub.address)
    yield page
    assert page.faults == []
    assert page.violations == []
