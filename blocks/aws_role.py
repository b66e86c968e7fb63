"""Taking on an IAM role for longer than its credentials live.

The block of credentials itself takes the role on once, when it is asked for a session: an hour later a long backup
would stand there with expired credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from backupiq.errors import ConfigurationError

if TYPE_CHECKING:
    from boto3.session import Session
    from prefect_aws.credentials import AwsCredentials

SESSION_NAME = "backupiq"


def role_session(credentials: AwsCredentials) -> Session:
    """A boto3 session in the role of these credentials, which it takes on when first used and again in good time.

    ConfigurationError when the role needs a code from a device, since that cannot be renewed unattended.
    """
    import boto3
    import botocore.session
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        CredentialProvider,
        CredentialResolver,
        DeferredRefreshableCredentials,
    )

    wanted: dict[str, Any] = {"RoleSessionName": SESSION_NAME}
    wanted |= credentials.assume_role_kwargs.get_params_override()
    if "SerialNumber" in wanted:
        _refuse_devices()
    own = credentials.model_copy(update={"assume_role_arn": None}).get_boto3_session()
    source = own.get_credentials()
    if source is None:
        raise ConfigurationError(
            "The block of AWS credentials names a role, and nothing that may take it on. Give it a key or a profile."
        )
    fetcher = AssumeRoleCredentialFetcher(
        own.client, source, credentials.assume_role_arn or "", extra_args=wanted, mfa_prompter=_refuse_devices
    )

    class Role(CredentialProvider):
        METHOD = "assume-role"

        def load(self) -> DeferredRefreshableCredentials:
            return DeferredRefreshableCredentials(fetcher.fetch_credentials, self.METHOD)

    session = botocore.session.get_session()
    session.register_component("credential_provider", CredentialResolver([Role()]))
    return boto3.session.Session(botocore_session=session, region_name=credentials.region_name)


def _refuse_devices(*_: object) -> NoReturn:
    raise ConfigurationError(
        "The role of the AWS credentials needs a code from a device (SerialNumber), which a backup cannot renew. "
        "Let the role be taken on without it."
    )
