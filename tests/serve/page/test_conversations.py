"""Conversations outlive the page, have titles, can be deleted, and say so when they can't be kept."""

from chat_page import ChatPage, expect, image_file


def test_a_reload_keeps_conversations_and_their_images(chat):
    chat.drop(image_file())
    expect(chat.attachments).to_have_count(1)
    chat.ask("What is red?")
    chat.button("New chat").click()
    chat.ask("hello")
    chat.open()
    expect(chat.titles).to_have_text(["hello", "What is red?"])
    expect(chat.answers).to_have_count(0)
    chat.titles.nth(1).click()
    expect(chat.answers).to_have_text("You said: What is red?")
    expect(chat.page.locator(".thumbnail img")).to_be_visible()
    assert (
        chat.page.locator(".thumbnail img").evaluate("(img) => img.decode().then(() => img.naturalWidth)")
        == 40
    )
    expect(chat.page.locator(".figures")).to_contain_text("1,200 of 1,260")


def test_a_reload_within_an_answer_keeps_what_was_stored(chat):
    chat.send("slow")
    expect(chat.answers).to_contain_text("more")
    chat.page.wait_for_timeout(2300)  # answers that grow are stored every two seconds
    chat.open()
    chat.titles.click()
    expect(chat.answers).to_contain_text("more more")
    expect(chat.page.get_by_role("alert")).to_contain_text(
        "The page was closed before the answer was complete."
    )


def test_a_conversation_is_renamed(chat):
    chat.ask("one")
    chat.titles.hover()
    chat.button("Rename one").click()
    field = chat.page.get_by_role("textbox", name="Title of the conversation")
    field.fill("<b>Colours</b> & shapes")
    field.press("Enter")
    expect(chat.titles).to_have_text(["<b>Colours</b> & shapes"])
    expect(chat.titles).to_be_focused()
    chat.open()
    expect(chat.titles).to_have_text(["<b>Colours</b> & shapes"])


def test_escape_leaves_a_title_as_it_was(chat):
    chat.ask("one")
    chat.titles.hover()
    chat.button("Rename one").click()
    chat.page.keyboard.type("two")
    chat.page.keyboard.press("Escape")
    expect(chat.titles).to_have_text(["one"])


def test_a_conversation_is_deleted_for_good(chat):
    chat.drop(image_file())
    expect(chat.attachments).to_have_count(1)
    chat.ask("one")
    chat.button("New chat").click()
    chat.ask("two")
    chat.titles.nth(1).hover()
    chat.button("Delete one").click()
    expect(chat.titles).to_have_text(["two"])
    expect(chat.answers).to_have_text(["You said: two"])
    chat.open()
    expect(chat.titles).to_have_text(["two"])
    assert stored_files(chat) == 0


def stored_files(chat):
    return chat.page.evaluate("""() => new Promise((resolve) => {
      const request = indexedDB.open("vlm-serve");
      request.onsuccess = () => {
        const count = request.result.transaction("files").objectStore("files").count();
        count.onsuccess = () => { request.result.close(); resolve(count.result); };
      };
    })""")


def test_a_conversation_is_deleted_while_it_is_answered(chat, stub):
    chat.send("slow")
    expect(chat.answers).to_contain_text("more")
    chat.titles.hover()
    chat.button("Delete slow").click()
    expect(chat.titles).to_have_count(0)
    expect(chat.button("Send")).to_be_visible()
    chat.ask("hello")
    assert stub.cancelled == 1
    chat.open()
    expect(chat.titles).to_have_text(["hello"])


def test_a_deletion_is_undone_with_its_images(chat):
    chat.drop(image_file())
    expect(chat.attachments).to_have_count(1)
    chat.ask("one")
    chat.open()
    chat.titles.hover()
    chat.button("Delete one").click()
    expect(chat.titles).to_have_count(0)
    chat.button("Undo").click()
    expect(chat.answers).to_have_text("You said: one")
    chat.open()
    chat.titles.click()
    expect(chat.page.locator(".thumbnail img")).to_be_visible()


