"""A profile as a Prefect block: the same fields as in a file, found by every machine that reaches Prefect's API."""

from __future__ import annotations

from typing import cast

from prefect.blocks.core import Block
from pydantic import ValidationError

from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError, OrchestrationError
from backupiq.profile import Profile, ProfileSettings
from blocks.logos import LOCAL_LOGO


class BackupProfile(Block, ProfileSettings):
    """What to back up, where to, how, when, and what runs around it.

    URLs of webhooks are kept as secrets. Commands are not: let a program read its password from a file of its own.
    """

    _block_type_name = "BackupIQ Profile"
    _block_type_slug = "backupiq-profile"
    _description = "A backup with a name: what is backed up, where to, how, when, and what runs before and after it."
    _logo_url = LOCAL_LOGO

    def profile(self, name: str) -> Profile:
        """The profile of that name. pydantic's ValidationError when the name is none."""
        return Profile(name=name, backup=self.backup, key=self.key, schedule=self.schedule, hooks=self.hooks)


def load_profile_block(name: str) -> Profile:
    """The profile kept in the BackupProfile block of that name.

    MissingConfigurationError when there is none, OrchestrationError when Prefect's API does not answer, pydantic's
    ValidationError, which holds values, when they do not fit. `backupiq.profiles.load_profile` makes the last one safe.
    """
    from httpx import HTTPError

    try:
        return cast(BackupProfile, BackupProfile.load(name, _sync=True)).profile(name)  # type: ignore[call-arg]
    except BackupIQError:
        raise
    except (HTTPError, OSError) as error:
        raise _unreachable(error) from error
    except (ValueError, RuntimeError) as error:
        if "Unable to find block document" in str(error):
            raise MissingConfigurationError(
                f"There is no profile block named {name!r}. Create it in Prefect's UI under Blocks "
                "(`backupiq setup` makes the type known there)."
            ) from None
        if isinstance(error.__cause__, ValidationError):
            raise error.__cause__ from None
        if isinstance(error, ValidationError):
            raise
        # Without its cause: that may show the block's values in a traceback.
        raise ConfigurationError(
            f"The profile block {name} cannot be loaded ({type(error).__name__}). Save it again in Prefect's UI."
        ) from None


def _unreachable(error: BaseException) -> OrchestrationError:
    return OrchestrationError(
        f"Prefect's API, which keeps the blocks, does not answer ({type(error).__name__}). {OrchestrationError.hint}"
    )
