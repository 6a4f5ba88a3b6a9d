"""A model folder names, links to and exports its own files only."""

import os
import shutil
from pathlib import Path

import pytest
import strangers

from vlm_core.errors import UserError
from vlm_core.export.hf_export import export_hf
from vlm_core.model_folder.assemble import load


def test_a_folder_names_no_file_outside_itself(tiny_folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in ("../secret", str(secret), "llm/../../secret"):
        shutil.copytree(tiny_folder, tmp_path / "m", dirs_exist_ok=True)
        strangers.seal(tmp_path / "m", **{name: secret})
        for opener in strangers.openers(tmp_path / "m", tmp_path).values():
            with pytest.raises(UserError, match=r"manifest.json: .*secret' is no file of this folder"):
                opener()


def test_a_link_leads_nowhere_else(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    shutil.copytree(tiny_folder / "llm", tmp_path / "llm")
    shutil.rmtree(tmp_path / "m" / "llm")
    (tmp_path / "m" / "llm").symlink_to(tmp_path / "llm")
    strangers.seal(tmp_path / "m")
    with pytest.raises(UserError, match=r"m/llm: a link that leaves the folder, to .*/llm; put a copy there"):
        load(tmp_path / "m")
    (tmp_path / "m" / "llm").unlink()
    (tmp_path / "m" / "llm").mkdir()
    for file in (tmp_path / "llm").iterdir():
        (tmp_path / "m" / "llm" / file.name).symlink_to(file)
    strangers.seal(tmp_path / "m")
    with pytest.raises(UserError, match="a link that leaves the folder"):
        export_hf(tmp_path / "m", tmp_path / "exported")


def test_the_links_of_the_hubs_cache_are_followed(tiny_folder, tmp_path):
    """A snapshot there is links to `blobs` of the same repository."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for i, file in enumerate(sorted(f for f in tiny_folder.rglob("*") if f.is_file())):
        place = snapshot / file.relative_to(tiny_folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(i))
        place.symlink_to(os.path.relpath(blobs / str(i), place.parent))
    load(snapshot)


def test_an_export_copies_what_the_manifest_lists(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine alone")
    export_hf(tmp_path / "m", tmp_path / "exported")
    names = {f.relative_to(tmp_path / "m") for f in (tmp_path / "m").rglob("*") if f.is_file()}
    exported = {
        f.relative_to(tmp_path / "exported") for f in (tmp_path / "exported").rglob("*") if f.is_file()
    }
    assert names - exported == {Path("notes.txt")}


def test_links_in_a_circle_are_no_file(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "llm" / "round").symlink_to("round")
    for opener in strangers.openers(tmp_path / "m", tmp_path).values():
        with pytest.raises(UserError, match=r"llm/round: not listed in manifest.json"):
            opener()
