"""Files of a model folder for transformers and for people: config.json, processor_config.json, README.md.

They are written without transformers; `vlm_core.hf` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_core.interfaces import parameter_count
from vlm_core.markup.markdown import fence, row, text
from vlm_core.model import PARTS, VLM
from vlm_core.plugins.local_code import OPTION
from vlm_core.preprocessing import preprocessing_rows
from vlm_core.spec.spec import Spec
from vlm_core.text.render import end_of_answer

CONFIG, PROCESSOR, CARD = "config.json", "processor_config.json", "README.md"
MODEL_TYPE = "vlm-core"
MODEL_CLASS, PROCESSOR_CLASS, CONFIG_CLASS = "VLMForConditionalGeneration", "VLMProcessor", "VLMConfig"
AUTO = {
    "AutoConfig": CONFIG_CLASS,
    "AutoModelForImageTextToText": MODEL_CLASS,
    "AutoProcessor": PROCESSOR_CLASS,
}


def config(model: VLM, spec: Spec) -> dict[str, Any]:
    """The content of config.json, which transformers reads before it builds the model."""
    tokenizer = model.llm.tokenizer
    end = end_of_answer(spec.template, tokenizer)
    dtype = next(p.dtype for p in model.llm.parameters() if p.is_floating_point())
    return {
        "model_type": MODEL_TYPE,
        "architectures": [MODEL_CLASS],
        "dtype": str(dtype).removeprefix("torch."),
        "hidden_size": model.llm.dim,
        "vocab_size": model.llm.vocab_size,
        "token_count": len(tokenizer),
        "eos_token_id": tokenizer.eos_id if end in (None, tokenizer.eos_id) else [tokenizer.eos_id, end],
        "bos_token_id": tokenizer.bos_id,
        "image_size": list(model.encoder.image_size),
        "image_tokens": model.connector.num_tokens(*model.encoder.grid(*model.encoder.image_size)),
    }


def processor(spec: Spec) -> dict[str, Any]:
    return {"processor_class": PROCESSOR_CLASS, "template": spec.template.model_dump()}


def write(folder: Path, model: VLM, spec: Spec, modules: Mapping[str, str] | None = None) -> None:
    """Write config.json and processor_config.json; `modules` names the file in the folder that holds each class."""
    for name, content, classes in (
        (CONFIG, config(model, spec), ("AutoConfig", "AutoModelForImageTextToText")),
        (PROCESSOR, processor(spec), ("AutoProcessor",)),
    ):
        if modules:
            content["auto_map"] = {auto: f"{modules[AUTO[auto]]}.{AUTO[auto]}" for auto in classes}
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def card(spec: Spec, model: VLM, manifest: Mapping[str, Any]) -> str:
    """The model card: components, usage, sources of weights, spec, versions and hashes of files."""
    sizes = {part: parameter_count(getattr(model, part)) for part in PARTS}
    parts = [row([p, getattr(spec, p).label(), f"{sizes[p] / 1e6:,.2f} M"]) for p in PARTS]
    versions = map(row, sorted(manifest["versions"].items()))
    files = [
        f"| {text(name)} | {fact['bytes']} | `{fact['sha256']}` |"
        for name, fact in sorted(manifest["files"].items())
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: image-text-to-text",
            "---",
            "",
            f"# {text(spec.name)}",
            "",
            *_notes(manifest),
            "| part | component | parameters |",
            "|---|---|---|",
            *parts,
            "",
            *_usage(spec, bool(manifest.get("code")), _own_code(manifest)),
            "",
            *_weights(manifest),
            *_preprocessing(model),
            "## Spec",
            "",
            *fence(spec.to_yaml().rstrip(), "yaml"),
            "",
            "## Made with",
            "",
            "| package | version |",
            "|---|---|",
            *versions,
            "",
            "## Files",
            "",
            "| file | bytes | sha256 |",
            "|---|---|---|",
            *files,
            "",
        ]
    )


def _weights(manifest: Mapping[str, Any]) -> list[str]:
    """Sources of the weights; empty for folders of earlier versions, whose manifest lacks them."""
    rows = list(map(row, manifest.get("initial_weights", ())))
    if not rows:
        return []
    trained = ", before training" if manifest.get("trained") else ""
    return [f"## Weights{trained}", "", "| part | component | from |", "|---|---|---|", *rows, ""]


def _preprocessing(model: VLM) -> list[str]:
    """The image preprocessing of the encoder."""
    rows = list(map(row, preprocessing_rows(model.encoder)))
    if not rows:
        return []
    head = ["## Image preprocessing", "", "| encoder | key | value | from |", "|---|---|---|---|"]
    return [*head, *rows, ""]


def _notes(manifest: Mapping[str, Any]) -> list[str]:
    notes = []
    if manifest.get("random_weights"):
        notes += [
            "**The weights are random numbers**, made to try out size and speed; it answers nonsense.",
            "",
        ]
    if needs := manifest.get("needs"):
        notes += [f"Its code needs {text(' and '.join(needs))} besides transformers, torch and Pillow.", ""]
    return notes


def _own_code(manifest: Mapping[str, Any]) -> list[str]:
    """Code files of parts that came with a hub repository."""
    return [name for name in sorted(manifest["files"]) if "/" in name and name.endswith(".py")]


def _usage(spec: Spec, code: bool, local_code: Sequence[str]) -> list[str]:
    """Usage in Python, with the exported code or with the packages installed."""
    trust = ", trust_remote_code=True" if code or local_code else ""
    packages = (
        [] if code else ["import vlm_core.hf  # pip install 'vlm-core[hf]' and the packages named below", ""]
    )
    lines = [
        *packages,
        "from transformers import pipeline",
        "",
        f'ask = pipeline("image-text-to-text", model="path/to/{spec.name}"{trust})',
        'question = [{"type": "image", "path": "picture.png"}, {"type": "text", "text": "What is this?"}]',
        'ask(text=[{"role": "user", "content": question}])',
    ]
    return [
        "## Use",
        "",
        *fence("\n".join(lines), "python"),
        *([] if code else ["", f"or `vlm-chat` with this folder{f' and `{OPTION}`' if local_code else ''}."]),
        *(
            ["", f"It runs its own code: {', '.join(map(text, local_code))}; read it first."]
            if local_code
            else []
        ),
    ]
