"""Starting a run, and changing its data between two starts."""

import json

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from vlm_connectors.connectors import VSSL2
from vlm_core.io.checksum import with_checksum
from vlm_core.spec.spec import load_spec
from vlm_train.cli import main
from vlm_train.run import start


def new_process():
    """accelerate keeps its settings for the life of a process: what follows stands for another one."""
    AcceleratorState._reset_state(reset_partial_state=True)


def go(path, *overrides):
    """A run as a process of its own would start it -> (its folder, the table of its results)."""
    new_process()
    return start(*load_spec(path, overrides))


def run_folder(path, *overrides):
    """The folder of a run."""
    return go(path, *overrides)[0]


def edit(path, change):
    """Change a JSON file as its writer would: with a checksum, if it has one."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(with_checksum(data) if "sha256" in data else data))


def longer(data):
    data.append({**data[0], "id": "more"})


def other_truth(data):
    data[0]["conversations"][1]["value"] = "mauve"


def swapped(data):
    data[0], data[1] = data[1], data[0]


def weights(folder):
    return {
        f"{part}.{k}": v
        for part in ("encoder", "connector", "llm")
        for k, v in load_file(folder.path / "model" / part / "weights.safetensors").items()
    }


def losses(folder):
    return [(m["stage"], m["step"], m["loss"]) for m in folder.metrics()]


class Killed(Exception):
    """Stands for whatever ends a process."""


def drop_out(self, features, forward=VSSL2.forward):
    """The connector with dropout, which draws random numbers in every step."""
    return torch.nn.functional.dropout(forward(self, features), 0.2, self.training)


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["vlm-train", *map(str, arguments)])
    code = main.main()
    return code, capsys.readouterr()
