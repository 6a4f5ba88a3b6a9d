"""What can happen to an index of a data file that is kept in the cache."""

import json
import os
import shutil

import numpy as np

from vlm_core.io.manifest import MANIFEST, sha256


def damage_permuted(entry):
    table = np.load(entry / "rows.npy")
    np.save(entry / "rows.npy", table[::-1].copy())


def damage_truncated(entry):
    file = entry / "rows.npy"
    file.write_bytes(file.read_bytes()[:-100])


def damage_version(entry):
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({**manifest, "version": 0}))


def damage_manifest(entry):
    (entry / MANIFEST).write_text("[]")


def damage_emptied(entry):
    shutil.rmtree(entry)
    entry.mkdir()


def damage_of_another_file(entry):
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({**manifest, "name": "other"}))


def forged(entry, name):
    """A manifest that agrees with what a file holds now."""
    manifest = json.loads((entry / MANIFEST).read_text())
    manifest = {key: value for key, value in manifest.items() if key in ("version", "name", "files")}
    manifest["files"][name] = {"bytes": (entry / name).stat().st_size, "sha256": sha256(entry / name)}
    (entry / MANIFEST).write_text(json.dumps(manifest))


def damage_that_no_manifest_lists(entry):
    damage_permuted(entry)
    manifest = json.loads((entry / MANIFEST).read_text())
    (entry / MANIFEST).write_text(json.dumps({**manifest, "files": {}}))


def damage_permuted_and_forged(entry):
    damage_permuted(entry)
    forged(entry, "rows.npy")


def damage_of_another_type(entry):
    np.save(entry / "rows.npy", np.full(500, np.nan))
    forged(entry, "rows.npy")


def damage_of_an_object_array(entry):
    np.save(entry / "rows.npy", np.array([{}, print], dtype=object), allow_pickle=True)
    forged(entry, "rows.npy")


def damage_of_positions(entry):
    table = np.load(entry / "rows.npy")
    table["start"][-1] = 2**40
    np.save(entry / "rows.npy", table)
    forged(entry, "rows.npy")


def damage_of_the_header(entry):
    """A header is a Python literal, in which anything may stand."""
    head = b"-" * 60_000 + b"1" + b" " * 100
    (entry / "rows.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    forged(entry, "rows.npy")


def damage_of_faults(entry):
    faults = json.loads((entry / "faults.json").read_text())
    (entry / "faults.json").write_text(json.dumps({**faults, "faults": [[500, ["schema", "x", "y"]]]}))
    forged(entry, "faults.json")


def damage_of_deep_faults(entry):
    (entry / "faults.json").write_text("[" * 100_000)
    forged(entry, "faults.json")


def damage_by_a_deep_manifest(entry):
    (entry / MANIFEST).write_text('{"files":' + "[" * 100_000)


def damage_by_a_fifo(entry):
    (entry / MANIFEST).unlink()
    os.mkfifo(entry / MANIFEST)


def damage_to_a_file(entry):
    shutil.rmtree(entry)
    entry.write_text("x")


def damage_to_a_fifo(entry):
    shutil.rmtree(entry)
    os.mkfifo(entry)


def damage_to_a_link(entry):
    entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to(entry.parent.parent / "elsewhere")


def damage_to_a_dangling_link(entry):
    shutil.rmtree(entry)
    entry.symlink_to("nowhere")


def damage_of_another_layout(entry):
    """A manifest that agrees with files that can't be read."""
    (entry / "faults.json").write_text("0")
    manifest = json.loads((entry / MANIFEST).read_text())
    manifest["files"]["faults.json"] = {"bytes": 1, "sha256": sha256(entry / "faults.json")}
    (entry / MANIFEST).write_text(json.dumps(manifest))


DAMAGES = [value for name, value in globals().items() if name.startswith("damage_")]
