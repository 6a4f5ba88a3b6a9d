"""What is typed wrongly is one clear message, before torch is imported and before anything listens."""

import socket

import pytest

from vlm_serve.api.guard.keys import add_key
from vlm_serve.api.guard.settings import ServerSettings
from vlm_serve.cli.main import main
from vlm_serve.cli.options import build_parser, settings_of
from vlm_serve.cli.serve import engine_settings


def settings(*words):
    return settings_of(build_parser().parse_args(["model", *words]))


def message(capsys, *words):
    """The message of a wrong command line, whose exit code is 2."""
    try:
        code = main(list(map(str, words)))
    except SystemExit as end:
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_defaults_let_nobody_in():
    values = settings()
    assert values == ServerSettings(model="model")
    assert (values.host, values.keys_file, values.allowed_origins) == ("127.0.0.1", None, ())
    assert (values.image_hosts, values.image_folders, values.shared_cache) == ((), (), False)


def test_options_are_settings(tmp_path):
    values = settings(
        "--port",
        "0",
        "--device",
        "cpu",
        "--device",
        "cuda:1",
        "--max-body",
        "2MiB",
        "--grace",
        "1.5",
        "--allow-image-host",
        "*.Example.org:8443",
        "--allow-image-folder",
        str(tmp_path),
        "--rate",
        "60",
        "--allow-origin",
        "https://a.example",
        "--no-access-log",
        "--slots",
        "3",
        "--cache-memory",
        "0",
        "--host",
        "0.0.0.0",
        "--no-keys",
        "--name",
        "vlm",
        "--reload",
        "--worker-timeout",
        "0",
        "--image-chunk",
        "2",
        "--max-responses",
        "0",
        "--response-memory",
        "1MiB",
        "--response-age",
        "604800",
    )
    assert values.devices == ("cpu", "cuda:1")
    assert values.max_body_bytes == 2 * 2**20
    assert values.image_hosts == ("*.example.org:8443",)
    assert values.image_folders == (tmp_path,)
    assert (values.grace, values.requests_per_minute, values.access_log) == (1.5, 60, False)
    assert (values.model_name, values.reload, values.port) == ("vlm", True, 0)
    assert (values.worker_timeout, values.max_responses, values.response_bytes) == (0, 0, 2**20)
    assert values.response_age == 7 * 86_400
    assert engine_settings(values).image_chunk == 2
    assert (engine_settings(values).slots, engine_settings(values).cache_bytes) == (3, 0)


def test_every_setting_has_an_option():
    """A field that no option sets is not honoured; these have none on purpose."""
    destinations = {action.dest for action in build_parser()._actions}
    without = {"max_header_bytes", "image_redirects"}
    assert set(ServerSettings.model_fields) - destinations == without
    assert destinations - set(ServerSettings.model_fields) == {"help", "no_keys"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--host", "0.0.0.0"], "lets other machines in: ask for keys with --keys FILE"),
        (["--host", "::"], "lets other machines in"),
        (["--host", "nowhere.invalid"], "no address is known for it"),
        (["--host", ""], "no address is known for it"),
        (["--port", "65536"], "expected a whole number from 0 to 65535"),
        (["--max-body", "5x"], "expected a size, such as 64MiB"),
        (["--max-body", "0"], "--max-body: expected at least 1, got 0"),
        (["--max-body", "999999999999999GiB"], "--max-body: expected at most 1099511627776"),
        (["--grace", "0"], "expected seconds"),
        (["--grace", "nan"], "expected seconds"),
        (["--grace", "1e9"], "expected seconds"),
        (["--slots", "0"], "expected a whole number"),
        (["--worker-timeout", "-1"], "expected seconds"),
        (["--worker-timeout", "90000"], "expected seconds, above 0 and at most 86400"),
        (["--image-chunk", "0"], "expected a whole number"),
        (["--max-responses", "-1"], "expected a whole number from 0"),
        (["--response-memory", "0"], "--response-memory: expected at least 1, got 0"),
        (["--response-age", "0"], "expected seconds, above 0 and at most 31536000"),
        (["--allow-image-host", "http://a"], "expected a host, such as"),
        (["--allow-image-host", ""], "expected a host, such as"),
        (["--allow-image-folder", "/none"], "--allow-image-folder /none: no such folder"),
        (["--allow-origin", "*"], "expected an origin"),
        (["--allow-origin", "https://a.example/"], "expected an origin"),
        (["--burst", "5"], "--burst is for --rate"),
        (["--cache-folder-size", "5"], "--cache-folder-size is for --cache-folder"),
        (["--shared-cache"], "--shared-cache is about several API keys"),
        (["--keys", "/none", "--no-keys"], "--keys and --no-keys contradict each other"),
        (["--allow-host", "box", "--keys", "/none"], "--allow-host is for a server without keys"),
        (["--image-timeout", "3"], "--image-timeout is for --allow-image-host"),
        (["--behind-proxy", "proxy"], "expected an address, or a network"),
        (["--gracee", "3"], "did you mean --grace?"),
        (["--dtype", "int4"], "invalid choice"),
    ],
)
def test_wrong_options(capsys, tiny_folder, words, text):
    assert text in message(capsys, tiny_folder, *words)


def test_wrong_files(capsys, tiny_folder, tmp_path):
    assert "no such model folder" in message(capsys, tmp_path / "none")
    assert "not a model folder: it has no manifest.json" in message(capsys, tmp_path)
    assert "cannot read this file: no such file" in message(capsys, tiny_folder, "--keys", tmp_path / "none")
    keys = tmp_path / "keys"
    keys.write_text("{}")
    keys.chmod(0o600)
    assert "has no key, so that nobody could use" in message(capsys, tiny_folder, "--keys", keys)
    add_key(keys, "alice")
    keys.chmod(0o644)
    assert "other users may open this key file" in message(capsys, tiny_folder, "--keys", keys)
    assert "not a folder" in message(capsys, tiny_folder, "--cache-folder", keys / "inside")


def test_a_port_in_use(capsys, tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in message(capsys, tiny_folder, "--port", port)


def test_an_address_of_another_machine(capsys, tiny_folder):
    text = message(capsys, tiny_folder, "--host", "203.0.113.5", "--no-keys")
    assert text == "vlm-serve: --host 203.0.113.5: no address of this machine"


def test_an_unknown_device(capsys, tiny_folder):
    assert "no device that torch knows" in message(capsys, tiny_folder, "--port", "0", "--device", "tpu9")


def test_keys(capsys, tmp_path):
    keys = tmp_path / "keys.json"
    assert main(["keys", "add", "alice", "--keys", str(keys)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sk-vlm-")
    assert len(out.splitlines()) == 1, "the key alone, for a pipe"
    assert "shown this once" in err
    assert main(["keys", "list", "--keys", str(keys)]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("alice  sk-vlm-")
    assert out.strip() not in listed
    assert main(["keys", "remove", "alice", "--keys", str(keys)]) == 0
    assert "removed the key of alice" in capsys.readouterr().out
    assert "no key named 'bob'; there are: none" in message(capsys, "keys", "remove", "bob", "--keys", keys)
    assert "no name for a key" in message(capsys, "keys", "add", "a b", "--keys", keys)
    assert "--keys" in message(capsys, "keys", "add", "alice")
    assert "one of these commands" in message(capsys, "keys")
