"""Bytes of tokens, also where llguidance can't read the tokenizer."""

import pytest
from metaspace_tokenizer import METASPACE, train_metaspace

from vlm_core.errors import UserError
from vlm_llms.tokenizer.tokenizer import train_bpe
from vlm_serve.engine.sampling.grammar import GrammarCompiler
from vlm_serve.engine.sampling.row_sampler import Choice
from vlm_serve.engine.sampling.token_bytes import TokenNames


@pytest.mark.parametrize("decoder", METASPACE)
def test_bytes_of_tokens_are_those_of_the_text(decoder):
    tokenizer = train_metaspace(["the cat sat on the mat"], decoder)
    names = TokenNames(tokenizer, GrammarCompiler(tokenizer))
    data = [names.logprob(Choice(token, -1.0)).data for token in tokenizer.encode("the mat on")]
    assert b"".join(data).decode() == " the mat on"
    assert names.logprob(Choice(tokenizer.eos_id, -1.0)).data == b""


def test_a_tokenizer_that_grammars_cannot_read():
    tokenizer = train_metaspace(["the cat sat on the mat"], "metaspace")
    with pytest.raises(UserError, match="grammars can't read"):
        _ = GrammarCompiler(tokenizer).backend


def test_every_byte_has_a_name():
    tokenizer = train_bpe(["a"], 257)
    names = TokenNames(tokenizer, GrammarCompiler(tokenizer))
    for token in range(1, 257):
        one = names.logprob(Choice(token, -1.0))
        assert one.token == tokenizer.decode([token])
        assert one.data.decode(errors="replace") == one.token
