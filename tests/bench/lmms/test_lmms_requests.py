"""What lmms-eval's tasks ask for becomes this model's decoding; no lmms-eval is needed to see that."""

from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import pytest

from vlm_bench.lmms.requests import MAX_NEW_TOKENS, batches, decoding, decodings, stops
from vlm_core.errors import UserError
from vlm_core.generation.sampling import GenerationConfig

SAMPLED = GenerationConfig(MAX_NEW_TOKENS, 0.7, 1.0, 0)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, GenerationConfig(MAX_NEW_TOKENS)),
        (
            {"max_new_tokens": 8, "temperature": 0, "top_p": None, "num_beams": 1, "until": ["\n\n"]},
            GenerationConfig(8),
        ),
        ({"temperature": 0.7, "do_sample": False}, GenerationConfig(MAX_NEW_TOKENS)),
        ({"temperature": 0, "do_sample": True}, GenerationConfig(MAX_NEW_TOKENS)),
        ({"temperature": 0.7, "top_p": 0.9, "do_sample": True}, GenerationConfig(MAX_NEW_TOKENS, 0.7, 0.9)),
        ({"temperature": 0.7, "top_p": 0}, GenerationConfig(MAX_NEW_TOKENS, 0.7, 0.0)),
        ({"temperature": 0.7, "seed": 5}, GenerationConfig(MAX_NEW_TOKENS, 0.7, 1.0, 5)),
        ({"temperature": 0.7, "seed": None}, SAMPLED),
        ({"temperature": 0, "seed": 5}, GenerationConfig(MAX_NEW_TOKENS)),
        ({"temperature": 0.7, "top_k": 1}, GenerationConfig(MAX_NEW_TOKENS)),
        ({"temperature": 0.7, "top_k": 0, "repetition_penalty": 1.0}, SAMPLED),
        ({"temperature": 0, "top_k": 50}, GenerationConfig(MAX_NEW_TOKENS)),
        ({"max_gen_toks": 4}, GenerationConfig(4)),
        ({"max_gen_toks": 4, "max_new_tokens": 4}, GenerationConfig(4)),
        ({"skip_special_tokens": True, "image_aspect_ratio": "pad"}, GenerationConfig(MAX_NEW_TOKENS)),
    ],
)
def test_decoding(wanted: dict[str, Any], expected: GenerationConfig) -> None:
    assert decoding(wanted) == expected


def test_a_seed_of_the_task_precedes_that_of_the_run() -> None:
    assert decoding({"temperature": 0.7}, 1234).seed == 1234
    assert decoding({"temperature": 0.7, "seed": 5}, 1234).seed == 5
    assert decoding({"temperature": 0.0}, 1234) == decoding({}, 7), "the same batch for all greedy requests"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"num_beams": 4}, "num_beams 4; this model decodes with one"),
        ({"repetition_penalty": 1.2}, "repetition_penalty 1.2; this model decodes without a penalty"),
        (
            {"skip_special_tokens": False},
            "skip_special_tokens False; answers are text without control tokens",
        ),
        ({"penalty": 1.1}, "penalty unknown; known are do_sample, image_aspect_ratio"),
        ({"temperature": 0.7, "top_k": 50}, "top_k 50; this model samples with temperature and top_p alone"),
        ({"do_sample": True}, "do_sample true without temperature; set the temperature, too"),
        ({"do_sample": "False"}, "do_sample False; expected true or false"),
        ({"temperature": "0.7"}, "temperature 0.7; expected a number"),
        ({"temperature": -1}, "temperature -1; expected a number"),
        ({"temperature": float("nan")}, "temperature nan; expected a number"),
        ({"temperature": 1, "top_p": 1.5}, "top_p 1.5; expected a number from 0 to 1"),
        ({"max_new_tokens": 0}, "max_new_tokens 0; expected a whole number, 1 or more"),
        ({"max_new_tokens": 1.5}, "max_new_tokens 1.5; expected a whole number"),
        ({"max_new_tokens": 8, "max_gen_toks": 4}, "max_new_tokens 8 and max_gen_toks 4 differ; set one"),
        ({"temperature": 1, "seed": -1}, "seed -1; expected a whole number, 0 or more"),
        ({"temperature": 1, "seed": True}, "seed True; expected a whole number"),
    ],
)
def test_what_it_cannot_do_is_refused(wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as refusal:
        decoding(wanted)
    assert f"generation_kwargs: {reason}" in str(refusal.value)


def test_repetitions_of_a_request_are_drawn_anew() -> None:
    """Without this, all repetitions of a question have the same answer, and a majority vote means nothing."""

    def request(doc: int, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(args=("what?", settings, None, doc, "task", "test"))

    one, other, greedy = request(0, temperature=1, seed=5), request(1, temperature=1), request(2)
    configs = decodings([one, one, other, greedy, greedy, one, other], seed=9)
    assert [config.seed for config in configs] == [5, 6, 9, 0, 0, 7, 10]
    assert configs[3] == configs[4]


def test_stop_strings() -> None:
    assert stops({"until": "x"}) == ["x"]
    assert stops({"until": None}) == []
    assert stops({"until": ["\n\n", ""], "stop_sequences": ["\n", "\n\n"]}) == ["\n\n", "\n"]
    assert stops({"stop_sequences": "Q:"}) == ["Q:"]
    for wrong in (5, [5], {"a": 1}):
        with pytest.raises(UserError, match=r"stop_sequences .*; expected a text or a list of texts"):
            stops({"stop_sequences": wrong})


def test_batches_are_neighbours_decoded_alike() -> None:
    short, long = GenerationConfig(1), GenerationConfig(2)
    items = [(short, "a"), (short, "b"), (short, "c"), (long, "d"), (short, "e")]
    assert list(batches(items, 2)) == [
        (short, ["a", "b"]),
        (short, ["c"]),
        (long, ["d"]),
        (short, ["e"]),
    ]


def test_sampled_requests_are_alone() -> None:
    items = [(SAMPLED, "a"), (SAMPLED, "b")]
    assert list(batches(items, 8)) == [(SAMPLED, ["a"]), (SAMPLED, ["b"])]


def test_the_entry_point_is_there() -> None:
    (found,) = entry_points(group="lmms_eval.models", name="vlm")
    assert found.value == "vlm_bench.lmms:manifest"
    assert callable(found.load())
