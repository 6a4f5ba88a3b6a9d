"""A public function takes exactly what it honours: no `**_`, and every `**kwargs` is looked at."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
REASONS = {
    "backward": "torch hands over as many gradients as there were outputs",
    "autograd": "torch.library hands over as many gradients as there were outputs",
}
CHECKED = {
    "vlm_core/cli/common.py": {"__init__": "__init__"},
    "vlm_core/plugins/config.py": {"__init_subclass__": "__init_subclass__"},
    "vlm_core/hf/configuration.py": {"from_dict": "from_dict", "from_pretrained": "unused"},
    "vlm_core/hf/modeling.py": {
        "from_pretrained": "check_loading",
        "save_pretrained": "refuse_unknown",
        "to": "_parse_to",
    },
    "vlm_core/hf/generation.py": {"generate": "refuse_options"},
    "vlm_core/hf/processing.py": {
        "from_pretrained": "check_loading",
        "save_pretrained": "upload_of",
        "__call__": "padding_options",
        "apply_chat_template": "padding_options",
        "decode": "refuse_unknown",
        "batch_decode": "decode",
        "post_process_image_text_to_text": "batch_decode",
    },
    "vlm_core/hf/training.py": {"__call__": "forward_hidden"},
    "vlm_bench/lmms/model.py": {"__init__": "UserError"},
    "vlm_connectors/connectors.py": {"vss_mlp": "VSS", "vss_l2": "VSS"},
    "vlm_ssm/layers/transformers_mixer.py": {
        "forward": "_why_not_now"
    },  # transformers' own forward gets them
    "vlm_ssm/ops.py": {"_expect": "items"},
    "vlm_ssm/cuda/decoding/launches.py": {"launch_dependent": "names"},
    "vlm_ssm/cuda/decoding/matvec.py": {"product": "launch_dependent"},
    "vlm_ssm/cuda/launch.py": {"__call__": "prepare", "prepare": "names", "kernel": "_kernel"},
    "vlm_ssm/cuda/memory.py": {"strides": "items"},
    "vlm_encoders/towers/timm_tower.py": {"__init__": "__init__", "build_timm": "spec_values"},
    "vlm_encoders/towers/transformers_tower.py": {"__init__": "__init__"},
    "vlm_encoders/towers/open_clip_tower.py": {"__init__": "__init__", "build_open_clip": "spec_values"},
    "vlm_encoders/towers/transformers_build.py": {"build_transformers": "spec_values"},
}
"""Functions that pass arguments on by a third party's protocol or to one function, and what checks them."""


def sources():
    return sorted((ROOT / "packages").glob("*/src/**/*.py"))


def functions(path):
    """Public ones: those of private classes and functions inside functions serve one caller."""

    def walk(node, hidden):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                private = child.name.startswith("_") and not child.name.startswith("__")
                if not (hidden or private):
                    yield child
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, hidden or child.name.startswith("_"))

    yield from walk(ast.parse(path.read_text()), False)


def test_nothing_is_swallowed():
    swallowed = [
        f"{path.name}: {function.name}"
        for path in sources()
        for function in functions(path)
        for rest in (function.args.vararg, function.args.kwarg)
        if rest is not None and rest.arg.startswith("_") and function.name not in REASONS
    ]
    assert not swallowed


def test_arguments_that_are_passed_on_are_checked():
    for path, function in [(source, one) for source in sources() for one in functions(source)]:
        key = str(path).partition("/src/")[2]
        rest = function.args.kwarg
        if rest is None:
            continue
        checker = CHECKED.get(key, {}).get(function.name)
        assert checker, (
            f"{key}: {function.name} takes **{rest.arg}: name its arguments, or say here what checks them"
        )
        names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
        attributes = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
        assert rest.arg in names, f"{key}: {function.name} never looks at **{rest.arg}"
        assert checker in names | attributes
