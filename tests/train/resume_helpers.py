"""Starting a run, and changing its data between two starts."""

import json

from vlm_core.io.checksum import with_checksum
from vlm_core.spec.spec import load_spec
from vlm_train.run import start


def go(path, *overrides):
    return start(*load_spec(path, overrides))


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
