"""Which folders another user could put files into."""

import os
import re
import stat
from pathlib import Path

import pytest

from vlm_core.io.private_folder import why_untrusted
from vlm_ssm.runtime.kernel_cache import make_private

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "above" / "cache"
    found.mkdir(parents=True)
    found.chmod(0o755)
    return found


def test_a_folder_of_ones_own_is_trusted(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text("")
    for path in (folder, folder / "not" / "there", folder / "..", folder / ".." / "cache"):
        assert why_untrusted(path) is None
    assert why_untrusted(Path(os.devnull) / "cache") is None, "it can't be made, which is another fault"


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o770, 0o757, 0o1777])
def test_a_folder_that_others_can_write_says_its_mode_and_what_to_do(mode, folder):
    folder.chmod(mode)
    shown = (
        re.escape(f"{folder} (owner ") + r"\S+" + re.escape(f", mode {stat.filemode(folder.stat().st_mode)})")
    )
    said = why_untrusted(folder)
    assert said is not None
    assert re.fullmatch(shown + re.escape(f" can be written by other users; chmod go-w {folder}"), said)


@pytest.mark.parametrize("inside", ["", "not/there"])
def test_every_folder_on_the_way_counts_up_to_a_sticky_one(inside, folder):
    folder.parent.chmod(0o777)
    assert f"chmod go-w {folder.parent}" in str(why_untrusted(folder / inside))
    folder.parent.chmod(0o1777)
    assert why_untrusted(folder / inside) is None


@as_root
@pytest.mark.parametrize("which", ["folder", "above", "file", "link"])
def test_another_users_files_are_not_trusted(which, folder):
    (folder / "file").write_text("")
    link = folder.parent.parent / "link"
    link.symlink_to(folder)
    path = {"folder": folder, "above": folder.parent, "file": folder / "file", "link": link}[which]
    os.lchown(path, NOBODY, NOBODY)
    said = str(why_untrusted(link))
    assert said.startswith(f"{path} (owner nobody, mode ")
    assert said.endswith("belongs to another user; name a folder of your own, or remove it")


def test_links_are_followed_and_what_they_lead_to_is_judged(folder, tmp_path):
    (tmp_path / "link").symlink_to(Path("above") / "cache")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    assert why_untrusted(tmp_path / "second" / "new") is None
    folder.chmod(0o777)
    assert f"chmod go-w {folder}" in str(why_untrusted(tmp_path / "second"))
    folder.chmod(0o755)
    (folder / "file").symlink_to(tmp_path / "elsewhere")
    assert str(why_untrusted(folder)).endswith("is a link; remove it")


def test_a_circle_of_links_ends(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert why_untrusted(tmp_path / "a") is None, "nothing can be made there"


def test_files_that_others_can_write_are_not_trusted_unless_nobody_gets_there(folder):
    (folder / "file").write_text("")
    (folder / "file").chmod(0o666)
    assert "file (owner" in str(why_untrusted(folder))
    folder.chmod(0o700)
    assert why_untrusted(folder) is None


def test_a_folder_is_made_for_this_user_whatever_the_umask_is(tmp_path):
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    for made in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
