"""What lmms-eval's tasks ask for becomes this model's decoding; no lmms-eval is needed to see that."""

from importlib.metadata import entry_points
from typing import Any

import pytest

from vlm_bench.lmms.requests import MAX_NEW_TOKENS, batches, cut, decoding, stops
from vlm_core.errors import UserError
from vlm_core.generation.sampling import GenerationConfig


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, GenerationConfig(MAX_NEW_TOKENS)),
        (
            {"max_new_tokens": 8, "temperature": 0, "top_p": None, "num_beams": 1, "until": ["\n\n"]},
            GenerationConfig(8),
        ),
        ({"temperature": 0.7, "do_sample": False}, GenerationConfig(MAX_NEW_TOKENS)),
        ({"temperature": 0.7, "top_p": 0.9, "do_sample": True}, GenerationConfig(MAX_NEW_TOKENS, 0.7, 0.9)),
        ({"max_gen_toks": 4}, GenerationConfig(4)),
    ],
)
def test_decoding(wanted: dict[str, Any], expected: GenerationConfig) -> None:
    assert decoding(wanted) == expected


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="num_beams 4; this model decodes with one"):
        decoding({"num_beams": 4})
    with pytest.raises(UserError, match="penalty unknown; known are"):
        decoding({"penalty": 1.1})


def test_answers_end_where_the_task_says() -> None:
    assert stops({"until": "x"}) == ["x"]
    assert stops({"until": None}) == []
    assert cut("yes\n\nno. end", ["end", "\n\n"]) == "yes"
    assert cut(" yes ", ["", "z"]) == "yes"


def test_batches_are_neighbours_decoded_alike() -> None:
    short, long = GenerationConfig(1), GenerationConfig(2)
    items = [(short, "a"), (short, "b"), (short, "c"), (long, "d"), (short, "e")]
    assert list(batches(items, 2)) == [
        (short, ["a", "b"]),
        (short, ["c"]),
        (long, ["d"]),
        (short, ["e"]),
    ]


def test_the_entry_point_is_there() -> None:
    (found,) = entry_points(group="lmms_eval.models", name="vlm")
    assert found.value == "vlm_bench.lmms:manifest"
    assert callable(found.load())
