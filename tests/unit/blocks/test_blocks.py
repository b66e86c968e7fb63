"""Destinations and the repository key as Prefect blocks; what the API keeps is tested with the flows."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupiq.errors import UnknownDestinationError
from backupiq.storage.local import LocalProvider
from blocks.destinations import provider_for
from blocks.local_destination import LocalDestination
from blocks.repository_key import RepositoryKey


def test_a_local_destination_gives_its_provider_and_touches_nothing(tmp_path: Path) -> None:
    provider = LocalDestination(path=tmp_path / "vault").provider()
    assert isinstance(provider, LocalProvider)
    assert provider.root == tmp_path / "vault"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_its_own_provider(tmp_path: Path) -> None:
    provider = provider_for(str(tmp_path / "vault"))
    assert isinstance(provider, LocalProvider)
    assert provider.root == tmp_path / "vault"


def test_a_scheme_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownDestinationError):
        provider_for("gopher://somewhere/else")


def test_the_key_never_shows_its_password() -> None:
    key = RepositoryKey(password="open sesame")
    assert "sesame" not in f"{key} {key!r} {key.model_dump()} {key.model_dump_json()}"
    assert key.password.get_secret_value() == "open sesame"


def test_the_blocks_are_named_for_people_and_programs() -> None:
    assert LocalDestination.get_block_type_slug() == "backupiq-local-destination"
    assert RepositoryKey.get_block_type_slug() == "backupiq-repository-key"
    for block in (LocalDestination, RepositoryKey):
        assert block.get_description()
