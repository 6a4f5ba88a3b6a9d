"""Generation up to a stop string equals a whole generation that is cut, and takes no more tokens than it must."""

import random

import pytest
from generation_cases import images, prompt

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.stop_strings import StopMatcher, cut, generate_until

LONG = GenerationConfig(max_new_tokens=40, temperature=1.0, seed=3)
"""Sampled: a random model greedily repeats one token."""
QUESTIONS = ("is there a circle?", "red", "what color is the shape on the white ground?")


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("yes\n\nno. end", ["end", "\n\n"], "yes"),
        (" yes ", ["z"], "yes"),
        (" yes ", [], "yes"),
        ("\n\nyes\n\nno", ["\n\n"], "yes"),
        ("abc", ["c", "bc"], "a"),
        ("stop", ["stop"], ""),
    ],
)
def test_cut(text, stops, expected):
    assert cut(text, stops) == expected


def session_of(model):
    """Three conversations of different lengths, prefilled."""
    session, pixels = Session(model), images(3)
    session.prefill([prompt(model, q, p) for q, p in zip(QUESTIONS, pixels, strict=True)], pixels)
    return session


def whole(model):
    """The ids of each conversation, up to EOS or the greatest length, and their texts."""
    rows = zip(*session_of(model).tokens(LONG), strict=True)
    ids = [[i for i in row if i is not None] for row in rows]
    return ids, [model.llm.tokenizer.decode(row) for row in ids]


def matched(tokenizer, ids, stops):
    """The matcher after it has got `ids` one by one, and how many it wanted."""
    matcher = StopMatcher(tokenizer, stops)
    for count, token in enumerate(ids, 1):
        if matcher.add(token):
            return matcher.text(), count
    return matcher.text(), len(ids)


def test_answers_equal_cut_ones(tiny_model):
    _, texts = whole(tiny_model)
    assert len(set(texts)) == 3, "the model says the same to everything"
    stops = [[text.strip()[4:6], text.strip()[3:9]] for text in texts]
    expected = [cut(text, own) for text, own in zip(texts, stops, strict=True)]
    assert generate_until(session_of(tiny_model), stops, LONG) == expected


def test_no_token_after_all_have_ended(tiny_model, monkeypatch):
    ids, texts = whole(tiny_model)
    stops = [[text.strip()[2:4]] for text in texts]
    wanted = max(matched(tiny_model.llm.tokenizer, row, own)[1] for row, own in zip(ids, stops, strict=True))
    assert wanted < 30, "nothing would be saved"
    steps, step = [], Session._decode_token
    monkeypatch.setattr(Session, "_decode_token", lambda self, ids: (steps.append(1), step(self, ids))[1])
    generate_until(session_of(tiny_model), stops, LONG)
    assert len(steps) == wanted - 1  # the first token comes from the prompt


def test_random_texts_and_stops(tiny_model):
    """Against decoding everything and cutting it; stops are pieces of the text, overlapping ones too."""
    tokenizer, draw, saved = tiny_model.llm.tokenizer, random.Random(0), 0
    for _ in range(300):
        text = "".join(draw.choices("ab \n\u00e9", k=30))
        pieces = [(at, draw.randint(1, 4)) for at in draw.choices(range(len(text)), k=draw.randint(0, 3))]
        stops = [text[at : at + size] for at, size in pieces]
        ids = tokenizer.encode(text)
        answer, count = matched(tokenizer, ids, stops)
        assert answer == cut(text, stops), (text, stops)
        saved += count < len(ids)
    assert saved > 150


def test_a_longer_stop_that_begins_earlier_is_waited_for(tiny_model):
    tokenizer = tiny_model.llm.tokenizer
    ids = tokenizer.encode("xabcdefgh")
    assert matched(tokenizer, ids, ["b", "abcd"])[0] == "x"
    other = tokenizer.encode("xabxxxxxx")
    answer, count = matched(tokenizer, other, ["b", "abcd"])
    assert (answer, count < len(other)) == ("xa", True)


def test_a_control_token_is_a_stop(tiny_model):
    """It decodes to nothing, so its spelling can't be found in the text."""
    tokenizer = tiny_model.llm.tokenizer
    ((name, end), *_) = tokenizer.control_tokens.items()
    ids = [*tokenizer.encode("red"), end, *tokenizer.encode("blue")]
    assert matched(tokenizer, ids, [name]) == ("red", len(tokenizer.encode("red")) + 1)
    assert matched(tokenizer, ids, [])[0] == "redblue"


def test_without_stops_it_is_an_ordinary_generation(tiny_model):
    expected = session_of(tiny_model).generate(LONG)
    assert generate_until(session_of(tiny_model), [[], [], [""]], LONG) == expected
