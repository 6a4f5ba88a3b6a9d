"""`vlm-serve MODEL` as a process: from its line to its end."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from vlm_serve.api.guard.keys import add_key


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return file, add_key(file, "alice")


@pytest.fixture(scope="module")
def process(tiny_folder, keys):
    command = [
        sys.executable,
        "-m",
        "vlm_serve.cli.main",
        str(tiny_folder),
        "--port",
        "0",
        "--keys",
        str(keys[0]),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def address(process):
    line = process.stdout.readline()
    match = re.fullmatch(r"tiny on (cpu|cuda): (http://127\.0\.0\.1:\d+)\n", line)
    assert match, (line, process.stderr.read() if process.poll() is not None else "")
    return match[2]


def get(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    fields = {"content-type": "application/json", **headers}
    request = urllib.request.Request(url, data, fields)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_it_answers_whoever_has_a_key(address, keys):
    assert get(f"{address}/health")["status"] == "ok"
    body = {"model": "tiny", "messages": [{"role": "user", "content": "what color?"}], "max_tokens": 4}
    answer = get(f"{address}/v1/chat/completions", body, authorization=f"Bearer {keys[1]}")
    assert answer["usage"]["completion_tokens"] <= 4
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{address}/v1/models")


def test_it_ends_by_a_signal_with_exit_code_0(address, process, keys):
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    # the task of the last answer may be ending still
    assert re.search(r"SIGTERM: stopping; (0 requests have|1 request has) 30 s", err), err
    assert err.startswith("loading ")
    assert "Traceback" not in err
    assert " alice POST /v1/chat/completions 200 " in out
    assert keys[1] not in out + err
    assert "what color" not in out + err
