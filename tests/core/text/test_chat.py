"""Tokens and label masks against hand-written expectations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from letters import EOS, SHORT, Letters, WithBOS, picture, said, user

from vlm_core.errors import UserError
from vlm_core.text.render import IMAGE, TooLong, render
from vlm_core.text.template import TEMPLATES

EOS_ALONE = ("llava-v1", "vicuna", "short", "cobra", "zephyr")
"""Templates that need no control token besides EOS, and say the question."""


@pytest.mark.parametrize(
    ("template", "messages", "images", "expected"),
    [
        (SHORT, [user("hi"), said("yo")], [], "s. u:hi a: YO€"),
        (SHORT, [user(IMAGE, "\nhi"), said("yo")], [3], "s. u:###\nhi a: YO€"),
        (SHORT, [user("hi"), said("yo"), user("so"), said("no")], [], "s. u:hi a: YO€ u:so a: NO€"),
        (SHORT, [user("x", IMAGE, "y", IMAGE), said("z")], [1, 2], "s. u:x#y## a: Z€"),
        (SHORT, [user("hi"), said("yo"), user("so")], [], "s. u:hi a: YO€ u:so a:"),
        (
            SHORT.model_copy(update={"images": "first"}),
            [user(IMAGE, "\nhi"), said("yo")],
            [3],
            "###s. u:hi a: YO€",
        ),
        (TEMPLATES["plain"], [user(IMAGE, "\ndescribe it"), said("a cat")], [2], "##A CAT€"),
        (TEMPLATES["cobra"], [user(IMAGE, "\nhi"), said("yo")], [2], "##In: hi\nOut: YO€"),
        (
            TEMPLATES["zephyr"],
            [user("hi"), said("yo"), user("so"), said("no")],
            [],
            "<|user|>\nhi$\n<|assistant|>\nYO€\n<|user|>\nso$\n<|assistant|>\nNO€\n",
        ),
        (
            TEMPLATES["llava-v1"],
            [user("hi"), said("yo")],
            [],
            TEMPLATES["llava-v1"].system + " USER: hi ASSISTANT: YO€",
        ),
    ],
)
def test_by_hand(template, messages, images, expected):
    assert picture(render(template, messages, Letters(), images)) == expected


def test_loss_on_all_makes_every_text_position_a_target():
    sample = render(SHORT, [user(IMAGE, "hi"), said("yo")], Letters(), [2], loss_on="all")
    assert picture(sample) == "S. U:##HI A: YO€"


def test_bos_stands_first_and_only_once():
    sample = render(SHORT, [user("hi"), said("yo")], WithBOS())
    assert sample.input_ids.count(1) == 1
    assert sample.input_ids[0] == 1
    assert not sample.loss_mask[0]


def test_what_users_type_is_text():
    sample = render(SHORT, [user("<image> {text} {eos} <|endoftext|>"), said("{eos}")], Letters())
    assert picture(sample) == "s. u:<image> {text} {eos} <|endoftext|> a: {EOS}€"


def test_truncation_by_hand():
    sample = render(SHORT, [user(IMAGE, "hi"), said("yo"), user("so"), said("no")], Letters(), [3])
    assert picture(sample) == "s. u:###hi a: YO€ u:so a: NO€"
    assert picture(sample.truncated(15)) == "s. u:###hi a: Y"[:15]
    assert sample.truncated(100) is sample
    with pytest.raises(TooLong, match="no answer"):
        sample.truncated(12)
    with pytest.raises(TooLong, match="cut an image"):
        sample.truncated(6)


@given(st.integers(1, 40), st.integers(0, 5))
def test_truncation_never_cuts_an_image(length, tokens):
    sample = render(
        SHORT, [user("ab", IMAGE, "c"), said("yes"), user(IMAGE, "d"), said("no")], Letters(), [tokens, 4]
    )
    try:
        short = sample.truncated(length)
    except TooLong:
        return
    assert sum(short.image_mask) == sum(sample.image_mask)
    assert len(short) <= length
    assert any(short.loss_mask)


@pytest.mark.parametrize("images", [[], [1, 1]])
def test_slots_and_images_must_agree(images):
    with pytest.raises(UserError, match=f"1 image slots but {len(images)} images"):
        render(SHORT, [user(IMAGE, "hi"), said("yo")], Letters(), images)


def answer_text(template, answer):
    """What the model itself says of an answer: all but its end."""
    return template.assistant.partition("{text}")[0] + answer


def ending_of(template):
    """What stands after the text of an answer."""
    return [EOS, *Letters().encode(template.assistant.partition("{eos}")[2])]


@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), min_size=1, max_size=4))
def test_turns_written_one_by_one_equal_the_whole(turns):
    """What a conversation feeds piece by piece is what training wrote in one go."""
    for template in (t for name, t in TEMPLATES.items() if name in EOS_ALONE):
        messages = [m for question, answer in turns for m in (user(question), said(answer))]
        whole = render(template, messages, Letters())
        ids = []
        for i, (_, answer) in enumerate(turns):
            so_far = messages[: 2 * i + 1]
            ids += render(template, so_far, Letters(), resume=i > 0).input_ids
            ids += Letters().encode(answer_text(template, answer))
        assert ids + ending_of(template) == whole.input_ids
