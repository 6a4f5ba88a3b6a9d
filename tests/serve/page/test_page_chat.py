"""Questions and streamed answers: send, stop, answer again, edit; errors of the server and of the connection."""

import pytest
from chat_page import expect


def test_a_question_is_sent_and_its_answer_shown(chat, stub):
    expect(chat.ask("What is red?")).to_have_text("You said: What is red?")
    [body] = stub.requests
    assert body["model"] == "tiny"
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "What is red?"}]
    expect(chat.question).to_have_value("")
    expect(chat.question).to_be_focused()


def test_figures_of_an_answer_are_shown(chat):
    chat.ask("paced")
    figures = chat.page.locator(".figures")
    expect(figures).to_contain_text("s to first token · ")
    expect(figures).to_contain_text("tokens/s · 1,200 of 1,260 prompt tokens cached")


def test_the_whole_conversation_is_sent(chat, stub):
    chat.ask("one")
    chat.ask("two")
    roles = [(message["role"], message["content"]) for message in stub.requests[-1]["messages"]]
    assert roles == [("user", "one"), ("assistant", "You said: one"), ("user", "two")]


def test_shift_enter_starts_a_line(chat, stub):
    chat.question.fill("first")
    chat.question.press("Shift+Enter")
    chat.page.keyboard.type("second")
    chat.question.press("Enter")
    expect(chat.answers).to_have_text("You said: first\nsecond", use_inner_text=True)
    assert stub.requests[0]["messages"][0]["content"] == "first\nsecond"


def test_an_empty_question_is_not_sent(chat, stub):
    expect(chat.button("Send")).to_be_disabled()
    chat.question.fill("   ")
    chat.question.press("Enter")
    expect(chat.button("Send")).to_be_disabled()
    assert stub.requests == []


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_an_answer_is_stopped_while_it_is_streamed(chat, stub, way):
    chat.send("slow")
    expect(chat.answers).to_contain_text("more more")
    if way == "button":
        chat.button("Stop").click()
    else:
        chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_text("Stopped.").first).to_be_visible()
    expect(chat.button("Send")).to_be_visible()
    expect(chat.question).to_be_focused()
    text = chat.answers.inner_text()
    chat.page.wait_for_timeout(100)
    assert chat.answers.inner_text() == text
    assert stub.cancelled == 1
    assert chat.ask("and now?").inner_text() == "You said: and now?"
    assert stub.requests[-1]["messages"][1]["content"].startswith("more more")


def test_an_answer_is_made_again(chat, stub):
    chat.ask("one")
    stub.answers["one"] = "Another one."
    chat.button("Answer again").click()
    expect(chat.answers).to_have_text("Another one.")
    expect(chat.page.get_by_role("region", name="Messages")).to_be_focused()
    assert stub.requests[0]["messages"] == stub.requests[1]["messages"]


def test_an_earlier_question_is_edited_and_the_edit_undone(chat, stub):
    chat.ask("one")
    chat.ask("two")
    chat.page.locator("article.question").first.hover()
    chat.button("Edit the question").first.click()
    expect(chat.question).to_have_value("one")
    chat.send("three")
    expect(chat.answers).to_have_text(["You said: three"])
    assert [message["content"] for message in stub.requests[-1]["messages"]] == ["three"]
    chat.button("Undo").click()
    expect(chat.answers).to_have_text(["You said: one", "You said: two"])


def test_an_edit_is_cancelled(chat):
    chat.ask("one")
    chat.page.locator("article.question").hover()
    chat.button("Edit the question").click()
    chat.page.keyboard.press("Escape")
    expect(chat.question).to_have_value("")
    expect(chat.page.locator("#editing")).to_be_hidden()
    chat.ask("two")
    expect(chat.answers).to_have_count(2)


