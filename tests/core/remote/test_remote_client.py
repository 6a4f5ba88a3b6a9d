"""Requests to servers that answer, refuse, break off, or are something else."""

import json
import socket
import time

import pytest
from chat_stub import Stub, event, raw_server, reply, running

from vlm_core.errors import UserError
from vlm_core.remote import ChatClient, Decoding, RequestFailed, Retries, choose_model, server_at, transport

HI = [{"role": "user", "content": "hi"}]
STREAM = "text/event-stream"


def client(url):
    return ChatClient(server_at(url))


def failure(url, call=lambda c: c.complete("tiny", HI, Decoding())):
    return failure_of(client(url), call)


def failure_of(chat_client, call=lambda c: c.complete("tiny", HI, Decoding())):
    with pytest.raises(RequestFailed) as caught:
        call(chat_client)
    return caught.value


def streamed(each):
    return list(each.stream("tiny", HI, Decoding()))


def test_an_answer_whole_and_as_a_stream():
    stub = Stub()
    with running(stub.app) as url:
        each = client(url)
        assert choose_model(each, None) == ("tiny", "ab" * 32)
        whole = each.complete("tiny", HI, Decoding(7))
        chunks = streamed(each)
    assert whole == (" hi!", "stop", (7, 1, 5), None)
    assert "".join(chunk.text for chunk in chunks) == " hi! "
    assert [chunk.finish_reason for chunk in chunks][-2:] == ["stop", None]
    assert chunks[-1].usage == (7, 1, 5)
    assert stub.requests[0] == {"model": "tiny", "messages": HI, "temperature": 0.0, "max_tokens": 7}
    assert stub.requests[1]["stream_options"] == {"include_usage": True}


def test_settings_of_sampling_are_sent_when_they_have_an_effect():
    assert Decoding(None, 0.0, 0.5, 3).fields() == {"temperature": 0.0}
    assert Decoding(4, 0.7, 0.5, 3).fields() == {"temperature": 0.7, "max_tokens": 4, "top_p": 0.5, "seed": 3}


def test_a_server_with_several_models_wants_a_name():
    stub = Stub(models=[{"id": "a"}, {"id": "b\x1b[31m"}])
    with running(stub.app) as url:
        with pytest.raises(UserError, match=r"has 2 models \(a, b\\x1b\[31m\); name one with --model"):
            choose_model(client(url), None)
        assert choose_model(client(url), "a") == ("a", None)
        assert choose_model(client(url), "alias") == ("alias", None), (
            "servers may take names that they don't list"
        )


def test_a_server_without_a_list_of_models_takes_a_name():
    with raw_server(reply("404 Not Found", "{}")) as url:
        assert choose_model(client(url), "mine") == ("mine", None)
        with pytest.raises(RequestFailed, match="404"):
            choose_model(client(url), None)


def test_an_unknown_model():
    with running(Stub().app) as url:
        error = failure(url, lambda c: c.complete("other", HI, Decoding()))
    assert str(error).endswith("the server knows no such model or address (404): no model 'other'")
    assert not error.temporary


