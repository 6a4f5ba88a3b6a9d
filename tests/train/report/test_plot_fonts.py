"""Pictures of text in any script, with dollar signs, line breaks and words of any length: no warning, no formula."""

import logging
import re

import matplotlib
from PIL import Image

from vlm_train.evaluation.held_out_answers import Answer
from vlm_train.report import plots, results
from vlm_train.report.plot_fonts import BASE, Lettering, drawing, escaped

TEXTS = {
    "chinese": "红色的苹果是什么？",
    "arabic": "ما لون هذا الشكل؟",
    "devanagari": "यह क्या है",
    "emoji": "🍎👨‍👩‍👧🏳️‍🌈 \U0001faa8",
    "private": "\ue000\uf8ff",
    "formula": "$x$",
    "half a formula": "100$ and $",
    "broken formula": r"$\frac{$ \$ $$ _^{}",
    "lines": "one\n\ntwo\r\nthree\tfour\x0bfive",
    "one word": "a" * 500,
    "control": "\x1b[0m\x00\x7f\u202e\u200b",
    "underscore": "_hidden",
    "blank": " \n ",
    "empty": "",
    "markup": "[bold]x[/] <b>&amp;",
}


def answers(image):
    """Every text as question, as a right answer and beside a wrong one."""
    for text in TEXTS.values():
        turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": text}]
        yield Answer({"id": "a", "image": [image], "conversations": turns}, text, text)
        yield Answer({"id": "b", "image": [], "conversations": turns}, text, f"not {text}")


def test_any_text_is_drawn_without_a_warning(tmp_path, caplog, capfd):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    every = list(answers(str(tmp_path / "a.png")))
    with caplog.at_level(logging.WARNING):
        for start in range(0, len(every), 12):
            results.plot_samples(every[start : start + 12], tmp_path / f"samples{start}.png")
        metrics = [
            {"stage": number, "name": text, "step": i, "loss": 1.0 / i}
            for number, text in enumerate(TEXTS.values())
            for i in (1, 2)
        ]
        results.plot_curves(metrics, tmp_path / "curves.png")
        texts = [*TEXTS.values()]
        for start in range(0, len(texts), 5):
            title, label, *names = texts[start : start + 5]
            series = {name: [(1, 1.0), (2, 20.0)] for name in names}
            plots.curve(title, label, series, {label: 1, **dict.fromkeys(names, 2)}, log=True)
    assert not caplog.records
    assert capfd.readouterr().err == ""
    with Image.open(tmp_path / "samples0.png") as picture:
        assert picture.size == (round(2.6 * 4 * 130), round(3.1 * 3 * 130))


def test_dollars_stay_dollars_and_numbers_of_an_axis_stay_powers():
    svg = plots.curve("$x$", "", {"a": [(1, 1.0), (2, 1e4)]}, {"100$ and $": 0}, log=True)
    text = re.sub(r"<[^>]+>", "", svg)
    assert "$x$" in text
    assert "100$ and $" in text
    assert "10^" not in text
    assert "红色" in plots.curve("红色", "", {"a": [(1, 1.0)]}, {})


def test_a_character_without_a_glyph_is_its_code_point(monkeypatch):
    monkeypatch.setattr("vlm_train.report.plot_fonts._installed", list)
    letters = Lettering(["é 红", "\ue000"])
    assert letters.families == [BASE]
    assert letters.plain("é 红\n\ue000") == "é [U+7EA2]\n[U+E000]"


def test_long_text_is_wrapped_and_cut():
    letters = Lettering(["x"])
    assert letters.wrapped("a quick fox " + "b" * 9, 6, lines=9) == "a\nquick\nfox\nbbbbbb\nbbb"
    assert letters.wrapped("one two three four", 5, lines=2) == "one\ntwo…"
    assert letters.wrapped("x" * 10**6, 10, lines=2) == "x" * 10 + "\n" + "x" * 10 + "…"
    assert escaped("_a$") == "\u200b_a\\$"


def test_the_users_own_style_changes_nothing(tmp_path):
    with matplotlib.rc_context({"text.usetex": True, "font.family": ["No Such Font"]}):
        with drawing() as figure:
            figure.suptitle("a_b$")
            figure.savefig(tmp_path / "a.png")
        assert matplotlib.rcParams["text.usetex"]
