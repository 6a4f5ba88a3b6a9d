"""The small files of a model folder are small: what a stranger makes large is refused before it is read or hashed."""

import os
import shutil

import pytest
import strangers

from vlm_core.errors import UserError
from vlm_core.io.checksum import with_checksum
from vlm_core.io.files import JSON_BYTES, JSON_VALUES, MAX_BYTES
from vlm_core.io.manifest import MANIFEST, read_manifest
from vlm_core.model_folder.assemble import load


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "m")


def test_a_large_manifest_is_not_read(folder):
    os.truncate(folder / MANIFEST, JSON_BYTES + 1)
    with pytest.raises(UserError, match=rf"manifest\.json: .* at most {JSON_BYTES} are read; restore"):
        load(folder)


def test_a_manifest_of_many_values_is_not_parsed(folder):
    (folder / MANIFEST).write_text('{"files": [' + "[]," * JSON_VALUES + "[]]}")
    with pytest.raises(UserError, match=rf"manifest\.json: damaged: about .* at most {JSON_VALUES} are read"):
        load(folder)


def test_a_file_that_nothing_reads_is_not_hashed_for_hours(folder, tmp_path):
    """A hole in a file takes no room on a disk: it may have any size."""
    manifest = read_manifest(folder)
    (folder / "llm" / "notes.txt").touch()
    os.truncate(folder / "llm" / "notes.txt", 2**40)
    manifest["files"]["llm/notes.txt"] = {"bytes": 2**40, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(strangers.json.dumps(with_checksum(manifest)))
    for opener in strangers.openers(folder, tmp_path).values():
        with pytest.raises(UserError, match=rf"llm/notes\.txt: {2**40} bytes; .* at most {MAX_BYTES}"):
            opener()


def test_many_files_are_not_kept_in_memory(folder, monkeypatch):
    monkeypatch.setattr("vlm_core.hf.saving.MAX_BYTES", 5000)
    (folder / "llm" / "notes.txt").write_bytes(bytes(5001))
    strangers.seal(folder)
    openers = strangers.openers(folder, folder)
    for name in ("transformers", "processor"):
        with pytest.raises(UserError, match="bytes in files besides weights; at most 5000 are read"):
            openers[name]()
