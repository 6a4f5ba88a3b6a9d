"""Sampling settings, system prompt, API key and theme."""

import pytest
from chat_page import expect


def open_settings(chat):
    chat.button("Settings").click()
    return chat.page.get_by_role("dialog", name="Settings")


def test_settings_are_sent_and_kept(chat, stub):
    dialog = open_settings(chat)
    expect(dialog.get_by_label("Temperature")).to_have_value("0.2")
    for label, value in {
        "Temperature": "0,7",
        "Top p": "0.9",
        "Top k": "40",
        "Max tokens": "64",
        "Seed": "5",
    }.items():
        dialog.get_by_label(label).fill(value)
    dialog.get_by_label("System prompt").fill("Answer in one word.")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expected = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 64, "seed": 5}
    for question in ("one", "two"):
        chat.ask(question)
        assert stub.requests[-1].items() >= expected.items()
        assert stub.requests[-1]["messages"][0] == {"role": "system", "content": "Answer in one word."}
        chat.open()


def test_empty_settings_are_not_sent(chat, stub):
    chat.ask("one")
    assert stub.requests[0].keys() == {"model", "messages", "temperature", "stream", "stream_options"}
    dialog = open_settings(chat)
    dialog.get_by_label("Temperature").fill("")
    dialog.get_by_role("button", name="Save").click()
    chat.ask("two")
    assert "temperature" not in stub.requests[1]
    dialog = open_settings(chat)
    dialog.get_by_role("button", name="Defaults").click()
    expect(dialog.get_by_label("Temperature")).to_have_value("0.2")


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Temperature", "hot", "Temperature is a number."),
        ("Temperature", "-1", "Temperature is at least 0."),
        ("Temperature", "2.5", "Temperature is at most 2."),
        ("Top p", "0", "Top p is above 0."),
        ("Top p", "1.1", "Top p is at most 1."),
        ("Top k", "1.5", "Top k is a whole number."),
        ("Max tokens", "0", "Max tokens is at least 1."),
        ("Max tokens", "1e400", "Max tokens is a number."),
        ("Seed", "99999999999", "Seed is at most 2147483647."),
    ],
)
def test_a_wrong_setting_is_told_and_not_saved(chat, stub, label, value, message):
    dialog = open_settings(chat)
    field = dialog.get_by_label(label)
    field.fill(value)
    dialog.get_by_role("button", name="Save").click()
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(dialog.get_by_text(message)).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    chat.ask("one")
    assert stub.requests[0]["temperature"] == 0.2
    assert not stub.requests[0].keys() & {"top_p", "top_k", "max_tokens", "seed"}


def test_damaged_settings_are_not_sent(chat, stub):
    for text in ("{", '"x"', '{"temperature": 9, "top_k": "<b>", "system": 3, "seed": 4}'):
        chat.page.evaluate("(text) => localStorage.setItem('vlm-serve.settings', text)", text)
        chat.open()
        chat.ask("one")
    assert stub.requests[-1]["seed"] == 4
    assert not stub.requests[-1].keys() & {"temperature", "top_k"}
    assert [message["role"] for message in stub.requests[-1]["messages"]] == ["user"]


def test_a_template_without_system_messages_gets_none(chat, stub):
    dialog = open_settings(chat)
    dialog.get_by_label("System prompt").fill("Be kind.")
    dialog.get_by_role("button", name="Save").click()
    stub.models = [{"id": "plain", "system": False}]
    chat.open()
    expect(chat.page.get_by_role("heading", name="plain")).to_be_visible()
    chat.ask("one")
    assert [message["role"] for message in stub.requests[0]["messages"]] == ["user"]
    dialog = open_settings(chat)
    expect(dialog.get_by_label("System prompt")).to_be_disabled()
    expect(dialog.get_by_text("The template of this model has no place for it.")).to_be_visible()


def test_a_key_is_asked_for_and_used(chat, stub):
    stub.key = "secret"
    chat.open()
    dialog = chat.page.get_by_role("dialog", name="The server wants an API key")
    expect(dialog.get_by_text("The API key is missing or wrong.")).to_be_visible()
    dialog.get_by_label("API key").fill("wrong")
    chat.page.keyboard.press("Enter")
    expect(dialog.get_by_label("API key")).to_have_value("wrong")
    dialog.get_by_label("API key").fill("secret")
    chat.page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(chat.ask("one")).to_have_text("You said: one")
    chat.open()
    expect(chat.ask("two")).to_have_text("You said: two")
    stored = chat.page.evaluate("JSON.stringify(localStorage)")
    assert "secret" not in stored, "a key that is not to be remembered goes with the tab"


def test_a_question_refused_for_its_key_is_answered_with_the_next_key(chat, stub):
    chat.ask("one")
    stub.key = "secret"
    chat.send("two")
    dialog = chat.page.get_by_role("dialog", name="The server wants an API key")
    dialog.get_by_label("API key").fill("secret")
    dialog.get_by_label("Remember it in this browser").check()
    dialog.get_by_role("button", name="Use this key").click()
    expect(chat.answers).to_have_text(["You said: one", "You said: two"])
    assert chat.page.evaluate("localStorage.getItem('vlm-serve.key')") == "secret"
    dialog = open_settings(chat)
    dialog.get_by_label("API key").fill("")
    dialog.get_by_role("button", name="Save").click()
    assert chat.page.evaluate("localStorage.getItem('vlm-serve.key')") is None


def test_a_cancelled_key_leaves_the_error(chat, stub):
    chat.ask("one")
    stub.key = "secret"
    chat.send("two")
    expect(chat.page.get_by_role("dialog")).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_role("alert")).to_contain_text("The API key is missing or wrong.")
    expect(chat.button("Try again")).to_be_visible()


def test_a_server_that_starts_late_is_tried_again(chat, stub):
    stub.models = []
    chat.open()
    expect(chat.page.locator(".notice")).to_contain_text("The server has no model.")
    stub.models = [{"id": "late"}]
    chat.button("Try again").click()
    expect(chat.page.get_by_role("heading", name="late")).to_be_visible()


def test_a_key_entered_in_the_settings_connects(chat, stub):
    stub.key = "secret"
    chat.open()
    expect(chat.page.get_by_role("dialog")).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(chat.page.locator(".notice")).to_contain_text("The API key is missing or wrong.")
    dialog = open_settings(chat)
    dialog.get_by_label("API key").fill("secret")
    dialog.get_by_role("button", name="Save").click()
    expect(chat.page.get_by_role("heading", name="tiny")).to_be_visible()


def background(chat):
    return chat.page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_and_the_switch(chat):
    page = chat.page
    light = background(chat)
    page.emulate_media(color_scheme="dark")
    dark = background(chat)
    assert light == "rgb(255, 255, 255)"
    assert sum(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 120
    try:
        chat.button("Light theme").click()
        assert background(chat) == light
        chat.open()
        assert background(chat) == light, "kept"
        dialog = open_settings(chat)
        dialog.get_by_label("Theme").select_option("As the system")
        dialog.get_by_role("button", name="Save").click()
        assert background(chat) == dark
    finally:
        page.emulate_media(color_scheme="light")
