"""What servers may answer: forms of a stream of events, and of an error."""

import json

import pytest
from chat_page import expect

DONE = "data: [DONE]\n\n"


def chunk(text="", **more):
    finish = more.pop("finish", None)
    return json.dumps(
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}
    )


def answer_with(chat, status=200, body="", content_type="text/event-stream"):
    chat.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=status, body=body, headers={"content-type": content_type}),
    )
    chat.send("hello")
    expect(chat.answers).to_have_count(1)
    expect(chat.button("Send")).to_be_visible()


WHOLE = {
    "line feeds": f"data: {chunk('one')}\n\ndata: {chunk(' two')}\n\n{DONE}",
    "carriage returns": f"data: {chunk('one')}\r\rdata: {chunk(' two')}\r\rdata: [DONE]\r\r",
    "both": f"data: {chunk('one')}\r\n\r\ndata: {chunk(' two')}\r\n\r\ndata: [DONE]\r\n\r\n",
    "no space": f"data:{chunk('one')}\n\ndata:{chunk(' two')}\n\ndata:[DONE]\n\n",
    "comments and other fields": (
        f": ping\n\nevent: x\nid: 1\nretry: 5\ndata: {chunk('one')}\n\n:\ndata: {chunk(' two')}\n\n{DONE}"
    ),
    "several lines": 'data: {"choices":\ndata: [{"delta": {"content": "one two"}}]}\n\n' + DONE,
    "no mark at the end": f"data: {chunk('one')}\n\ndata: {chunk(' two', finish='stop')}\n\n",
    "a byte order mark": f"\ufeffdata: {chunk('one')}\n\ndata: {chunk(' two')}\n\n{DONE}",
    "empty chunks": (
        f'data: {{}}\n\ndata: {{"choices": []}}\n\n'
        f"data: {chunk('one')}\n\ndata: {chunk(' two', usage=None)}\n\n{DONE}"
    ),
    "null content": f"data: {chunk(None)}\n\ndata: {chunk('one two')}\n\n{DONE}",
}


@pytest.mark.parametrize("form", WHOLE)
def test_forms_of_a_whole_answer(chat, form):
    answer_with(chat, body=WHOLE[form])
    expect(chat.answers).to_have_text("one two")
    expect(chat.page.get_by_role("alert")).to_have_count(0)


CUT = {
    "nothing": ("", "The connection ended before the answer was complete."),
    "cut": (f"data: {chunk('one')}\n\ndata: {{", "The connection ended before the answer was complete."),
    "no json": (
        f"data: {chunk('one')}\n\ndata: <html>\n\n",
        "The server sent a part of the answer that is not JSON.",
    ),
    "an error": (f'data: {chunk("one")}\n\ndata: {{"error": {{"message": "No <room>."}}}}\n\n', "No <room>."),
    "an error without text": ('data: {"error": {}}\n\n', "The server ended the answer with an error."),
    "no object": ("data: 5\n\n", "The connection ended before the answer was complete."),
}


@pytest.mark.parametrize("form", CUT)
def test_forms_of_a_broken_answer(chat, form):
    body, message = CUT[form]
    answer_with(chat, body=body)
    expect(chat.page.get_by_role("alert").locator("p")).to_have_text(message)


ERRORS = {
    "OpenAI's": (400, '{"error": {"message": "Too long."}}', "Too long."),
    "a text": (400, '{"error": "Too long."}', "Too long."),
    "FastAPI's": (422, '{"detail": "Too long."}', "Too long."),
    "vLLM's": (400, '{"object": "error", "message": "Too long."}', "Too long."),
    "HTML": (502, "<html><h1>Bad Gateway</h1>", "The server answered with status 502."),
    "empty": (500, "", "The server answered with status 500."),
    "other JSON": (500, '{"detail": [{"loc": 1}]}', "The server answered with status 500."),
    "no object": (500, "null", "The server answered with status 500."),
}


@pytest.mark.parametrize("form", ERRORS)
def test_forms_of_an_error(chat, form):
    status, body, message = ERRORS[form]
    answer_with(chat, status, body, "application/json")
    expect(chat.page.get_by_role("alert").locator("p")).to_have_text(message)


def test_an_answer_in_one_piece_is_told(chat):
    """A server that doesn't stream: its answer is no stream of events."""
    body = json.dumps({"choices": [{"message": {"content": "hello"}}]})
    answer_with(chat, body=body, content_type="application/json")
    expect(chat.page.get_by_role("alert")).to_contain_text("The connection ended before")


@pytest.mark.parametrize("body", ["<html>", "{}", '{"data": {}}', '{"data": [{}, {"id": 3}, null]}'])
def test_a_list_of_models_that_can_not_be_read(chat, body):
    chat.page.route("**/v1/models", lambda route: route.fulfill(status=200, body=body))
    chat.open()
    expect(chat.page.locator(".notice")).to_contain_text("model")
    expect(chat.button("Try again")).to_be_visible()


def test_a_character_split_between_two_packets(chat):
    """And lines, wherever the network cuts them."""
    script = """async (text) => {
      const folder = document.querySelector("script[type=module]").src.replace("app/main.js", "");
      const { eventData } = await import(folder + "api/sse.js");
      const bytes = new TextEncoder().encode(text);
      const results = [];
      for (let cut = 0; cut <= bytes.length; cut += 1) {
        const body = new ReadableStream({ start(controller) {
          controller.enqueue(bytes.slice(0, cut));
          controller.enqueue(bytes.slice(cut));
          controller.close();
        } });
        const events = [];
        for await (const data of eventData(body)) events.push(data);
        results.push(events);
      }
      return results;
    }"""
    text = "data: é😀\r\n\r\ndata: a\rdata: b\r\r\n: x\n\ndata: c\r\r"
    results = chat.page.evaluate(script, text)
    assert len(results) > 40
    assert all(events == ["é😀", "a\nb", "c"] for events in results)
