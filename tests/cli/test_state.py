"""What is remembered between commands."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from backupiq.errors import ConfigurationError
from backupiq.state import config_dir, last_repository, remember_repository, state_dir, write_private


def test_the_repository_used_last_is_remembered_privately(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert last_repository(env) == []
    remember_repository(["/a", "/b"], env)
    remember_repository(["/c"], env)
    assert last_repository(env) == ["/c"]
    (file,) = state_dir(env).iterdir()
    assert os.name != "posix" or stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"destinations": "/a"}', b'{"destinations": [1, ""]}', b"\xff"]
)
def test_a_damaged_memory_is_no_memory(tmp_path: Path, content: bytes) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    remember_repository(["/a"], env)
    next(state_dir(env).iterdir()).write_bytes(content)
    assert last_repository(env) == []


def test_a_disk_that_refuses_does_not_end_the_command(tmp_path: Path) -> None:
    (tmp_path / "backupiq").write_text("in the way")
    env = {"XDG_STATE_HOME": str(tmp_path)}
    remember_repository(["/a"], env)
    assert last_repository(env) == []


def test_relative_folders_in_the_environment_are_ignored(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": "relative", "HOME": str(tmp_path)}
    assert config_dir(env) == tmp_path / ".config" / "backupiq"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigurationError, match="HOME"):
        config_dir({})


def test_writing_leaves_no_temporary_file_behind(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert write_private(path, b"one", create_only=True)
    assert not write_private(path, b"two", create_only=True)
    assert path.read_bytes() == b"one"
    assert write_private(path, b"three")
    assert path.read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["f"]
