"""The spec: one YAML file that names the parts, the template and, for vlm-train, the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SerializeAsAny

from vlm_core.errors import SpecError
from vlm_core.io.manifest import MANIFEST
from vlm_core.io.yaml_loader import Document, override, read
from vlm_core.plugins.config import ConnectorConfig, EncoderConfig, LLMConfig, StrictModel
from vlm_core.plugins.hub import with_trust
from vlm_core.plugins.registry import installed
from vlm_core.spec.inheritance import KEY, read_with_base
from vlm_core.spec.validate import component, validate
from vlm_core.text.template import Template, TemplateError, TemplateField
from vlm_core.views.config import ViewsConfig

SPEC = "spec.yaml"


class _Dumper(yaml.SafeDumper):
    """Quotes and escapes strings with Unicode line breaks, which YAML would read back as a space or a line feed."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


class Spec(StrictModel):
    """A validated spec. `train` is plain data here: the package vlm-train validates it."""

    name: str = Field(
        default="vlm", pattern=r"^[\w.+-]+$", description="name of the model in tables and folders"
    )
    encoder: Annotated[SerializeAsAny[EncoderConfig], component("encoder")] = Field(
        description="the vision encoder"
    )
    connector: Annotated[SerializeAsAny[ConnectorConfig], component("connector")] = Field(
        description="the connector: patch features to image embeddings of the language model's width"
    )
    llm: Annotated[SerializeAsAny[LLMConfig], component("llm")] = Field(description="the language model")
    template: TemplateField = Field(
        default=Template.named("llava-v1"),
        description="the chat template: a built-in name, tokenizer, or a mapping of patterns",
    )
    views: ViewsConfig | None = Field(
        default=None, description="tiles of an image and their arrangement; default: one view of each image"
    )
    keep_random: list[Literal["encoder", "connector", "llm"]] | None = Field(
        default=None, description="parts that may keep random weights although no stage trains them"
    )
    train: dict[str, Any] | None = Field(
        default=None, description="training: stages, data and recipe; the package vlm-train validates it"
    )

    def to_yaml(self) -> str:
        """The resolved spec as YAML, with all defaults and without unset keys; reading it gives an equal spec."""
        data = self.model_dump(mode="json", exclude_none=True)
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_spec(
    path: str | Path, overrides: Sequence[str] = (), *, trust_remote_code: bool = False
) -> tuple[Spec, Document]:
    """Read a spec file with its bases, apply `overrides` (key=value), and validate it with its sections.

    Returns the spec and its document, which has file and line of every value. Raises `SpecError` with all faults, or
    `UserError` for a file that can't be read. A section is validated if the package that owns it is installed. A spec
    may allow code of a hub repository at a pinned commit; `trust_remote_code` is the user's permission for code in
    local files.
    """
    document = read_with_base(path)
    for assignment in overrides:
        override(document, assignment)
    return validate_document(document, trust_remote_code=trust_remote_code), document


def load_folder_spec(folder: str | Path, *, trust_remote_code: bool = False) -> Spec:
    """The spec of a model folder, which has no base and can't itself allow code to run; raises as `load_spec`."""
    document = read(Path(folder, SPEC))
    if isinstance(document.data, dict) and KEY in document.data:
        text = "the spec of a model folder must be complete; expected no base"
        raise SpecError([document.problem((KEY,), text)])
    return validate_document(document, trust_remote_code=trust_remote_code)


def validate_document(document: Document, *, trust_remote_code: bool = False) -> Spec:
    """The validated spec of a document, with every section whose package is installed; raises `SpecError`."""
    spec = _validated(document)
    folders = {Path(layer.file).parent for layer in document.layers} or {Path(document.file).parent}
    saved = any((folder / MANIFEST).is_file() for folder in folders)
    trust = "files" if trust_remote_code else "nothing" if saved else "commits"
    for part in (spec.encoder, spec.connector, spec.llm):
        with_trust(part, trust)
    return spec


def _validated(document: Document) -> Spec:
    if not isinstance(document.data, dict):
        raise SpecError([document.problem((), "a spec is a mapping with encoder, connector and llm")])
    if {"rows", "axes", "tables"} & document.data.keys():
        raise SpecError([document.problem((), "a sweep file, expected a spec; vlm-train sweep runs it")])
    problems, spec = [], None
    try:
        spec = validate(Spec, document)
    except SpecError as error:
        problems += error.problems
    for name in installed().names("section"):
        if document.data.get(name) is not None:
            try:
                validate(installed().get("section", name), document, (name,))
            except SpecError as error:
                problems += error.problems
    if problems or spec is None:
        raise SpecError(problems)
    return spec


@contextmanager
def locate_template_errors(document: Document) -> Iterator[None]:
    """Inside, a `TemplateError` becomes a `SpecError` with file and line: templates are checked with the tokenizer."""
    try:
        yield
    except TemplateError as error:
        raise SpecError([document.problem(path, text) for path, text in error.faults]) from None


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec with every installed component, for editors."""
    schema = Spec.model_json_schema()
    for kind in ("encoder", "connector", "llm"):
        configs = [installed().get(kind, name) for name in installed().names(kind)]
        text = schema["properties"][kind]["description"]
        schema["properties"][kind] = {"description": text, "oneOf": [_inline(config) for config in configs]}
    for name in installed().names("section"):
        schema["properties"][name] = _inline(installed().get("section", name))
    schema["properties"][KEY] = {"type": "string", "description": "a spec file that this one only changes"}
    schema["anyOf"] = [{"required": [KEY]}, {"required": schema.pop("required")}]
    return schema


def _inline(model: type[StrictModel]) -> dict[str, Any]:
    """A model's schema with its `$defs` resolved, to be embedded in another schema."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def expand(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return expand(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: expand(value) for key, value in node.items()}
        return [expand(item) for item in node] if isinstance(node, list) else node

    return expand(schema)
