"""Exports a model folder for transformers; with its code it loads where vlm-core is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.export import code_export
from vlm_core.io.manifest import write_folder
from vlm_core.io.video.sources import Sampling
from vlm_core.model import PARTS
from vlm_core.model_folder import hf_files
from vlm_core.model_folder.assemble import architecture
from vlm_core.model_folder.file_list import verify_model
from vlm_core.model_folder.load import empty_model
from vlm_core.plugins.config import FactoryCall
from vlm_core.spec.spec import load_folder_spec
from vlm_core.views.rule import ViewRule

HF = "vlm_core.hf."
ROOTS = {
    hf_files.CONFIG_CLASS: f"{HF}configuration",
    hf_files.MODEL_CLASS: f"{HF}modeling",
    hf_files.PROCESSOR_CLASS: f"{HF}processing",
}
BUILDER = f"{HF}components"
OPERATIONS = "vlm_ssm.registration.namespace"
OWN_NAMESPACE = 'import re\n\nNAMESPACE = re.sub(r"\\W", "_", __name__)\n'
"""Each exported copy registers its torch operations under its own name: several may be loaded in one process."""


def export_hf(
    source: str | Path, target: str | Path, *, with_code: bool = False, trust_remote_code: bool = False
) -> None:
    """Write the model folder `source` as `target`, which transformers loads after `import vlm_core.hf`.

    With `with_code` the folder contains its modules and loads with `trust_remote_code=True`; it needs torch,
    transformers, Pillow and the packages in the manifest's `needs`. Raises `UserError` for a part whose code can't be
    exported and, without `trust_remote_code`, for a model with code in its folder.
    """
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: --export-hf needs a model folder; vlm-assemble SPEC --out DIR writes one")
    manifest = verify_model(source)
    facts = {key: value for key, value in manifest.items() if key not in ("files", "code", "needs")}
    spec = load_folder_spec(source, trust_remote_code=trust_remote_code)
    model = empty_model(lambda: architecture(spec, source), source, PARTS)
    code, modules = {}, {}
    if with_code:
        calls = {part: getattr(spec, part).factory_call() for part in PARTS}
        code, modules = (
            code_files(calls, model.views, model.sampling if model.samples_videos else None),
            {name: code_export.flat(module) for name, module in ROOTS.items()},
        )
        facts |= {"code": True, "needs": sorted({need for r in calls.values() for need in r.needs})}

    def write(folder: Path) -> None:
        for name in manifest["files"]:
            if "/" in name or not name.endswith(".py"):  # code of an earlier export
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, folder / name)
        hf_files.write(folder, model, spec, modules)
        for name, content in code.items():
            (folder / name).write_text(content, encoding="utf-8")

    write_folder(target, write, facts, lambda manifest: hf_files.card(spec, model, manifest))


def code_files(
    calls: dict[str, FactoryCall], views: ViewRule | None = None, sampling: Sampling | None = None
) -> dict[str, str]:
    """Contents of the code files of a model with these parts, by file name."""
    functions = [name for call in calls.values() for name in _functions(call)]
    packages = {"vlm_core", "vlm_ssm", *(name.split(".")[0] for name in functions)}
    instead = {BUILDER: builder(calls, views, sampling), OPERATIONS: OWN_NAMESPACE}
    return code_export.files(ROOTS.values(), packages, instead)


def _functions(call: FactoryCall) -> Iterable[str]:
    yield call.function
    yield from (_qualified(value) for value in call.arguments.values() if callable(value))


def _qualified(function: Any) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def builder(
    calls: dict[str, FactoryCall], views: ViewRule | None = None, sampling: Sampling | None = None
) -> str:
    """The source of the export's `vlm_core.hf.components`, which builds these three parts only, with these views."""
    needs = sorted({need for call in calls.values() for need in call.needs})
    options = {"views": views, "sampling": sampling}
    arguments = ["encoder", "connector", "llm"]
    arguments += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    imports = [f"import {need}  # noqa: F401" for need in needs]
    imports += sorted({_import(name) for call in calls.values() for name in _functions(call)})
    return "\n".join(
        [
            '"""Builds the architecture of this folder."""',
            "",
            "from pathlib import Path",
            "",
            *imports,
            *([] if sampling is None else ["from vlm_core.io.video.sources import Sampling"]),
            "from vlm_core.model import VLM",
            *([] if views is None else ["from vlm_core.views.rule import ViewRule"]),
            "",
            "",
            "def build(folder: Path, *, trust_remote_code: bool = False) -> VLM:",
            '    """The model without weights; its parts run no code from outside this folder."""',
            "    encoder = " + _call(calls["encoder"], 'assets=folder / "encoder"'),
            "    llm = " + _call(calls["llm"], 'assets=folder / "llm"'),
            "    connector = " + _call(calls["connector"], "encoder.dim, llm.dim"),
            f"    return VLM({', '.join(arguments)})",
            "",
        ]
    )


def _import(name: str) -> str:
    module, _, function = name.partition(":")
    return f"from {module} import {function} as {_alias(name)}"


def _alias(name: str) -> str:
    """A unique name: functions in different modules may have the same name."""
    return name.replace(".", "_").replace(":", "_")


def _call(call: FactoryCall, first: str) -> str:
    def source(value: Any) -> str:
        return _alias(_qualified(value)) if callable(value) else repr(value)

    arguments = [first, *(f"{key}={source(value)}" for key, value in call.arguments.items())]
    return f"{_alias(call.function)}({', '.join(arguments)})"