def test_all_conversations_are_deleted(chat):
    chat.ask("one")
    chat.button("New chat").click()
    chat.ask("two")
    chat.button("Settings").click()
    chat.button("Delete all conversations").click()
    expect(chat.titles).to_have_count(0)
    expect(chat.answers).to_have_count(0)
    chat.button("Undo").click()
    expect(chat.titles).to_have_count(2)


def test_a_full_storage_is_told_and_the_chat_goes_on(chat, stub):
    session = chat.page.context.new_cdp_session(chat.page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": stub.address[:-1], "quotaSize": 1})
    try:
        chat.paste(image_file())
        expect(chat.attachments).to_have_count(1)
        chat.ask("one")
        expect(chat.page.locator(".notice")).to_have_count(1)
        expect(chat.page.locator(".notice")).to_contain_text("The browser's storage is full")
        expect(chat.ask("two")).to_have_text("You said: two")
        assert stub.requests[1]["messages"][0]["content"][0]["type"] == "image_url"
    finally:
        session.send("Storage.overrideQuotaForOrigin", {"origin": stub.address[:-1]})


def test_a_browser_that_stores_nothing_says_so(chat, stub):
    page = ChatPage(chat.page.context)
    page.page.add_init_script("""
      Object.defineProperty(window, "indexedDB", { get() { throw new DOMException("no", "SecurityError"); } });
      Object.defineProperty(window, "localStorage", { get() { throw new DOMException("no", "SecurityError"); } });
    """)
    page.open(stub.address)
    expect(page.page.locator(".notice")).to_contain_text("This browser keeps no conversations")
    page.paste(image_file())
    expect(page.attachments).to_have_count(1)
    expect(page.ask("one")).to_have_text("You said: one")
    page.button("Dark theme").click()
    expect(page.button("Light theme")).to_be_visible()
    assert page.faults == []
    page.page.close()


DAMAGED = """async (values) => {
  const open = indexedDB.open("vlm-serve", 1);
  await new Promise((resolve) => { open.onsuccess = resolve; });
  const transaction = open.result.transaction("conversations", "readwrite");
  for (const value of values) transaction.objectStore("conversations").put(value);
  await new Promise((resolve) => { transaction.oncomplete = resolve; });
  open.result.close();
}"""


def test_damaged_conversations_are_left_out(chat):
    chat.ask("one")
    kept = {
        "id": "k",
        "title": "kept",
        "updated": 1,
        "messages": [{"role": "user", "text": "a", "files": []}],
    }
    damaged = [
        {"id": "a"},
        {**kept, "id": "b", "messages": []},
        {**kept, "id": "c", "messages": [{"role": "assistant", "text": "a"}]},
        {**kept, "id": "d", "messages": [{"role": "user", "text": "a", "files": [None]}]},
        {**kept, "id": "e", "messages": [{"role": "user", "text": 1, "files": []}]},
        {**kept, "id": "f", "title": None},
    ]
    chat.page.evaluate(DAMAGED, [kept, *damaged])
    chat.page.evaluate("localStorage.setItem('vlm-serve.settings', '{damaged')")
    chat.open()
    expect(chat.page.locator(".notice")).to_contain_text("6 stored conversations can't be read.")
    expect(chat.titles).to_have_text(["one", "kept"])
    expect(chat.ask("two")).to_have_text("You said: two")


def test_another_tab_sees_the_change(chat, stub):
    other = ChatPage(chat.page.context)
    other.open(stub.address)
    chat.ask("one")
    expect(other.titles).to_have_text(["one"])
    other.titles.click()
    expect(other.answers).to_have_text(["You said: one"])
    chat.ask("two")
    expect(other.answers).to_have_text(["You said: one", "You said: two"])
    other.ask("three")
    expect(chat.answers).to_have_count(3)
    chat.titles.hover()
    chat.button("Delete one").click()
    expect(other.titles).to_have_count(0)
    assert other.faults == []
    other.page.close()


def test_each_conversation_keeps_its_draft(chat):
    chat.ask("one")
    chat.question.fill("half a ques")
    chat.button("New chat").click()
    expect(chat.question).to_have_value("")
    chat.titles.click()
    expect(chat.question).to_have_value("half a ques")
