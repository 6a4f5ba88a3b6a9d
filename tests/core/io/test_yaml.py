"""YAML as people mean it, and every trap as an error with its line."""

import math
import os
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlm_core.errors import SpecError, UserError
from vlm_core.io.yaml_loader import override, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),
        ("0x10", "0x10"),
        ("12:30:45", "12:30:45"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("", None),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("'1e-5'", "1e-5"),
        ('"true"', "true"),
        (".inf", math.inf),
        ("2026-11-23", "2026-11-23"),
    ],
)
def test_scalars(text, value):
    found = parse(f"x: {text}", "f").data["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"f:3: a: this key appears twice; the first is at f:1"),
        ("a: [1, 2", r"f:\d: not valid YAML"),
        ("a:\n  - !!python/object:os.system x", r"f:2: a.0: the tag .*python.* is not allowed"),
        ("a: !include other.yaml", "the tag !include is not allowed"),
        ("? [1, 2]\n: 3", "a key must be a plain word"),
        (
            "a: &a [x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{b}: &{b} [{', '.join(['*' + a] * 8)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
            ),
            "aliases counted",
        ),
        ("a: " + "[" * 60 + "]" * 60, "aliases counted"),
        ("[" * 5000, "aliases counted"),
        ("- " * 5000, "aliases counted"),
        ("x: [" + "1, " * 20_000 + "]", "aliases counted"),
        ("".join(f"k{i}: 1\n" for i in range(12_000)), "f:10000: k9999: .*aliases counted"),
        ("a: &a '" + "x" * 1000 + "'\nb: [" + "*a, " * 1000 + "]", "aliases counted"),
        ("a: &a [*a]", r"f:1: a.0: there is no anchor &a before this alias"),
        ("a: &a 1\nb: &a 2", r"f:2: b: the anchor &a appears twice"),
        ("a: *b", r"f:1: a: there is no anchor &b before this alias"),
        ("a: &a {b: 1}\nc:\n  <<: *a", r"f:3: c: merge keys are not read"),
        ("a: 1\n---\nb: 2", r"f:2: not valid YAML: a second document"),
        ("a: " + "9" * 5000, r"f:1: a: a whole number of 5000 digits, beyond 64 bits"),
        ("a:\n  b: 9223372036854775808", r"f:2: a.b: a whole number of 19 digits, beyond 64 bits"),
        ("a: 1e999", r"f:1: a: 1e999 is beyond the largest number"),
        ("a: 1\nb: " + "9" * 400 + ".0", r"f:2: b: 9+… is beyond the largest number"),
        ('a: "\\U00110000"', r"f:1: not valid YAML"),
        ('a: "\\ud800"', r"f:1: a: a text can't hold the character U\+D800"),
        ('a: "\\0"', r"f:1: a: a text can't hold the character U\+0000"),
        ('"a\\0": 1', r"f:1: a key must be a plain word"),
        ("b: 1\na\0: 1", r"f:2: not valid YAML: the character U\+0000 is not allowed"),
        ("%YAML 1." + "1" * 5000 + "\n---\na: 1", r"f:1: not valid YAML"),
        ("%YAML 2.0\n---\na: 1", r"f:1: not valid YAML"),
        ("a: !!binary aGk=", "the tag .*binary is not allowed"),
        ("a: !!float 1", "the tag .*float is not allowed"),
        ("a: !" + "b" * 5000, "the tag !b{98}… is not allowed"),
        ("? \n: 1", "a key must be a plain word"),
        ("*a : 1", "a key must be a plain word"),
        ("{a: 1}: 2", "a key must be a plain word"),
        ("? " + "k" * 1001 + "\n: 1", "a key must be a plain word of 1 to 1000 characters"),
        ("a:\n\tb: 1", "f:2: not valid YAML: .*; indent with spaces"),
    ],
)
def test_traps_are_errors_with_a_line(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text, "f")


def test_too_large_or_unreadable(tmp_path):
    with pytest.raises(UserError, match="at most"):
        parse("a" * 2_000_000, "f")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/spec.yaml").touch()
    with pytest.raises(
        UserError, match=r"model: .*a folder, expected a regular file; .*model/spec\.yaml is one"
    ):
        read(tmp_path / "model")
    with pytest.raises(UserError, match=r"none\.yaml: cannot read this spec: no such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        read(tmp_path / "latin.yaml")


def no_number(text):
    """PyYAML writes strings such as 0E0 plain, which are numbers in YAML 1.2."""
    for convert in (float, lambda t: int(t, 0)):
        with suppress(ValueError):
            convert(text)
            return False
    return True


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=8).filter(no_number)
KEY = st.text(CHARACTERS, min_size=1, max_size=5).filter(no_number)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=10,
)


@given(DATA)
def test_reads_what_pyyaml_writes(data):
    assert parse(yaml.safe_dump({"x": data}), "f").data == {"x": data}


def test_override_sets_values_and_remembers_where_from():
    document = parse("a:\n  - {b: 1}\n", "f")
    override(document, "a.0.b=2.5e-3")
    assert document.data == {"a": [{"b": 0.0025}]}
    assert document.where(("a", 0, "b")) == "--set a.0.b=2.5e-3"
    override(document, "2=c")
    assert document.data["2"] == "c"
    for bad, message in [
        ("a", "expected dotted"),
        ("z.b=1", "has no z"),
        ("a.3.b=1", "has no a.3"),
        ("a.².b=1", "has no a.²"),
        ("a." + "9" * 5000 + ".b=1", "has no a.9+…"),
        ("a.²=1", "a cannot hold it"),
        ("2.0=1", "2 cannot hold it"),
        ("a." * 5000 + "b=1", "has no a.a"),
        ("a=" + "9" * 5000, "beyond 64 bits"),
        ("a=\udcff", "not valid YAML"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            override(document, bad)
        assert len(str(caught.value)) < 500


def test_aliases_are_copies_with_the_lines_of_their_anchor():
    document = parse("a: &a\n  b: [1]\nc: *a\n", "f")
    assert document.data == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert [document.where(path) for path in (("c",), ("c", "b", 0))] == ["f:3", "f:2"]
    document.data["c"]["b"].append(2)
    assert document.data["a"] == {"b": [1]}


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large", "utf-16", "link"])
def test_only_a_regular_file_of_bounded_size_is_read(tmp_path, kind):
    path = tmp_path / "spec.yaml"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "large":
            path.write_bytes(b"#" * 250_001)
        case "utf-16":
            path.write_text("a: 1", encoding="utf-16")
        case "link":
            path.symlink_to(path)
    reason = r"spec\.yaml:1: not UTF-8" if kind == "utf-16" else r"spec\.yaml: cannot read this spec: "
    with pytest.raises(UserError, match=reason):
        read(path)
