"""Blocks as the API keeps them: found by name from anywhere, the password encrypted."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupiq.errors import MissingConfigurationError
from backupiq.storage.local import LocalProvider
from backupiq.telemetry import redact_text
from tests.flows.conftest import Api


async def test_a_destination_is_found_by_the_name_of_its_block_inside_a_running_loop(api: Api, tmp_path: Path) -> None:
    from blocks.destinations import provider_for
    from blocks.local_destination import LocalDestination

    await LocalDestination(path=tmp_path / "vault").save("found-by-name", overwrite=True)
    provider = provider_for("block:found-by-name")
    assert isinstance(provider, LocalProvider)
    assert provider.root == tmp_path / "vault"


def test_a_block_that_is_not_there_is_named(api: Api) -> None:
    from blocks.destinations import load_destination
    from blocks.repository_key import load_password

    with pytest.raises(MissingConfigurationError, match="'no-such-vault'"):
        load_destination("no-such-vault")
    with pytest.raises(MissingConfigurationError, match="'no-such-key'"):
        load_password("no-such-key")


def test_a_password_comes_back_from_its_block_and_is_known_to_the_logs_redaction(api: Api) -> None:
    from blocks.repository_key import RepositoryKey, load_password

    RepositoryKey(password="kept-in-a-block-é😀").save("kept", overwrite=True, _sync=True)  # type: ignore[call-arg]
    assert load_password("kept").get_secret_value() == "kept-in-a-block-é😀"
    assert "kept-in-a-block" not in redact_text("the password is kept-in-a-block-é😀")
