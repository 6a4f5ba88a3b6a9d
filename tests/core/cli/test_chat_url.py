"""`vlm-chat --url`: a conversation with a server, its images, what is refused, and answers that are stopped."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from threading import Event, Thread

import pytest
from chat_stub import Stub, event, raw_server, reply, running
from PIL import Image
from starlette.responses import StreamingResponse

from vlm_core.cli import chat, prompt

HELLO = {"role": "user", "content": "hello"}


@pytest.fixture
def stub():
    return Stub()


@pytest.fixture
def url(stub):
    with running(stub.app) as address:
        yield address


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red square.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


@pytest.fixture
def talk(cli, monkeypatch):
    """`talk(lines, *options)` types lines -> (exit code, stdout, stderr)."""

    def run(lines, *options):
        monkeypatch.setattr(prompt, "lines", lambda: iter(lines))
        return cli(chat.main, *options)

    return run


def test_a_question(cli, url, stub):
    assert cli(chat.main, "--url", url, "--ask", "hello", "--max-new-tokens", 5) == (0, "hello! \n", "")
    assert stub.requests[0]["messages"] == [HELLO]
    assert stub.requests[0]["max_tokens"] == 5
    assert stub.requests[0]["temperature"] == 0


def test_an_image_is_sent_as_its_file_is_and_no_path_with_it(cli, url, stub, picture):
    """The question follows the images; the name of the file stays here."""
    assert cli(chat.main, "--url", url, "--image", picture, "--ask", "which colour?")[0] == 0
    image, question = stub.requests[0]["messages"][0]["content"]
    kind, data = image["image_url"]["url"].split(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(data) == picture.read_bytes()
    assert question == {"type": "text", "text": "which colour?"}
    assert "red square" not in str(stub.requests[0]).replace("which colour?", "")


def test_a_conversation(talk, url, stub, picture, tmp_path):
    """Earlier turns come with each question; /new forgets them."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypmp42")
    lines = [
        f"/image {picture}".replace(" sq", "\\ sq"),
        f"/video {clip}",
        "one",
        "two",
        "/new",
        "three",
        "/cache",
    ]
    code, out, err = talk([*lines, "/quit", "never"], "--url", url)
    assert (code, err) == (0, "")
    assert out.startswith(f"tiny at {url}/v1: /image FILE")
    assert out.endswith("tokens of the last prompt: 7, 5 of them from the server's cache; answer: 1\n")
    first, second, third = (body["messages"] for body in stub.requests)
    assert [part["type"] for part in first[0]["content"]] == ["image_url", "video_url", "text"]
    assert first[0]["content"][1]["video_url"]["url"] == "data:video/mp4;base64,AAAAGGZ0eXBtcDQy"
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[0] == first[0]
    assert second[2] == {"role": "user", "content": "two"}
    assert third == [{"role": "user", "content": "three"}]


def test_commands_of_local_models_and_wrong_files_are_refused_by_name(talk, url, stub, tmp_path):
    text = tmp_path / "secret.png"
    text.write_text("a key")
    lines = [
        "/save x",
        "/status",
        "/what",
        "/cache",
        "/image none.png",
        f"/image {text}",
        f"/video {text}",
        "hello",
    ]
    code, out, err = talk(lines, "--url", url)
    assert code == 0
    assert "/save: it is for a model in this process, not for --url. /image" in out
    assert "/status: it is for a model in this process" in out
    assert "/what: unknown command or wrong arguments." in out
    assert "no answer yet, or the server counts no tokens" in out
    assert "none.png: no such image file" in err
    assert "secret.png: not an image of a kind that is read" in err
    assert "secret.png: not a video of a kind that is read" in err
    assert stub.requests[0]["messages"] == [HELLO], "what is no image is not sent"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model"], "model: a model folder, and --url names a server"),
        (["--save", "x"], "--save: it is for a model in this process, not for --url"),
        (["--resume", "x"], "--resume: it is for a model"),
        (["--state-cache", "x"], "--state-cache: it is for a model"),
        (["--watch", "x"], "--watch: it is for a model"),
        (["--device", "cpu"], "--device: it is for a model"),
        (["--dtype", "float16"], "--dtype: it is for a model"),
        (["--trust-remote-code"], "--trust-remote-code: it is for a model"),
        (["--fps", "1"], "--fps is for --watch"),
        (["--timeout", "0"], "expected seconds, above 0 and at most 86400"),
        (["--api-key-env", "NOT_SET"], "NOT_SET: this environment variable is not set"),
        (["--model", "other", "--ask", "?"], "no such model or address (404): no model 'other'"),
    ],
)
def test_options_that_a_server_cannot_honour(cli, url, options, message):
    code, out, err = cli(chat.main, "--url", url, *options)
    assert (code, out) == (2, "")
    assert message in err


