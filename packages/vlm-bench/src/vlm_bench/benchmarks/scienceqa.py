"""`vlm-bench score scienceqa`: LLaVA's test file, which holds the right letters too, and an answer file."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlm_bench.join import check_answers
from vlm_bench.readers.files import sha256
from vlm_bench.readers.scienceqa import read_questions, read_scienceqa_answers
from vlm_bench.report import Report
from vlm_bench.scorers.scienceqa import Score, score

HELP = "ScienceQA test set; papers print the IMG subset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files that ScienceQA needs."""
    parser.add_argument("--questions", type=Path, required=True, help="llava_test_CQM-A.json")
    parser.add_argument(
        "--answers",
        type=Path,
        required=True,
        help="JSON lines with question_id and text, or LLaVA's analysis",
    )


def run(args: argparse.Namespace) -> Report:
    """Read, join and score. Which questions have an image is taken from the question file, not from a log."""
    questions, answers = read_questions(args.questions), read_scienceqa_answers(args.answers)
    prompts = {key: question.prompt for key, question in questions.items()}
    scored = check_answers(prompts, answers, args.allow_partial)
    groups = {
        "IMG": score((answers[k].text, questions[k].right) for k in scored if questions[k].image),
        "all": score((answers[k].text, questions[k].right) for k in scored),
    }
    absent = not groups["IMG"].total
    return Report(
        protocol="llava-1.5/scienceqa-img",
        headline=("IMG accuracy", groups["IMG"].accuracy),
        rows={name: _figures(group) for name, group in groups.items()},
        scored=len(scored),
        expected=len(questions),
        parse={"no letter found (wrong)": groups["all"].unread},
        files={path.name: sha256(path) for path in (args.questions, args.answers)},
        warnings=["no question with an image was scored: IMG accuracy is undefined"] if absent else [],
    )


def _figures(group: Score) -> dict[str, float | int]:
    return {"n": group.total, "correct": group.correct, "accuracy": group.accuracy}
