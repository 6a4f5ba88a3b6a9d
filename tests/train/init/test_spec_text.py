"""Values in a new spec, and the numbers of its recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_core.io.yaml_loader import parse
from vlm_train.init.recipe import held_out_share, recipe
from vlm_train.init.sizes import SIZES
from vlm_train.init.spec_text import scalar

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@given(TEXT)
def test_any_text_stays_itself(text):
    document = parse(
        f"{{a: {scalar(text)}, b: [{scalar(text)}]}}\nc: 1\n".replace("\nc: 1\n", "\n"), "x.yaml"
    )
    assert document.data == {"a": text, "b": [text]}


@pytest.mark.parametrize(
    "text", ["null", "True", "1e5", "1.5", ".inf", "~", "-", "0x1", "a:", "#a", "1_000", "."]
)
def test_words_with_a_meaning_stay_text(text):
    assert parse(f"a: {scalar(text)}\n", "x.yaml").data == {"a": text}


@pytest.mark.parametrize(("groups", "share"), [(1, 0), (9, 0), (10, 0.25), (500, 0.1), (600_000, 0.002)])
def test_the_share_falls_with_the_number_of_images(groups, share):
    assert held_out_share(groups) == share


@pytest.mark.parametrize("rows", [1, 7, 16, 100, 5_000, 1_000_000])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_recipe_fits_its_data(size, rows):
    numbers = recipe(size, rows, side=64)
    assert 1 <= numbers.batch_size <= 128
    assert numbers.epochs >= 1
    if size.max_steps:
        assert numbers.batch_size <= rows
        steps = numbers.epochs * rows / numbers.batch_size
        assert 50 <= steps <= max(2 * size.max_steps, rows / numbers.batch_size)


@pytest.mark.parametrize(("side", "expected"), [(28, 96), (64, 96), (130, 128), (640, 224)])
def test_images_keep_about_their_size(side, expected):
    assert recipe(SIZES["small"], 100, side).side == expected