def test_keys_are_sent_and_never_repeated(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-good")
    monkeypatch.setenv("BAD_KEY", "sk-bad-1")
    stub = Stub(key="sk-good")
    with running(stub.app) as url:
        assert ChatClient(server_at(url, key_variable="MY_KEY")).models()
        wrong, missing = failure_of(ChatClient(server_at(url, key_variable="BAD_KEY"))), failure(url)
    assert "refuses the API key (401): Incorrect API key provided: [key]" in str(wrong)
    assert "name its variable with --api-key-env (401)" in str(missing)
    assert "authorization" not in stub.headers[-1]


def test_a_redirect_is_not_followed(monkeypatch):
    """Neither key nor images reach a host that the user did not name."""
    monkeypatch.setenv("MY_KEY", "sk-good")
    target = Stub()
    with running(target.app) as other:
        for status in ("301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"):
            with raw_server(reply(status, "", f"Location: {other}/v1/chat/completions")) as url:
                error = failure_of(ChatClient(server_at(url, key_variable="MY_KEY")))
            assert (
                f"redirects to {other}/v1/chat/completions ({status[:3]}); redirects are not followed"
                in str(error)
            )
    assert target.headers == []


@pytest.mark.parametrize("call", [lambda c: c.complete("tiny", HI, Decoding()), ChatClient.models, streamed])
@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (reply("200 OK", "<html>Hello</html>", kind="text/html"), "answers with text/html, not "),
        (reply("500 Oops", "<html>Hello</html>", kind="text/html"), r"the server has failed \(500\)$"),
        (
            reply("400 Bad", '{"error": {"message": "no \\u001b[31m place"}}'),
            r"\(400\): no \\x1b\[31m place$",
        ),
        (reply("422 Bad", '{"detail": [{"loc": 1}]}'), r"\(422\): \[\{\"loc\": 1\}\]$"),
        (reply("429 Slow", "[[[["), r"takes no more requests now \(429\)$"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP answer"),
        (b"", "closed the connection without an answer"),
    ],
)
def test_other_answers_are_one_message(call, sent, message):
    with raw_server(sent) as url, pytest.raises(RequestFailed, match=message) as caught:
        call(client(url))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (reply("200 OK", "{"), "not JSON"),
        (reply("200 OK", "[]"), "no JSON object"),
        (reply("200 OK", b"\xff"), "not UTF-8"),
        (reply("200 OK", "{}"), "no chat completion"),
        (reply("200 OK", '{"choices": [{"message": {"content": 3}}]}'), "no chat completion"),
        (reply("200 OK", '{"error": {"message": "out of memory"}}'), "out of memory"),
        (reply("200 OK", "{}", "Content-Encoding: gzip"), "compressed (gzip)"),
        (reply("200 OK", "{}", "Content-Length: 100"), "stopped in the middle of its answer"),
        (reply("200 OK", "5\r\n{}", "Transfer-Encoding: chunked"), "stopped in the middle of its answer"),
    ],
)
def test_answers_that_are_none(sent, message):
    with raw_server(sent) as url:
        error = failure(url)
    assert message in str(error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (event("a"), "stopped in the middle of its answer"),
        (event("a") + "data: [DONE]\n\n", "stopped in the middle of its answer"),
        (event("a") + event("b", "stop")[:-1], "stopped in the middle of its answer"),
        (
            event("a") + 'data: {"error": {"message": "the worker ended"}}\n\n',
            "failed in its answer: the worker ended",
        ),
        ("data: {\n\n", "an event of the stream is no JSON object"),
        ("data: 3\n\n", "an event of the stream is no JSON object"),
        ("data: " + "x" * (2**20 + 10), "the stream is too large"),
    ],
)
def test_streams_that_break_off(body, message):
    with raw_server(reply("200 OK", body, kind=STREAM)) as url:
        error = failure(url, streamed)
    assert message in str(error)


def test_a_stream_may_have_comments_carriage_returns_and_no_done():
    body = ": ping\r\n\r\nevent: x\r\n" + event("a").replace("\n", "\r\n") + event(None, "stop")
    with raw_server(reply("200 OK", body, kind=STREAM)) as url:
        assert [chunk.text for chunk in streamed(client(url))] == ["a", ""]


def test_an_answer_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(transport, "MAX_BYTES", 1000)
    with raw_server(reply("200 OK", b" " * 2000)) as url:
        assert "more than 1000 bytes" in str(failure(url))


def test_no_server_and_no_host():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "cannot connect: Connection refused; is the server running?" in str(
        failure(f"http://127.0.0.1:{port}")
    )
    assert "cannot connect: " in str(failure("http://no-such-host.invalid"))
    with raw_server(b"HTTP/1.1 200 OK\r\n\r\n") as url:
        assert "no secure connection" in str(failure(url.replace("http:", "https:")))


def test_a_silent_server_ends_at_the_limit():
    with raw_server(b"", hold=3) as url:
        begun = time.monotonic()
        error = failure_of(ChatClient(server_at(url, timeout=0.2)))
    assert time.monotonic() - begun < 2
    assert "no answer in 0.2 s; --timeout sets another limit" in str(error)
    assert not error.temporary, "another request of the same length would not be faster"


def test_overloaded_servers_are_asked_again(caplog):
    """After as long as they ask; one message tells of several waits."""
    body = json.dumps({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]})
    busy = [reply("429 Slow", "{}", "Retry-After: 7"), reply("503 Busy", "{}"), b""]
    waits = []
    with raw_server(*busy, reply("200 OK", body)) as url:
        retries = Retries(delays=(1, 2, 4), sleep=waits.append)
        assert retries(lambda: client(url).complete("tiny", HI, Decoding())).text == "yes"
    assert waits[0] == 7
    assert 1 <= waits[1] <= 2
    assert 2 <= waits[2] <= 4
    (record,) = caplog.records
    assert record.getMessage().endswith("takes no more requests now (429); sent again in 7.0 s")


@pytest.mark.parametrize(
    ("sent", "waited"),
    [
        (reply("503 Busy", "{}"), 2),
        (reply("429 Slow", "{}", "Retry-After: 3600"), 0),
        (reply("400 Bad", "{}"), 0),
        (reply("504 Slow", "{}"), 0),
    ],
)
def test_retries_end(sent, waited):
    """At once where waiting is of no use, or would take an hour."""
    waits = []
    retries = Retries(delays=(1, 2), sleep=waits.append)
    with raw_server(sent) as url, pytest.raises(RequestFailed, match=r"\((503|429|400|504)\)$"):
        retries(lambda: client(url).complete("tiny", HI, Decoding()))
    assert len(waits) == waited
