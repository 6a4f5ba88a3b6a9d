"""Patterns: what their author writes may name control tokens, what roles say never becomes one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from letters import EOS, SHORT, Letters, WithBOS, picture, said, user
from pydantic import TypeAdapter, ValidationError

from vlm_core.errors import BadSample, UserError
from vlm_core.text.render import IMAGE, TokenizedConversation, end_of_answer, render, require_question
from vlm_core.text.template import (
    TEMPLATES,
    Template,
    TemplateError,
    TemplateField,
    TokenizerTemplate,
    check_template,
)


class Chatty(Letters):
    """Letters and the control tokens of ChatML, shown as `[` and `]`."""

    control_tokens = {"<|im_start|>": ord("["), "<|im_end|>": ord("]"), "<eos>": EOS, "<see>": ord("(")}  # noqa: RUF012


CHATML = TEMPLATES["chatml"]
TALK = [user("hi"), said("yo"), user("so")]
SYSTEM = "[system\nYou are a helpful assistant.]\n"


def test_control_tokens_go_in_by_id_and_targets_end_with_them():
    sample = render(CHATML, TALK, Chatty())
    assert picture(sample) == f"{SYSTEM}[user\nhi]\n[assistant\nYO]\n[user\nso]\n[assistant\n"
    assert sample.loss_mask.count(True) == len("yo]")
    assert sample.end == ord("]")
    assert render(CHATML, TALK[:2], Chatty()).end is None, "nothing is asked"


@given(
    st.lists(
        st.sampled_from(["<|im_start|>", "<|im_end|>", "{token:<|im_end|>}", "{eos}", "{", "}", "a"])
    ).map("".join)
)
def test_what_roles_say_is_literal(text):
    talk = [user(text), said(text), user(text)]
    ids = render(CHATML, talk, Chatty(), system=text).input_ids
    assert "".join(map(chr, ids)) == (
        f"[system\n{text}]\n[user\n{text}]\n[assistant\n{text}]\n[user\n{text}]\n[assistant\n"
    )


def test_an_image_is_wrapped_by_its_pattern():
    template = CHATML.model_copy(update={"image": "{token:<see>}{image}!", "system": ""})
    sample = render(template, [user(IMAGE, "\nhi")], Chatty(), [2])
    assert picture(sample) == "[user\n(##!\nhi]\n[assistant\n"
    first = render(template.model_copy(update={"images": "first"}), [user(IMAGE, "\nhi")], Chatty(), [2])
    assert picture(first) == "(##![user\nhi]\n[assistant\n"


@pytest.mark.parametrize(("images", "expected"), [("inline", "€ u:##\nso a:"), ("first", "€## u:so a:")])
def test_a_conversation_that_goes_on_shows_only_its_new_images(images, expected):
    template = SHORT.model_copy(update={"images": images})
    talk = [user(IMAGE, "\nhi"), said("yo"), user(IMAGE, "\nso")]
    assert picture(render(template, talk, Letters(), [2], resume=True)) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "[system\nBe kind.]\n[user\nhi]\n[assistant\n"),
        (TEMPLATES["llava-v1"], "Be kind. USER: hi ASSISTANT:"),
        (TEMPLATES["vicuna"], "Be kind. USER: hi ASSISTANT:"),
        (Template(system="{text}{eos}", user="{text}", assistant="{text}"), "Be kind.$hi"),
    ],
)
def test_a_conversation_with_a_system_text_of_its_own(template, expected):
    assert picture(render(template, [user("hi")], Chatty(), system="Be kind.")) == expected


def test_a_system_pattern_without_a_text_is_not_written():
    template = Template(system="{token:<see>}{text}", user="{text}", assistant="{text}")
    assert picture(render(template, [user("hi")], Chatty())) == "hi"
    assert picture(render(template, [user("hi")], Chatty(), system="")) == "(hi"


@pytest.mark.parametrize(
    "template",
    [TEMPLATES["short"], TEMPLATES["plain"], Template(system="{eos}", user="{text}", assistant="{text}")],
)
def test_no_place_for_a_system_text(template):
    with pytest.raises(BadSample, match=r"no place for it: its `system` needs \{text\}") as caught:
        render(template, [user("hi"), said("yo")], Letters(), system="Be kind.")
    assert caught.value.reason == "system"


def test_bos_is_written_once():
    class Both(WithBOS):
        control_tokens = {"<s>": 1}  # noqa: RUF012

    template = Template(system="{token:<s>}Hello. ", user="{text}", assistant="{text}{eos}")
    assert render(template, [user("hi")], Both()).input_ids == [1, *map(ord, "Hello. hi")]
    assert render(SHORT, [user("hi")], Both()).input_ids.count(1) == 1


class Pairs(Letters):
    """Two equal letters are one token, so that what stands side by side matters."""

    def encode(self, text):
        ids = []
        for c in text:
            ids = [*ids[:-1], 1000 + ord(c)] if ids and ids[-1] == ord(c) else [*ids, ord(c)]
        return ids


def test_prompt_and_answer_are_tokenised_as_one_unless_a_token_would_join_them():
    template = Template(user="{text}", assistant_prompt=":", assistant="{text}")
    apart = render(template, [user("aa"), said(":b")], Pairs())
    assert apart.input_ids == [1000 + ord("a"), ord(":"), ord(":"), ord("b")]
    assert apart.loss_mask == [False, False, True, True]

    class Spaced(Letters):
        def encode(self, text):  # as sentencepiece: a text begins with a space
            return super().encode(f"_{text}") if text else []

    together = render(template, [user("a"), said("b")], Spaced())
    assert picture(together) == "_a:B"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ({"user": "{txt}"}, "unknown field {txt}.*did you mean 'text'"),
        ({"user": "{text} {text}"}, "{text} appears more than once"),
        ({"user": "{text!r}"}, "{text} takes no format"),
        ({"user": "{text:>5}"}, "{text} takes no format"),
        ({"user": "{token}"}, "names no control token"),
        ({"user": "{image}"}, "unknown field {image}"),
        ({"user": "{"}, "not a pattern"),
        ({"assistant": "yes"}, "leaves out the answer"),
        ({"assistant_prompt": "{text}"}, "unknown field {text}"),
        ({"image": "picture"}, "leaves out the image"),
        ({"image": "{image}{image}"}, "{image} appears more than once"),
        ({"system_text": "Be kind."}, "it is never used"),
        ({"sytem": "x"}, "extra"),
    ],
)
def test_faults_of_patterns(pattern, message):
    with pytest.raises(ValidationError, match=message.replace("{", r"\{")):
        Template.model_validate({"user": "{text}", "assistant": "{text}{eos}", **pattern})


def test_names_and_mappings_of_a_spec():
    read = TypeAdapter(TemplateField).validate_python
    assert read("chatml") == CHATML
    assert read("tokenizer") == read({"chat_template": "tokenizer"}) == TokenizerTemplate()
    for template in (*TEMPLATES.values(), TokenizerTemplate(image="{eos}{image}")):
        assert read(template.model_dump()) == template
    before = {
        "system": "",
        "user": "{text}",
        "assistant_prompt": "",
        "assistant": "{text}{eos}",
        "images": "inline",
    }
    assert read(before) == Template(user="{text}", assistant="{text}{eos}")
    with pytest.raises(ValidationError, match=r"unknown template 'chatlm'.*did you mean 'chatml'"):
        read("chatlm")
    with pytest.raises(
        ValidationError, match="expected the name of a template, or a mapping of patterns, got 5"
    ):
        read(5)


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"user": "<|im_start|>user\n{text}"}, "user", r"write \{token:<\|im_start\|>\}"),
        ({"assistant": "{text}<eos>"}, "assistant", r"write \{token:<eos>\}"),
        ({"image": "<see>{image}"}, "image", r"write \{token:<see>\}"),
        ({"system": "x <|im_end|>"}, "system", r"write \{token:<\|im_end\|>\}"),
        ({"system": "{text}", "system_text": "<see>"}, "system_text", r"write \{token:<see>\}"),
        ({"assistant": "{text}"}, "assistant", r"no control token follows .*never stop; end it with"),
        ({"assistant": "{eos}{text}\n"}, "assistant", "no control token follows"),
        (
            {"user": "{token:<|im_strat|>}{text}"},
            "user",
            r"no control token of .* the nearest .*: <\|im_start",
        ),
    ],
)
def test_patterns_against_a_tokenizer(changes, key, message):
    template = Template.model_validate({"user": "{text}", "assistant": "{text}{eos}", **changes})
    with pytest.raises(TemplateError, match=rf"template\.{key}: .*{message}"):
        check_template(template, Chatty())


def test_zephyr_spells_its_roles_where_they_are_no_tokens():
    check_template(TEMPLATES["zephyr"], Chatty())

    class Phi(Letters):
        control_tokens = {"<|user|>": 5}  # noqa: RUF012

    with pytest.raises(TemplateError, match=r"template\.user: '<\|user\|>'"):
        check_template(TEMPLATES["zephyr"], Phi())


def test_a_token_that_is_not_there_is_named_when_written():
    with pytest.raises(
        UserError, match=r"'<\|im_start\|>' is no control token of the tokenizer; it has none"
    ):
        render(CHATML, TALK, Letters())


NO_TEXT = Template(user="Describe it.", assistant_prompt=" ", assistant="{text}{eos}")


@pytest.mark.parametrize("template", [TEMPLATES["plain"], NO_TEXT])
def test_a_question_that_is_never_said_is_refused(template):
    with pytest.raises(UserError, match="leaves out the question"):
        render(template, [user(IMAGE, "\nwhat is it?")], Letters(), [1])
    with pytest.raises(UserError, match="leaves out the question"):
        require_question(template)
    assert render(template, [user(IMAGE, "\n")], Letters(), [1]).image_mask.count(True) == 1, (
        "a caption is no question"
    )
    assert (
        render(template, [user(IMAGE, "\nwhat is it?"), said("a cat")], Letters(), [1]).loss_mask.count(True)
        == 6
    )


def test_the_end_of_an_answer():
    ends = {
        name: end_of_answer(template, Chatty())
        for name, template in TEMPLATES.items()
        if name in ("plain", "short", "chatml")
    }
    assert ends == {"plain": EOS, "short": EOS, "chatml": ord("]")}
    assert end_of_answer(Template(user="{text}", assistant="{text}"), Chatty()) is None


def test_parts_of_a_sample_keep_its_end():
    sample = TokenizedConversation([1, 2, 3], [False] * 3, [True] * 3, end=7)
    assert sample.part(1) == TokenizedConversation([2, 3], [False] * 2, [True] * 2, end=7)
