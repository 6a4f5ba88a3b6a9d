"""YAML as people mean it, and every trap as an error with its line."""

import math
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlm_core.errors import SpecError, UserError
from vlm_core.yaml_loader import override, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-2", -2), ("010", 10), ("0x10", "0x10"),
        ("12:30:45", "12:30:45"), ("yes", "yes"), ("no", "no"), ("true", True), ("~", None), ("", None),
        ("'1e-5'", "1e-5"), ('"true"', "true"), (".inf", math.inf), ("2026-11-23", "2026-11-23"),
    ],
)  # fmt: skip
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
        ("a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
            f"{b}: &{b} [{', '.join(['*' + a] * 8)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
        ), "aliases counted"),
        ("a: " + "[" * 60 + "]" * 60, "aliases counted"),
        ("[" * 5000, "not valid YAML"),
    ],
)  # fmt: skip
def test_traps_are_errors_with_a_line(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text, "f")


def test_too_large_or_unreadable(tmp_path):
    with pytest.raises(UserError, match="at most"):
        parse("a" * 2_000_000, "f")
    with pytest.raises(UserError, match=r"none\.yaml: cannot read this spec: No such file"):
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


TEXT = st.text(max_size=8).filter(no_number)
KEY = st.text(min_size=1, max_size=5).filter(no_number)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
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
    for bad, message in [("a", "expected dotted"), ("z.b=1", "has no z"), ("a.3.b=1", "has no a.3")]:
        with pytest.raises(UserError, match=message):
            override(document, bad)
