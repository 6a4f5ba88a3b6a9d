"""API keys: hashed at rest, closed to other users, changed while a server runs."""

import json
import os
import re

import pytest

from vlm_core.errors import UserError
from vlm_serve.api.guard import keys
from vlm_serve.api.guard.keys import KeyRing, add_key, read_keys, remove_key


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "keys.json"


def test_a_key_opens_and_names_its_owner(file):
    alice, bob = add_key(file, "alice"), add_key(file, "bob")
    ring = KeyRing(file)
    assert (ring.name_of(alice), ring.name_of(bob)) == ("alice", "bob")


def test_the_file_does_not_hold_the_key_and_is_closed_to_others(file):
    key = add_key(file, "alice")
    secret = re.fullmatch(r"sk-vlm-[0-9a-f]{12}-(.{43})", key)[1]
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    add_key(file, "bob")
    assert file.stat().st_mode & 0o777 == 0o600


def test_equal_secrets_have_different_hashes():
    assert keys._hash("00", "secret") != keys._hash("01", "secret")


@pytest.mark.parametrize("change", ["", "x", "last", "id", "case", "space", "newline"])
def test_a_wrong_key_opens_nothing(file, change):
    key = add_key(file, "alice")
    other = add_key(file, "bob")
    wrong = {
        "": "",
        "x": "x" * len(key),
        "last": key[:-1] + ("A" if key[-1] != "A" else "B"),
        "id": other[:19] + key[19:],
        "case": key.swapcase(),
        "space": f" {key}",
        "newline": f"{key}\n",
    }[change]
    assert KeyRing(file).name_of(wrong) is None


def test_a_removed_key_ends_while_the_server_runs(file, monkeypatch):
    monkeypatch.setattr(keys, "_POLL_SECONDS", 0)
    alice, bob = add_key(file, "alice"), add_key(file, "bob")
    ring = KeyRing(file)
    remove_key(file, "alice")
    assert ring.name_of(alice) is None
    assert ring.name_of(bob) == "bob"
    assert ring.name_of(add_key(file, "carol")) == "carol"


@pytest.mark.parametrize("fault", ["missing", "open", "text"])
def test_no_key_is_valid_while_the_file_is_unusable(file, monkeypatch, caplog, fault):
    monkeypatch.setattr(keys, "_POLL_SECONDS", 0)
    key = add_key(file, "alice")
    ring, content = KeyRing(file), file.read_text()
    if fault == "missing":
        file.unlink()
    elif fault == "open":
        file.chmod(0o644)
    else:
        file.write_text("{")
    assert ring.name_of(key) is None
    assert ring.name_of(key) is None
    assert caplog.text.count("no key is valid") == 1
    file.write_text(content)
    file.chmod(0o600)
    assert ring.name_of(key) == "alice"


def test_a_file_that_others_may_open_is_refused(file):
    add_key(file, "alice")
    file.chmod(0o640)
    with pytest.raises(UserError, match=r"other users may open this key file .*chmod 600"):
        KeyRing(file)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"keys": [{}]}', '{"keys": 3}', '{"other": []}', "\0", "[" * 10**5]
)
def test_a_damaged_file_is_refused(file, content):
    file.parent.mkdir()
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(UserError, match="no key file as `vlm-serve keys add` writes it"):
        read_keys(file)


def test_names(file):
    add_key(file, "alice@example.org")
    for name in ("", "a b", "ä", "-a", "a" * 65, "a\n", "../a"):
        with pytest.raises(UserError, match="no name for a key"):
            add_key(file, name)
    with pytest.raises(UserError, match=r"has a key named alice.* already"):
        add_key(file, "alice@example.org")
    with pytest.raises(UserError, match=r"no key named 'bob'; there are: alice@example.org"):
        remove_key(file, "bob")


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(UserError, match="a FIFO"):
        KeyRing(tmp_path / "keys")


def test_the_list_has_no_secret(file):
    add_key(file, "alice")
    entry = json.loads(file.read_text())["keys"][0]
    assert set(entry) == {"name", "id", "salt", "sha256", "created"}