def test_an_error_of_the_server_is_shown_as_it_says(chat, stub):
    chat.send("please fail")
    failure = chat.page.get_by_role("alert")
    expect(failure).to_contain_text("The question <b>can't</b> be answered: it has 5,000 tokens.")
    chat.button("Try again").click()
    expect(failure).to_be_visible()
    assert len(stub.requests) == 2
    chat.ask("better")
    assert [message["content"] for message in stub.requests[-1]["messages"]] == ["better"], (
        "a question without an answer is not sent again"
    )


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("break", "The connection ended before the answer was complete."),
        ("crash", "The worker ended."),
    ],
)
def test_a_broken_answer_is_kept_and_told(chat, question, message):
    chat.send(question)
    expect(chat.page.get_by_role("alert")).to_contain_text(message)
    expect(chat.answers).to_have_text(f"You said: {question}")
    expect(chat.button("Send")).to_be_visible()


def test_a_server_that_is_gone_is_told(chat):
    context = chat.page.context
    expect(chat.button("Choose images or videos")).to_be_visible()
    context.set_offline(True)
    chat.send("hello")
    expect(chat.page.get_by_role("alert")).to_contain_text("The server can't be reached.")
    context.set_offline(False)
    chat.button("Try again").click()
    expect(chat.answers).to_have_text("You said: hello")


def test_an_answer_cut_by_the_limit_of_tokens_says_so(chat):
    chat.button("Settings").click()
    chat.page.get_by_label("Max tokens").fill("3")
    chat.button("Save").click()
    chat.ask("hello")
    expect(chat.page.get_by_text("The answer reached the largest number of tokens.")).to_be_visible()


def test_the_page_works_under_a_prefix(chat, stub):
    chat.page.goto("about:blank")
    chat.fetched.clear()
    chat.open(stub.address + "prefix/")
    expect(chat.ask("hello")).to_have_text("You said: hello")
    addresses = {url.removeprefix(stub.address) for url in chat.fetched}
    assert {"prefix/v1/models", "prefix/v1/chat/completions"} <= addresses
    assert not [address for address in addresses if not address.startswith("prefix/")]


def test_two_conversations_are_answered_side_by_side(chat):
    chat.send("slow")
    expect(chat.answers).to_contain_text("more")
    chat.button("New chat").click()
    expect(chat.ask("hello")).to_have_text("You said: hello")
    chat.titles.nth(1).click()
    expect(chat.answers).to_contain_text("more more")
    chat.button("Stop").click()
    expect(chat.page.get_by_text("Stopped.").first).to_be_visible()


def test_the_thread_stays_where_the_reader_scrolled(chat):
    chat.send("slow")
    expect(chat.answers).to_contain_text("more " * 3)
    chat.page.set_viewport_size({"width": 400, "height": 330})
    thread = chat.page.get_by_role("region", name="Messages")
    chat.page.wait_for_function("() => thread.scrollHeight > thread.clientHeight + 100")
    at_end = "() => thread.scrollHeight - thread.scrollTop - thread.clientHeight < 40"
    chat.page.wait_for_function(at_end)
    thread.evaluate("(thread) => { thread.scrollTop = 0; }")
    expect(chat.button("Go to the end")).to_be_visible()
    chat.page.wait_for_timeout(200)
    assert thread.evaluate("(thread) => thread.scrollTop") == 0
    chat.button("Go to the end").click()
    chat.page.wait_for_function(at_end)
    chat.button("Stop").click()
    expect(chat.button("Send")).to_be_visible()


def test_a_server_without_facts_about_its_models(chat, stub):
    """Another server's list holds names alone: images are tried, videos not offered."""
    stub.models = [{"id": "first"}, {"id": "second"}]
    chat.open()
    expect(chat.button("Choose images")).to_be_visible()
    chat.page.get_by_role("combobox", name="Model").select_option("second")
    chat.ask("hello")
    assert stub.requests[0]["model"] == "second"
    chat.open()
    expect(chat.page.get_by_role("combobox", name="Model")).to_have_value("second")
