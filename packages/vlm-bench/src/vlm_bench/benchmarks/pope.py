"""`vlm-bench score pope`: LLaVA's question file, an answer file and POPE's label files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from vlm_bench.join import check_answers
from vlm_bench.readers.answers import Answer, read_answers
from vlm_bench.readers.files import sha256
from vlm_bench.readers.pope import SPLITS, Labels, Question, read_labels, read_questions
from vlm_bench.report import Report
from vlm_bench.scorers.pope import SplitScore, mean_f1, score_split
from vlm_core.errors import UserError

HELP = "POPE: object hallucination, yes/no questions"
LLAVA_REVISION = "e3e39262"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files that POPE needs."""
    parser.add_argument("--questions", type=Path, required=True, help="llava_pope_test.jsonl")
    parser.add_argument("--answers", type=Path, required=True, help="JSON lines with question_id and text")
    parser.add_argument(
        "--labels", type=Path, required=True, help="folder with coco_pope_{random,popular,adversarial}.json"
    )


def run(args: argparse.Namespace) -> Report:
    """Read, join and score; every doubt about what belongs together is a `UserError`."""
    questions, labels = read_questions(args.questions), read_labels(args.labels)
    answers = read_answers(args.answers)
    check_labels(questions, labels, args.allow_partial)
    prompts = {key: question.prompt for key, question in questions.items()}
    scored = check_answers(prompts, answers, args.allow_partial)
    scores = score(questions, labels, answers, scored)
    return Report(
        protocol=f"llava-1.5/pope@{labels.revision} mean-F1",
        headline=("mean F1", mean_f1(scores.values())),
        rows={split: _figures(split_score) for split, split_score in scores.items()},
        scored=len(scored),
        expected=len(labels),
        parse={"read as yes without saying so": sum(s.unclear for s in scores.values())},
        files={args.questions.name: sha256(args.questions), args.answers.name: sha256(args.answers)}
        | {f"coco_pope_{split}.json": digest for split, digest in labels.sha256.items()},
        warnings=_warnings(labels, scores),
    )


def check_labels(questions: Mapping[str, Question], labels: Labels, allow_partial: bool) -> None:
    """Refuse questions without a label, and labels without a question unless `allow_partial`."""
    faults = []
    for split in SPLITS:
        asked, known = {q.key for q in questions.values() if q.split == split}, labels.truth[split].keys()
        unlabelled, unasked = len(asked - known), len(known - asked)
        if unlabelled or (unasked and not allow_partial):
            faults.append(
                f"\n  {split}: {unlabelled} of {len(asked)} questions without a label, "
                f"{unasked} of {len(known)} labels without a question"
            )
    if faults:
        raise UserError(
            "questions and labels do not belong together (joined by image and question):"
            + "".join(faults)
            + f"\n  these labels are POPE revision {labels.revision}; "
            f"LLaVA's questions belong to {LLAVA_REVISION}"
        )


def score(
    questions: Mapping[str, Question], labels: Labels, answers: Mapping[str, Answer], scored: list[str]
) -> dict[str, SplitScore]:
    """Each split's score; a split of which nothing was answered is left out."""
    pairs: dict[str, list[tuple[str, bool]]] = {split: [] for split in SPLITS}
    for key in scored:
        question = questions[key]
        pairs[question.split].append((answers[key].text, labels.truth[question.split][question.key]))
    return {split: score_split(found) for split, found in pairs.items() if found}


def _figures(score: SplitScore) -> dict[str, float | int]:
    return {
        "n": score.total,
        "accuracy": score.accuracy,
        "precision": score.precision,
        "recall": score.recall,
        "F1": score.f1,
        "yes ratio": score.yes_ratio,
    }


def _warnings(labels: Labels, scores: Mapping[str, SplitScore]) -> list[str]:
    found = [
        f"{split}: {', '.join(s.undefined)} undefined (division by zero), counted as 0"
        for split, s in scores.items()
        if s.undefined
    ]
    if labels.revision != LLAVA_REVISION:
        found.append(f"labels of revision {labels.revision}; published LLaVA figures use {LLAVA_REVISION}")
    if absent := [split for split in SPLITS if split not in scores]:
        found.append(f"nothing answered of {', '.join(absent)}: the mean is over the other splits")
    return found
