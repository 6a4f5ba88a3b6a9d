"""`vlm-bench score pope` on small files: figures, joins and refusals."""

import gzip
import random

import pytest
from bench_files import Pope
from commands import refused, scored

from vlm_bench.cli.main import main
from vlm_core.errors import UserError


def test_figures(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    report = scored(capsys, *pope.write())
    assert report["metric"] == "mean F1"
    assert report["score"] == pytest.approx(0.8)  # each split: tp 2, fp 1, tn 1
    assert (report["scored"], report["expected"], report["missing"], report["partial"]) == (12, 12, 0, False)
    assert list(report["rows"]) == ["random", "popular", "adversarial", "mean"]
    assert report["rows"]["random"]["yes ratio"] == pytest.approx(0.75)
    mean = {"n": 12, "accuracy": 0.75, "precision": 2 / 3, "recall": 1, "F1": 0.8, "yes ratio": 0.75}
    assert report["rows"]["mean"] == pytest.approx(mean)
    assert report["protocol"] == "llava-1.5/pope@unknown mean-F1"
    assert len(report["sha256"]) == 5
    assert any("unknown" in text for text in report["warnings"])


def test_the_table_names_everything(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    pope.answers[0]["text"] = "Nope"
    assert main(pope.write()) == 0
    out = capsys.readouterr().out
    for text in (
        "mean F1  80.00",
        "scored 12 of 12, missing 0",
        "without saying so: 1 of 12",
        "pope@unknown",
    ):
        assert text in out


def test_line_order_means_nothing(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    straight = scored(capsys, *pope.write())
    for rows in (pope.questions, pope.answers, *pope.labels.values()):
        random.Random(0).shuffle(rows)
    assert scored(capsys, *pope.write())["rows"] == straight["rows"]


def test_gzipped_labels_score_and_hash_the_same(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    argv = pope.write()
    plain = scored(capsys, *argv)
    path = pope.folder / "coco_pope_random.json"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    assert "both exist" in refused(capsys, *argv)
    path.unlink()
    assert scored(capsys, *argv) == plain


def test_labels_of_another_revision_are_refused(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    for row in pope.labels["random"][:3]:
        row["text"] = row["text"].replace("image", "picture")
    for flag in ([], ["--allow-partial"]):
        err = refused(capsys, *pope.write(), *flag)
        assert "random: 3 of 4 questions without a label, 3 of 4 labels without a question" in err
        assert "e3e39262" in err


def test_same_question_in_another_split_has_its_own_label(
    pope: Pope, capsys: pytest.CaptureFixture[str]
) -> None:
    pope.labels["random"][1]["label"] = "yes"
    rows = scored(capsys, *pope.write())["rows"]
    assert rows["random"]["recall"] == pytest.approx(2 / 3)
    assert rows["popular"]["recall"] == 1.0


def test_missing_answers(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    del pope.answers[-5:]  # all of random, one of popular
    assert "5 questions of 12 without an answer, first id 8" in refused(capsys, *pope.write())
    report = scored(capsys, *pope.write(), "--allow-partial")
    assert (report["scored"], report["missing"], report["partial"]) == (7, 5, True)
    assert list(report["rows"]) == ["popular", "adversarial", "mean"]
    assert any("nothing answered of random" in text for text in report["warnings"])
    assert main([*pope.write(), "--allow-partial"]) == 0
    assert "PARTIAL" in capsys.readouterr().out


def test_a_part_of_the_questions(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    del pope.questions[-2:], pope.answers[-2:]
    assert "2 of 12 labels without a question" in refused(capsys, *pope.write())
    assert scored(capsys, *pope.write(), "--allow-partial")["missing"] == 2


def test_no_answer_at_all_is_refused_even_when_partial(
    pope: Pope, capsys: pytest.CaptureFixture[str]
) -> None:
    pope.answers = []
    assert "empty" in refused(capsys, *pope.write(), "--allow-partial")


def test_duplicates_are_refused(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    pope.answers += [dict(pope.answers[0], question_id="1"), pope.answers[1]]
    err = refused(capsys, *pope.write(), "--allow-partial")
    assert "answers.jsonl:13" in err
    assert "appears twice" in err
    assert "2 such rows" in err
    pope.answers = pope.answers[:12]
    pope.labels["popular"].append(dict(pope.labels["popular"][0], label="no"))
    assert "a second label" in refused(capsys, *pope.write())
    pope.labels["popular"].pop()
    pope.questions.append(dict(pope.questions[0], question_id=99))
    assert "1 questions appear twice" in refused(capsys, *pope.write())


def test_answers_to_other_questions_are_refused(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    pope.answers[3]["question_id"] = 1000
    assert "1 answer to no question of this file, first id 1000" in refused(capsys, *pope.write())
    pope.answers[3].update(question_id=4, prompt="Is there a cupboard in the image?")
    assert "1 answer logged with another prompt" in refused(capsys, *pope.write(), "--allow-partial")
    pope.answers[3]["prompt"] = "<image>\n" + pope.questions[3]["text"]
    assert scored(capsys, *pope.write())["scored"] == 12
    del pope.answers[3]["prompt"]
    assert scored(capsys, *pope.write())["scored"] == 12


def test_all_no_is_flagged(pope: Pope, capsys: pytest.CaptureFixture[str]) -> None:
    for answer in pope.answers:
        answer["text"] = "No"
    report = scored(capsys, *pope.write())
    assert report["score"] == 0.0
    assert sum("precision, f1 undefined" in text for text in report["warnings"]) == 3


def test_debug_shows_the_traceback(pope: Pope) -> None:
    pope.answers[0]["question_id"] = "nobody"
    argv = pope.write()
    for with_debug in (["--debug", *argv], [*argv, "--debug"]):
        with pytest.raises(UserError, match="to no question"):
            main(with_debug)
