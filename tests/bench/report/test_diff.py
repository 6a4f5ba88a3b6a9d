"""`vlm-bench diff`: paired, by units, with an interval that agrees with drawing units one by one."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from bench_files import Pope
from commands import Out, answers, printed, refused

from vlm_bench.report.paired import interval
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
    return {
        f"{t}{n}": {t: (100 * rng.randint(0, 2), 2), f"{t}+": (100 * rng.randint(0, 1), 1)}
        for t in "xyz"
        for n in range(20)
    }


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
    assert "different protocols can't be compared" in refused(capsys, "diff", first, other)
    normalized = save(pope, capsys, "normalized.json", "--strictness", "normalized")
    assert "can't be compared" in refused(capsys, "diff", first, normalized)
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


def test_units_with_other_questions(data: Path, tmp_path: Path, capsys: Out) -> None:
    """The same ids are not the same questions: texts, images, right answers and the answered part must agree."""
    gold = data / "gqa/data/testdev_balanced_questions.json"
    flags = [
        "score",
        "gqa",
        "--data",
        data,
        "--answers",
        answers(tmp_path, {"10": "a", "2": "b", "31": "no"}),
    ]
    printed(capsys, *flags, "--save", tmp_path / "a")
    straight = gold.read_text()
    lines = (data / "gqa/llava_gqa_testdev_balanced.jsonl").read_text()
    for old, new in (
        ('"answer": "dog"', '"answer": "cat"'),
        ("n1.jpg", "n2.jpg"),
        ("What is it?", "Who is it?"),
    ):
        gold.write_text(straight.replace(old, new))
        (data / "gqa/llava_gqa_testdev_balanced.jsonl").write_text(lines.replace(old, new))
        printed(capsys, *flags, "--save", tmp_path / "b")
        err = refused(capsys, "diff", tmp_path / "a", tmp_path / "b")
        count = 3 if old == "n1.jpg" else 1
        assert f"0 units are in one report only, {3 - count} in both" in err
        assert f"in both with other questions, images or right answers: {count}, first" in err
    partial = printed(capsys, "diff", tmp_path / "a", tmp_path / "b", "--allow-partial")
    assert "2 units: 0 better, 0 worse, 2 equal; 1 not the same in both, left out" in partial


def test_other_questions_about_one_image(pope: Pope, capsys: Out) -> None:
    """Two partial runs whose units have the same name, an image, but not the same questions."""
    every = pope.answers
    for name, part in (("a.json", every[:6]), ("b.json", every[6:])):
        pope.answers = part
        save(pope, capsys, name, "--allow-partial")
    both = ["diff", pope.folder / "a.json", pope.folder / "b.json"]
    err = refused(capsys, *both, "--allow-partial")
    assert "in both with other questions, images or right answers: 1, first a.jpg" in err


def test_what_else_must_agree(pope: Pope, capsys: Out) -> None:
    first, second = save(pope, capsys, "a.json"), save(pope, capsys, "b.json")
    report = json.loads(first.read_text())
    for changed, message in (
        ({"content": {}}, "1 of 1 units have no digest of their questions, first a.jpg"),
        ({"metric": "F1"}, "one protocol, but two of 'metric': 'mean F1' and 'F1'"),
    ):
        second.write_text(json.dumps(report | changed))
        assert message in refused(capsys, "diff", first, second)
    for path, digest in ((first, "ab"), (second, "cd")):
        path.write_text(json.dumps(report | {"settings": {"images sha256": digest}}))
    assert "asked about other images: images sha256 differ" in refused(capsys, "diff", first, second)


def test_two_sources_of_the_same_questions(data: Path, tmp_path: Path, capsys: Out) -> None:
    """LLaVA's file and the labels' own questions have other ids, but ask the same."""
    said = {n: ("Yes", "No")[n % 2] for n in range(1, 7)}
    printed(
        capsys,
        "score",
        "pope",
        "--data",
        data,
        "--answers",
        answers(tmp_path, said),
        "--save",
        tmp_path / "a",
    )
    own = {
        f"{split}/a.jpg/Is there a {word} in the image?": "Yes"
        for split in ("random", "popular", "adversarial")
        for word in ("dog", "cat")
    }
    flags = ["--source", "official", "--answers", answers(tmp_path, own), "--save", tmp_path / "b"]
    printed(capsys, "score", "pope", "--data", data, *flags)
    assert "1 units" in printed(capsys, "diff", tmp_path / "a", tmp_path / "b")
