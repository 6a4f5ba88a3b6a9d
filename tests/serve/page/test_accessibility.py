"""Every state of the page without a serious finding of axe-core; keyboard alone; narrow screens; reduced motion."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from chat_page import expect, image_file

MARKDOWN = (
    "# A\n\n[link](https://a.b) `code`\n\n> quote\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    "```py\nx = 1\n```\n\n- one"
)


def start(chat, stub):
    stub.answers["show"] = MARKDOWN
    expect(chat.button("Camera")).to_be_visible()


def empty(chat):
    pass


def draft(chat):
    chat.drop(image_file("red.png"), image_file("blue.png", "blue"))
    expect(chat.attachments).to_have_count(2)
    chat.question.fill("What is red?")


def answered(chat):
    draft(chat)
    chat.button("Send").click()
    expect(chat.page.locator(".figures")).to_have_count(1)
    chat.ask("show")


def streaming(chat):
    chat.send("slow")
    expect(chat.answers).to_contain_text("more")


def stopped(chat):
    streaming(chat)
    chat.button("Stop").click()
    expect(chat.page.get_by_text("Stopped.").first).to_be_visible()


def failed(chat):
    chat.send("fail")
    expect(chat.page.get_by_role("alert")).to_be_visible()


def editing(chat):
    chat.ask("one")
    chat.page.locator("article.question").hover()
    chat.button("Edit the question").click()


def renaming(chat):
    chat.ask("one")
    chat.titles.hover()
    chat.button("Rename one").click()


def deleted(chat):
    chat.ask("one")
    chat.titles.hover()
    chat.button("Delete one").click()
    expect(chat.button("Undo")).to_be_visible()


def settings(chat):
    chat.button("Settings").click()
    chat.page.get_by_label("Top p").fill("7")
    chat.button("Save").click()


def code(chat):
    chat.ask("one")
    chat.button("Show this request as code").click()


def camera(chat):
    chat.button("Camera").click()
    expect(chat.button("Take a photo")).to_be_visible()


def viewer(chat):
    draft(chat)
    chat.button("Send").click()
    chat.button("Show red.png").click()
    expect(chat.page.get_by_role("dialog")).to_be_visible()


STATES = [
    empty,
    draft,
    answered,
    streaming,
    stopped,
    failed,
    editing,
    renaming,
    deleted,
    settings,
    code,
    camera,
    viewer,
]


def findings(page, rules=()):
    """Serious and critical findings, one line each, of all rules or of some."""
    report = Axe().run(page, options={"runOnly": list(rules)} if rules else None).response
    assert report["passes"], "axe has run"
    return [
        f"{finding['id']} ({finding['impact']}): {node['html'][:150]}"
        for finding in report["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing_serious(chat, stub, state):
    """In the light theme, then the colours of the dark one."""
    start(chat, stub)
    state(chat)
    chat.page.mouse.move(0, 0)
    assert findings(chat.page) == []
    chat.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert findings(chat.page, ["color-contrast"]) == []


def test_axe_finds_faults(chat):
    """A check that finds nothing anywhere would prove nothing."""
    chat.page.evaluate("document.querySelector('#open-settings').removeAttribute('aria-label')")
    chat.page.evaluate("document.querySelector('#welcome-text').style.color = '#ccc'")
    expect(chat.button("Camera")).to_be_visible()
    assert {line.partition(" ")[0] for line in findings(chat.page)} == {"button-name", "color-contrast"}


def test_axe_finds_nothing_when_a_key_is_asked_for(chat, stub):
    stub.key = "secret"
    chat.open()
    expect(chat.page.get_by_role("dialog")).to_be_visible()
    assert findings(chat.page) == []


def focused(chat):
    return chat.page.evaluate(
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    )


def test_the_keyboard_alone_reaches_everything(chat):
    """From the skip link on, in the order in which things are seen."""
    expect(chat.button("Camera")).to_be_visible()
    chat.ask("one")
    page = chat.page
    page.evaluate("document.querySelector('a, button').focus()")
    order = [focused(chat)]
    for _ in range(15):
        page.keyboard.press("Tab")
        order.append(focused(chat))
    assert order[:4] == ["Skip to the question", "New chat", "one", "Rename one"]
    assert order[4:8] == ["Delete one", "Dark theme", "Settings", "Messages"]
    rest = [
        "Edit the question",
        "Copy the question",
        "Copy the answer",
        "Answer again",
        "Show this request as code",
    ]
    assert order[8:13] == rest
    assert order[13:16] == ["", "Choose images or videos", "Camera"]
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    expect(chat.question).to_be_focused()


def test_a_dialog_holds_the_focus_and_gives_it_back(chat):
    chat.button("Settings").focus()
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_label("Temperature")).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(chat.button("Settings")).to_be_focused()


def test_the_focus_stays_in_the_list_of_conversations(chat):
    chat.ask("one")
    chat.button("New chat").click()
    chat.ask("two")
    chat.titles.nth(1).focus()
    chat.page.keyboard.press("Enter")
    expect(chat.answers).to_have_text("You said: one")
    expect(chat.titles.nth(1)).to_be_focused()


def test_a_screen_reader_hears_an_answer_once(chat, stub):
    chat.page.evaluate("""() => {
      window.spoken = [];
      const region = document.querySelector("#spoken");
      new MutationObserver(() => spoken.push(region.textContent)).observe(region, { childList: true });
    }""")
    stub.answers["show"] = "word " * 200
    chat.ask("show")
    spoken = chat.page.evaluate("spoken")
    assert spoken == ["Waiting for the answer.", "word " * 200]
    assert (
        chat.page.locator("[aria-live], [role=log], [role=status]").evaluate_all(
            "(regions) => regions.filter((region) => region.closest('#messages')).length"
        )
        == 0
    )


class TestPhone:
    @pytest.fixture
    def context_options(self):
        size = {"width": 360, "height": 640}
        return {"viewport": size, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

    @pytest.mark.parametrize(
        "state", [answered, failed, settings, code, camera], ids=lambda state: state.__name__
    )
    def test_nothing_is_wider_than_the_screen(self, chat, stub, state):
        start(chat, stub)
        stub.answers["show"] += (
            "\n\n" + "x" * 500 + "\n\n```\n" + "y" * 500 + "\n```\n\n|" + " cell |" * 40 + "\n|" + "-|" * 40
        )
        state(chat)
        width = chat.page.evaluate("Math.max(document.documentElement.scrollWidth, thread.scrollWidth)")
        assert width <= 360
        assert chat.page.evaluate("visualViewport.scale") == 1
        assert findings(chat.page) == []

    def test_the_list_lies_over_the_page_and_closes(self, chat):
        chat.ask("one")
        expect(chat.titles).not_to_be_in_viewport()
        chat.button("Conversations").tap()
        expect(chat.titles).to_be_in_viewport()
        expect(chat.button("Close the list of conversations")).to_be_focused()
        assert findings(chat.page) == []
        chat.page.keyboard.press("Escape")
        expect(chat.titles).not_to_be_in_viewport()
        expect(chat.button("Conversations")).to_be_focused()
        chat.button("Conversations").tap()
        chat.button("New chat").tap()
        expect(chat.titles).not_to_be_in_viewport()
        expect(chat.question).to_be_focused()

    def test_targets_are_large_enough_for_fingers(self, chat):
        chat.ask("one")
        small = chat.page.locator("button:visible").evaluate_all(
            "(all) => all.filter((e) => e.offsetWidth < 32 || e.offsetHeight < 32).map((e) => e.outerHTML)"
        )
        assert small == []

    def test_the_question_stays_above_a_virtual_keyboard(self, chat):
        """The keyboard shrinks the page, as the viewport of index.html asks for."""
        chat.ask("one")
        chat.page.set_viewport_size({"width": 360, "height": 300})
        expect(chat.question).to_be_in_viewport(ratio=1)
        expect(chat.button("Send")).to_be_in_viewport(ratio=1)


class TestReducedMotion:
    @pytest.fixture
    def context_options(self):
        return {"reduced_motion": "reduce"}

    def test_nothing_moves(self, chat):
        chat.page.route("**/chat/completions", lambda route: None)
        chat.send("hello")
        expect(chat.page.get_by_role("img", name="Waiting for the answer")).to_be_visible()
        assert chat.page.evaluate("document.getAnimations().length") == 0
