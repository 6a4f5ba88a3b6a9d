"""The pieces of a text together are the text that is cut at once, whatever the tokens are."""

import random

import pytest
from metaspace_tokenizer import METASPACE, train_metaspace

from vlm_core.generation.stop_strings import cut
from vlm_llms.tokenizer.tokenizer import train_bpe
from vlm_serve.engine.sampling.answer_text import AnswerText


def cut_untrimmed(text, stops):
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


TOKENIZER = train_bpe(["is there a circle? yes no", "größer als 日本 😀 \n\n ab abc"], 330)
STOPS = ["abc", "ab", "b", "\n", "\n\n", " ", "ö", "is there", "??", "😀", "yes n"]


def drawn_ids(draw):
    """Ids of a text, of random bytes, or of both."""
    parts = [
        TOKENIZER.encode(
            draw.choice(["is there a circle? ", " größer 日本", "😀 abc", "\n\n", "  ", "abab "])
        )
        if draw.random() < 0.6
        else [draw.randrange(1, len(TOKENIZER)) for _ in range(draw.randrange(4))]
        for _ in range(draw.randrange(8))
    ]
    return [token for part in parts for token in part]


def streamed(ids, stops, trim):
    """(pieces, ids that were read)."""
    text, pieces = AnswerText(TOKENIZER, stops, trim=trim), []
    for count, token in enumerate(ids, 1):
        pieces.append(text.add(token))
        if text.stopped:
            return pieces, count
    return [*pieces, text.finish()], len(ids)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("trim", "whole"), [(True, cut), (False, cut_untrimmed)], ids=["trimmed", "whole"])
def test_pieces_are_the_whole(seed, trim, whole):
    draw = random.Random(seed)
    for _ in range(20):
        ids, stops = drawn_ids(draw), draw.sample(STOPS, draw.randrange(4))
        pieces, read = streamed(ids, stops, trim)
        assert "".join(pieces) == whole(TOKENIZER.decode(ids), stops), (ids, stops, trim)
        assert "".join(pieces) == whole(TOKENIZER.decode(ids[:read]), stops), (
            "the rest of the ids changes nothing"
        )


def test_text_comes_as_soon_as_it_is_certain():
    ids = [token for word in ("is", " there", " a") for token in TOKENIZER.encode(word)]
    pieces, _ = streamed(ids, ["there you"], trim=True)
    assert "".join(pieces[: len(TOKENIZER.encode("is"))]) == "is"
    assert pieces[-1] in ("", " a", "a")


def test_a_stop_string_that_spells_a_control_token_is_this_token():
    text = AnswerText(TOKENIZER, ["<|endoftext|>"])
    assert text.add(TOKENIZER.encode("b")[0]) == "b"
    assert text.add(TOKENIZER.eos_id) == ""
    assert text.stopped


def test_control_tokens_are_no_text():
    text = AnswerText(TOKENIZER)
    assert text.add(TOKENIZER.eos_id) == ""
    assert text.finish() == ""
    assert not text.stopped


@pytest.mark.parametrize("decoder", METASPACE)
def test_continued_text_keeps_its_first_white_space(decoder):
    """Tokenizers as Llama's drop the white space of a text's first token."""
    tokenizer = train_metaspace(["the cat sat on the mat"], decoder)
    prompt, ids = tokenizer.encode("the cat"), tokenizer.encode("sat on")
    assert tokenizer.decode(ids) == "sat on"
    text = AnswerText(tokenizer, trim=False, before=prompt)
    assert "".join(map(text.add, ids)) + text.finish() == " sat on"
    assert tokenizer.decode(prompt + ids) == "the cat sat on"


def test_text_that_begins_within_a_character():
    ids = TOKENIZER.encode("日")
    text = AnswerText(TOKENIZER, trim=False, before=ids[:1])
    rest = [*ids[1:], *TOKENIZER.encode(" a")]
    assert "".join(map(text.add, rest)) + text.finish() == TOKENIZER.decode(rest)
