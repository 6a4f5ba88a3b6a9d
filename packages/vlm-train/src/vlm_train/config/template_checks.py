"""Checks the templates of a spec with a `train` section against the tokenizer and the evaluations."""

from __future__ import annotations

from vlm_core.interfaces import Tokenizer
from vlm_core.io.yaml_loader import Path_
from vlm_core.spec.spec import Spec
from vlm_core.text.render import has_question
from vlm_core.text.template import AnyTemplate, TemplateError, check_template
from vlm_train.config.train import TrainConfig

NO_QUESTION = "leaves out the question: `user` has no {text}"


def check_templates(spec: Spec, train: TrainConfig, tokenizer: Tokenizer) -> None:
    """Raise one `TemplateError` with the faults of all templates."""
    faults: list[tuple[Path_, str]] = []
    for path, template in _templates(spec, train):
        try:
            check_template(template, tokenizer, path)
        except TemplateError as error:
            faults += error.faults
    if faults := faults + _without_question(spec, train):
        raise TemplateError(faults)


def _templates(spec: Spec, train: TrainConfig) -> list[tuple[Path_, AnyTemplate]]:
    stages = [
        (("train", "stages", i, "template"), s.template) for i, s in enumerate(train.stages) if s.template
    ]
    return [(("template",), spec.template), *stages]


def _without_question(spec: Spec, train: TrainConfig) -> list[tuple[Path_, str]]:
    """Faults of templates without the question that are used in evaluations with questions."""
    evaluations = [name for name in ("held_out_qa", "benchmarks") if getattr(train, name)]
    faults: list[tuple[Path_, str]] = []
    if evaluations and not has_question(spec.template):
        text = (
            f"{NO_QUESTION}, but train.{evaluations[0]} asks questions; set a template with {{text}} in "
            "the spec, and this one in the stages that learn captions"
        )
        faults.append((("template",), text))
    remedies = {
        "samples": "remove samples: then only stages whose template has the question are asked",
        "accuracy_rows": "remove accuracy_rows",
    }
    if asking := [key for key in remedies if getattr(train.validation, key, None)]:
        for i, stage in enumerate(train.stages):
            if not has_question(stage.template or spec.template):
                path = ("train", "stages", i, "template") if stage.template else ("template",)
                text = (
                    f"{NO_QUESTION}, but train.validation.{asking[0]} asks stage {stage.name} questions; "
                    f"{remedies[asking[0]]}"
                )
                faults.append((path, text))
    return faults
