"""Text that is continued, with a tokenizer that drops the white space of a text's first token."""

import copy

from engine_cases import answered, request
from metaspace_tokenizer import train_metaspace

from vlm_serve.engine.request import SamplingParams, TextPrompt

PROMPT = "the cat"


def test_prompt_and_continuation_are_the_text_of_all_ids(served, engine_of):
    model = copy.deepcopy(served[0])
    tokenizer = model.llm.tokenizer = train_metaspace(["the cat sat on the mat"], "llama")
    sat = tokenizer.encode("sat")
    bias = {sat[0]: 100.0}
    engine = engine_of(model, cache_bytes=0)
    for prompt in (PROMPT, (tokenizer.bos_id, *tokenizer.encode(PROMPT))):
        asked = request(TextPrompt(prompt), SamplingParams(max_tokens=2, temperature=0.0, logit_bias=bias))
        (outcome,) = answered(engine, asked)
        assert PROMPT + outcome.text == tokenizer.decode([*tokenizer.encode(PROMPT), sat[0], sat[0]])
        assert outcome.text.startswith(" ")
