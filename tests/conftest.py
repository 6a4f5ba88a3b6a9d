"""Shared by all tests: nothing reaches a network, and a model small enough to build in a blink."""

import gc
import os
import signal
import sys
import time

import pytest
from hypothesis import settings

# the same examples in every run; `--hypothesis-profile=explore` draws new ones
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore")
settings.load_profile("repeatable")

os.environ["HF_HUB_OFFLINE"] = "1"
# tests start hundreds of processes: without byte code each compiles torch anew, which takes longer than importing it
sys.dont_write_bytecode = os.environ.pop("PYTHONDONTWRITEBYTECODE", None) is None and sys.dont_write_bytecode
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: threads would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


os.fsync = lambda fd: None  # no file of a test has to outlive a power failure, and a disk may take its time
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts jobs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What lives when a module begins lives as long as the process: no collection needs to look at it again.

    A training run collects garbage at the end of each stage, which takes a second in a process that has seen all tests.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


MINUTES = (
    "test_static.py",
    "test_docs.py",
    "test_resolutions.py",
    "test_killed_commands.py",
    "test_kills.py",
)
"""Files with a test that takes minutes."""


def pytest_collection_modifyitems(items):
    """Tests that take minutes begin first, so that nothing waits for them at the end.

    Measurements, which users don't run, come last: they are what a limit of time leaves out.
    """
    items.sort(key=lambda item: (item.path.name not in MINUTES, item.path.parent.name == "perf"))


UNTIL = float(os.environ.get("VLM_TESTS_UNTIL", "inf"))
"""Seconds since 1970 after which no test begins; those that are left out are skipped, and counted so."""


def pytest_runtest_setup(item):
    if time.time() > UNTIL:
        pytest.skip("the time of this run is over (VLM_TESTS_UNTIL)")


ENCODER = {
    "type": "timm",
    "model": "vit_tiny_patch16_224",
    "model_args": {"depth": 2, "embed_dim": 16, "num_heads": 2},
    "image_size": 32,
}
TEXTS = ["what color is the shape? red", "is there a circle? yes no", "a blue triangle on a white ground"]


@pytest.fixture(scope="module")
def one_thread():
    """Models this small only lose by threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text_rows(tmp_path_factory):
    """A LLaVA file of text-only rows, for a tokenizer to learn from."""
    import json

    path = tmp_path_factory.mktemp("texts") / "texts.json"
    rows = [
        {"id": str(i), "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]}
        for i, text in enumerate(TEXTS)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def tiny_spec(text_rows):
    """The data of a complete spec: 2×2 patches, two Mamba layers, a tokenizer learnt from `TEXTS`."""
    return {
        "name": "tiny",
        "encoder": ENCODER,
        "connector": {"type": "vss-l2", "d_state": 4},
        "llm": {
            "type": "mamba",
            "d_model": 16,
            "n_layer": 2,
            "d_state": 4,
            "tokenizer": {"vocab_size": 300, "dataset": {"type": "llava", "path": str(text_rows)}},
        },
        "template": "short",
        "keep_random": ["encoder"],
    }


@pytest.fixture(scope="session")
def clean_spec(tiny_spec, tmp_path_factory):
    """As `tiny_spec`, of parts that run on torch and transformers alone; build it with `weights=False`."""
    import json

    tower = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    folder = tmp_path_factory.mktemp("vision")
    (folder / "config.json").write_text(json.dumps(tower))
    (folder / "preprocessor_config.json").write_text(json.dumps(colours))
    encoder = {"type": "transformers", "model": str(folder)}
    return {**tiny_spec, "encoder": encoder, "template": "llava-v1"}


@pytest.fixture(scope="session")
def tiny_folder(tiny_spec, tmp_path_factory):
    """A saved model folder of `tiny_spec`; don't write into it."""
    from vlm_core.model_folder.assemble import build, save
    from vlm_core.spec.spec import Spec

    spec = Spec.model_validate(tiny_spec)
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(build(spec), spec, path)
    return path


@pytest.fixture(scope="session")
def loaded_tiny(tiny_folder):
    """Model and spec of `tiny_folder`, loaded once, of which tests get copies."""
    from vlm_core.model_folder.assemble import load

    return load(tiny_folder)


@pytest.fixture
def tiny_model(tiny_folder, loaded_tiny):
    """The model of `tiny_folder`, as if it were freshly loaded."""
    import copy
    import json

    from vlm_core.model_folder.model_digest import keep_digests_of_files

    model, spec = copy.deepcopy(loaded_tiny[0]), loaded_tiny[1]
    for new, old in zip(model.parameters(), loaded_tiny[0].parameters(), strict=True):
        vars(new).update(vars(old))  # such as that it has no weight decay, which torch does not copy
    keep_digests_of_files(model, spec, json.loads((tiny_folder / "manifest.json").read_text())["files"])
    return model
