"""The calls that the page offers for copying are run as they are and make the page's own request."""

import shutil
import subprocess
import sys

import pytest
from chat_page import expect, image_file

TEXT = "cost: $HOME `id` \\ \"q\" 'a' é\nJSON\n$(touch pwned) ${x} %s"
NAME = 'it\'s $(touch pwned) `x` "q".png'


def shown_call(chat, language):
    chat.button("Show this request as code").last.click()
    chat.button(language).click()
    text = chat.page.get_by_role("region", name="Call").inner_text()
    chat.page.keyboard.press("Escape")
    return text


def run(language, call, folder):
    if language == "curl":
        if shutil.which("curl") is None or shutil.which("bash") is None:
            pytest.skip("needs curl and bash")
        command = ["bash", "-euc", call]
    else:
        pytest.importorskip("openai")
        command = [sys.executable, "-c", call]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "VLM_API_KEY": "secret", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_a_call_repeats_the_request(chat, stub, tmp_path, language):
    """With the key from a variable: the key itself isn't shown."""
    stub.key = "secret"
    chat.open()
    chat.page.get_by_role("textbox", name="API key").fill("secret")
    chat.page.keyboard.press("Enter")
    image = {**image_file(), "name": NAME}
    (tmp_path / NAME).write_bytes(image["buffer"])
    chat.button("Settings").click()
    for label, value in {"Top k": "40", "Seed": "5"}.items():
        chat.page.get_by_label(label).fill(value)
    chat.page.get_by_label("System prompt").fill("Be $brief.")
    chat.button("Save").click()
    chat.paste(image)
    expect(chat.attachments).to_have_count(1)
    chat.ask(TEXT)
    call = shown_call(chat, language)
    assert "secret" not in call
    assert "You said: cost" in run(language, call, tmp_path)
    page, repeated = stub.requests
    del page["stream"], page["stream_options"]
    assert repeated == page
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME], "nothing else was executed"


def test_a_call_without_a_key(chat):
    chat.ask("hello")
    assert "Authorization" not in shown_call(chat, "curl")
    assert 'api_key="none"' in shown_call(chat, "Python")


def test_an_earlier_answer_has_the_call_of_its_own_request(chat, stub):
    chat.ask("one")
    chat.ask("two")
    chat.button("Show this request as code").first.click()
    call = chat.page.get_by_role("region", name="Call").inner_text()
    assert '"content": "one"' in call
    assert "two" not in call


def test_calls_answers_and_code_are_copied(chat, stub):
    page = chat.page
    stub.answers["show"] = "Run:\n\n```bash\necho *\n```"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.ask("show")
    chat.button("Copy code").click()
    expect(chat.button("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "echo *"
    chat.button("Copy the answer").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('Run:')")
    chat.button("Show this request as code").click()
    chat.button("Copy the call").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('curl ')")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    chat.button("Python").click()
    page.get_by_role("dialog").locator(".copied, [aria-label='Copy the call']").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('from openai')")
    page.context.clear_permissions()
