"""A browser for all tests, a stub of the API, and a fresh page for each test."""

import pytest


@pytest.fixture(scope="module")
def browser():
    """One for each module: its driver keeps the thread's event loop, which tests elsewhere start themselves."""
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


@pytest.fixture(scope="module")
def tabs(browser):
    """Opens tabs. A new one takes most of a second: tests with the same options share one, cleared before each."""
    from chat_page import ChatPage

    opened = {}

    def tab(options):
        key = repr(options)
        if key not in opened:
            opened[key] = ChatPage(browser.new_context(**options))
        return opened[key]

    yield tab
    for page in opened.values():
        page.page.context.close()


@pytest.fixture
def context_options():
    """What the test's browser differs in; see playwright's `new_context`."""
    return {}


@pytest.fixture
def chat(tabs, stub, context_options):
    """The page, opened. At the end no script has failed, nothing came from elsewhere, the policy stopped nothing."""
    tab = tabs(context_options)
    tab.clear(stub.address)
    tab.open(stub.address)
    yield tab
    tab.page.context.set_offline(False)
    assert tab.faults == []
    assert tab.violations == []
    assert not [url for url in tab.fetched if not url.startswith((stub.address, "blob:", "data:"))]
