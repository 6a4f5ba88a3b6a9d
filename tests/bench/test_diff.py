"""`vlm-bench diff`: paired, by units, with an interval that agrees with drawing units one by one."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from bench_files import Pope
from commands import Out, answers, printed, refused

from vlm_bench.diff import interval
from vlm_core.benchmark import Headline

Units = dict[str, dict[str, tuple[float, float]]]


def plain_bootstrap(left: Units, right: Units, combine: Any, draws: int) -> tuple[float, float]:
    """The definition: units drawn one by one, those with the same parts among themselves."""
    rng, strata, found = random.Random(0), {}, []
    for key, parts in left.items():
        strata.setdefault(tuple(parts), []).append(key)
    for _ in range(draws):
        drawn = [key for keys in strata.values() for key in rng.choices(keys, k=len(keys))]
        a, b = ({str(n): units[key] for n, key in enumerate(drawn)} for units in (left, right))
        found.append(Headline("", b, combine).value - Headline("", a, combine).value)
    found.sort()
    return found[int(0.025 * draws)], found[int(0.975 * draws)]


def random_units(kind: str, seed: int) -> Units:
    rng = random.Random(seed)
    if kind == "mean":
        return {str(n): {"all": (rng.choice([0, 0.3, 1]), 1)} for n in range(120)}
    if kind == "f1":
        return {str(n): {s: (2 * rng.randint(0, 2), rng.randint(4, 6)) for s in "rpa"} for n in range(80)}
    return {f"{t}{n}": {t: (100 * rng.randint(0, 2), 2), f"{t}+": (100 * rng.randint(0, 1), 1)}
            for t in "xyz" for n in range(20)}  # fmt: skip


@pytest.mark.parametrize(("kind", "combine"), [("mean", "mean"), ("f1", "mean"), ("tasks", "sum")])
def test_the_interval_is_the_bootstraps(kind: str, combine: str) -> None:
    left, right = random_units(kind, 1), random_units(kind, 2)
    slow = plain_bootstrap(left, right, combine, 2000)
    fast = interval(left, right, combine)
    width = slow[1] - slow[0]
    assert fast == pytest.approx(slow, abs=0.1 * width)
    assert interval(left, right, combine) == fast  # the same seed, the same interval


def test_equal_answers_differ_by_nothing() -> None:
    units = random_units("mean", 3)
    assert interval(units, units, "mean") == (0, 0)


def save(pope: Pope, capsys: Out, name: str, *more: str) -> Path:
    path = pope.folder / name
    printed(capsys, *pope.write(), "--save", path, *more)
    return path


def test_two_reports(pope: Pope, capsys: Out) -> None:
    first = save(pope, capsys, "a.json")
    for answer in pope.answers:
        answer["text"] = "Yes"
    second = save(pope, capsys, "b.json")
    out = printed(capsys, "diff", first, second)
    assert "mean F1  80.00 -> 66.67" in out
    assert "difference -13.33, 95 % interval" in out
    assert "1 units: 0 better, 1 worse, 0 equal" in out  # one image
    data = json.loads(printed(capsys, "diff", first, second, "--json"))
    assert data["difference"] == pytest.approx(2 / 3 - 0.8)
    assert data["low"] == data["high"] == pytest.approx(data["difference"])
    assert data["clear"] is True


def test_what_cannot_be_compared(pope: Pope, data: Path, tmp_path: Path, capsys: Out) -> None:
    first = save(pope, capsys, "a.json")
    other = tmp_path / "other.json"
    said = answers(tmp_path, {"4": "B", "5": "A"})
    printed(capsys, "score", "scienceqa", "--data", data, "--answers", said, "--save", other)
    assert "two protocols, which can't be compared" in refused(capsys, "diff", first, other)
    sane = save(pope, capsys, "sane.json", "--strictness", "sane")
    assert "can't be compared" in refused(capsys, "diff", first, sane)
    plain = tmp_path / "plain.json"
    plain.write_text("{}")
    assert "--save plain.json` writes one" in refused(capsys, "diff", first, plain)


def test_reports_on_other_questions(data: Path, tmp_path: Path, capsys: Out) -> None:
    flags = ["score", "gqa", "--data", data, "--allow-partial", "--answers"]
    for name, said in (("a", {"10": "dog", "2": "red"}), ("b", {"10": "cat", "31": "no"})):
        printed(capsys, *flags, answers(tmp_path, said), "--save", tmp_path / name)
    both = ["diff", tmp_path / "a", tmp_path / "b"]
    assert "2 units are in one report only, 1 in both; --allow-partial" in refused(capsys, *both)
    assert "accuracy  100.00 -> 0.00" in printed(capsys, *both, "--allow-partial")