def test_options_without_a_server(cli, tiny_folder):
    for options in (["--model", "x"], ["--api-key-env", "X"], ["--timeout", "1"]):
        code, _, err = cli(chat.main, tiny_folder, *options)
        assert code == 2
        assert f"{options[0]} is for --url, which is not given" in err
    code, _, err = cli(chat.main)
    assert code == 2
    assert "name a model folder, or a server with --url" in err


def test_a_server_that_stops_in_the_answer(talk, url, stub, picture):
    """The question is withdrawn, its image stays for the next one; the conversation goes on."""
    parts = iter([StreamingResponse(iter([event("half ")]), media_type="text/event-stream")])
    whole = stub.answer
    stub.answer = lambda body: next(parts, None) or whole(body)
    code, out, err = talk([f"/image '{picture}'", "one", "two"], "--url", url)
    assert code == 0
    assert "half \n" in out
    assert err == f"{url}/v1: the server stopped in the middle of its answer\n"
    (message,) = stub.requests[1]["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1]["text"] == "two"


def test_text_of_a_server_cannot_control_the_terminal(cli):
    models = reply("200 OK", '{"data": [{"id": "tiny"}]}')
    stream = reply(
        "200 OK", event("\x1b[2Jred\n") + event(None, "content\x1bfilter"), kind="text/event-stream"
    )
    with raw_server(models, stream) as url:
        code, out, err = cli(chat.main, "--url", url, "--ask", "?")
    assert (code, out) == (0, "\\x1b[2Jred\n\n")
    assert err == "the server ended the answer: content\\x1bfilter\n"


def test_no_server(cli):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, out, err = cli(chat.main, "--url", f"http://127.0.0.1:{port}", "--ask", "?")
    assert (code, out) == (2, "")
    message = "cannot connect: Connection refused; is the server running?"
    assert err == f"vlm-chat: http://127.0.0.1:{port}/v1: {message}\n"


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_stops_the_answer_and_ends_the_request(talk, url, stub, capsys, begun):
    """Also before the first word; what has come is part of the conversation."""
    ended, whole = Event(), stub.answer

    async def endless():
        import anyio

        try:
            while True:
                yield event("word ") if begun else ": waiting\n\n"
                await anyio.sleep(0.02)
        finally:
            ended.set()

    def answer(body):
        if len(stub.requests) > 1:
            return whole(body)
        Thread(target=lambda: (time.sleep(0.3), os.kill(os.getpid(), signal.SIGINT))).start()
        return StreamingResponse(endless(), media_type="text/event-stream")

    stub.answer = answer
    code, out, err = talk(["stop me", "go on"], "--url", url)
    assert (code, err) == (0, "")
    assert ended.wait(3), "the server was told by a closed connection"
    messages = stub.requests[1]["messages"]
    if begun:
        assert "word word" in out
        assert [m["role"] for m in messages] == ["user", "assistant", "user"]
        assert set(messages[1]["content"].split()) == {"word"}
    else:
        assert "stopped before the first word: the question is not part of the conversation" in out
        assert messages == [{"role": "user", "content": "go on"}]


def test_no_model_library_is_loaded(url):
    code = (
        "import sys; from vlm_core.cli.chat import main; code = main(); "
        "print(sorted({'torch', 'transformers', 'numba'} & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--url", url, "--ask", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello! \n[]\n", "")
