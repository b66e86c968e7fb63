"""A profile as a Prefect block: the same fields as in a file, found by every machine that reaches Prefect's API."""

from __future__ import annotations

from typing import cast

from prefect.blocks.core import Block

from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError, OrchestrationError
from backupiq.profile import Profile, ProfileSettings
from backupiq.profiles import problems_of, protect
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
    """The profile kept in the BackupProfile block of that name; its secrets are hidden in every log from here on.

    MissingConfigurationError when there is none, ConfigurationError when its values do not fit, OrchestrationError when
    Prefect's API does not answer.
    """
    from httpx import HTTPError
    from pydantic import ValidationError

    try:
        profile = cast(BackupProfile, BackupProfile.load(name, _sync=True)).profile(name)  # type: ignore[call-arg]
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
        cause = error if isinstance(error, ValidationError) else error.__cause__
        problems = [str(each) for each in problems_of(cause, Profile)] if isinstance(cause, ValidationError) else []
        # Without its cause: that would show the block's values, which may be secrets, in a traceback.
        raise ConfigurationError(
            f"The profile block {name} cannot be used{': ' if problems else ''}{'; '.join(problems[:1])}. "
            "Correct it in Prefect's UI under Blocks.",
            problems=problems,
        ) from None
    protect(profile)
    return profile


def _unreachable(error: BaseException) -> OrchestrationError:
    return OrchestrationError(
        f"Prefect's API, which keeps the blocks, does not answer ({type(error).__name__}). {OrchestrationError.hint}"
    )
