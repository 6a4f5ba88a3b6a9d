"""`logprobs` of completions: names, alternatives, and where tokens begin in the text."""

from vlm_serve.api.answers.logprobs import TextLogprobs, token_logprob
from vlm_serve.engine.request import TokenLogprob


def token(data, logprob=-1.0, top=()):
    return TokenLogprob(data.decode(errors="replace"), data, logprob, top)


def test_offsets_count_characters_of_the_text():
    """A character of several tokens is one; a control token is no text."""
    control = TokenLogprob("<|end|>", b"", -1.0)
    day, eur = "日".encode(), "€".encode()
    tokens = [token(b"a"), *map(token, (day[:1], day[1:2], day[2:])), control, token(eur[:1]), token(b"bc")]
    tokens += [token(eur[1:] + b"d"), token(b"e")]
    text = b"".join(each.data for each in tokens).decode(errors="replace")
    whole = TextLogprobs().add(tokens)
    assert text[:5] == "a日\ufffdbc"
    assert whole["text_offset"] == [0, 1, 1, 1, 2, 2, 3, 5, len(text) - 1]
    parts = TextLogprobs()
    assert [at for each in tokens for at in parts.add([each])["text_offset"]] == whole["text_offset"]


def test_parts_of_characters_have_names_of_their_own():
    first, second = token(b"\xe6", -0.5), token(b"\xe2", -0.7)
    logprobs = TextLogprobs().add([token(b"\xe6", -0.5, (first, second))])
    assert logprobs["tokens"] == ["bytes:\\xe6"]
    assert logprobs["top_logprobs"] == [{"bytes:\\xe6": -0.5, "bytes:\\xe2": -0.7}]


def test_the_token_is_among_its_alternatives_with_its_own_log_probability():
    top = (token(b"a", -0.1), token(b"b", -0.2))
    unlikely = token(b"c", -5.0, top)
    assert TextLogprobs().add([unlikely])["top_logprobs"] == [{"a": -0.1, "b": -0.2, "c": -5.0}]


def test_a_control_token_has_no_bytes():
    assert token_logprob(TokenLogprob("<|end|>", b"", -1.0))["bytes"] == []
