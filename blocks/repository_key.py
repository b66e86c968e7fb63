"""The repository's password as a Prefect block."""

from __future__ import annotations

from typing import cast

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from backupiq.errors import MissingConfigurationError
from backupiq.telemetry import register_secret
from blocks.logos import KEY_LOGO


class RepositoryKey(Block):
    """The password that opens a repository's keys.

    Prefect encrypts it in its database; whoever reaches the API may read it, so keep the API on this machine or behind
    a password.
    """

    _block_type_name = "BackupIQ Repository Key"
    _block_type_slug = "backupiq-repository-key"
    _description = "The password of a BackupIQ repository. Without it nothing can be restored: keep a copy elsewhere."
    _logo_url = KEY_LOGO

    password: SecretStr = Field(description="The repository's password.")

    @property
    def name(self) -> str | None:
        """The name it is kept under; None when it was never saved."""
        return self._block_document_name


def load_password(name: str) -> SecretStr:
    """The password kept in the block of that name; MissingConfigurationError when there is none."""
    try:
        block = cast(RepositoryKey, RepositoryKey.load(name, _sync=True))  # type: ignore[call-arg]
    except ValueError as error:
        raise MissingConfigurationError(
            f"There is no RepositoryKey block named {name!r}. Create it in Prefect's UI under Blocks."
        ) from error
    register_secret(block.password.get_secret_value())
    return block.password
