"""Rules of VQA-v2 and TextVQA: the text normalisation and the soft accuracy over ten references.

Source: the official VQA evaluation (GT-Vision-Lab/VQA, 2021) and the processor that LLaVA converts answers with.
The rules follow what these scripts do, not what they intend: see `strip_periods` and `vqa_v2.scoring`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

NUMBERS = {
    word: str(n)
    for n, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_MARK = re.compile(f"[{re.escape(PUNCTUATION)}.]")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_CUT = 32
"""The scripts pass `re.UNICODE`, which is 32, as the argument `count`, so later periods stay."""

# Words whose apostrophe may be left out. Of those with several, the table has a key for each single one left out.
_WORDS = """
'twas ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
they'd they'll they're they've wasn't we've weren't what'll what're what's what've when's where'd where's where've
who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
'ow's'at y'all'd've
"""


def _contractions() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # the one entry that works backwards, as published
    for word in _WORDS.split():
        table |= {word[:at] + word[at + 1 :]: word for at, letter in enumerate(word) if letter == "'"}
    return table


CONTRACTIONS = _contractions()


def strip_punctuation(text: str) -> str:
    """Drop each mark, or put a space in its place.

    A mark is dropped where it is next to a space anywhere in the original text, or where the text holds a
    comma between digits; so "red/ blue/green" loses both strokes without a space.
    """
    if not _MARK.search(text):
        return text
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        if mark not in text:
            continue
        next_to_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if next_to_space or in_number else " ")
    return strip_periods(out)


def strip_periods(text: str) -> str:
    """Drop the first 32 periods that no digit follows.

    The scripts' pattern also means to keep a period behind a digit, but its look-behind is mistyped and
    matches everywhere: "3." becomes "3".
    """
    return _PERIOD.sub("", text, count=_PERIODS_CUT)


def strip_words(text: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes put back, single spaces."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def one_line(text: str) -> str:
    """The text with line ends and tabs replaced by spaces, stripped."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise(text: str) -> str:
    """The official evaluation's normal form of a one-line answer."""
    return strip_words(strip_punctuation(text))


def convert(text: str) -> str:
    """LLaVA's conversion of an answer before submission; TextVQA compares converted texts.

    "," and "?" go, and "'s" becomes " 's": "McDonald's" is submitted as "mcdonald 's", which the official
    VQA-v2 evaluation no longer matches with "mcdonald's".
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return strip_words(strip_punctuation(one_line(text)))


@lru_cache(maxsize=256)  # few pairs of numbers, asked for with every answer
def leave_one_out(matches: int, references: int = 10) -> float:
    """The mean, over each reference left out, of min(1, matches among the others / 3)."""
    matching = min(1.0, (matches - 1) / 3)  # one that matches is left out
    others = min(1.0, matches / 3)
    return (matches * matching + (references - matches) * others) / references


def counts_as(read: Callable[[str], str], counts: Mapping[str, int]) -> dict[str, int]:
    """The numbers of texts by what `read` makes of them, which is called once for equal texts: most references are."""
    by_form: dict[str, int] = {}
    for text, count in counts.items():
        form = read(text)
        by_form[form] = by_form.get(form, 0) + count
    return by_form


def highest_sums(
    references: Iterable[Mapping[str, int]], read: Callable[[str], str] = str, most: int = 3
) -> list[str]:
    """The answers with the highest sums of credit; `references` are the numbers of each question's normal forms.

    `read` is the text that an answer is compared as, where that need not be the answer itself.
    """
    sums: dict[str, float] = {}
    for counts in references:
        total = sum(counts.values())
        for text, count in counts.items():
            sums[text] = sums.get(text, 0.0) + leave_one_out(count, total)
    return sorted(sums, key=lambda text: (-sums.get(read(text), 0.0), text))[:most]


def by_count(references: Sequence[str]) -> str:
    """The different references, the most frequent first, with their numbers."""
    return ", ".join(f"{text} ({count})" for text, count in Counter(references).most_common())
