"""What obstore cannot do for S3, with boto3: find credentials, make buckets, end unfinished multipart uploads.

Every function blocks and may be called from any thread; every call is bounded by short timeouts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

from backupiq.errors import (
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageError,
    StoragePermissionError,
    StorageTimeoutError,
)
from backupiq.storage.objecterrors import Signal, from_signal
from backupiq.storage.s3_config import DEFAULT_REGION, S3Config
from backupiq.storage.s3_errors import S3_ERRORS

if TYPE_CHECKING:
    from boto3.session import Session
    from obstore.store import S3Credential

CREDENTIALS_LIVE = timedelta(minutes=5)
"""How long obstore keeps temporary credentials before it asks boto3 again, which renews them in time."""
NO_CREDENTIALS = (
    "No credentials for S3 were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
    "or use a block (--to block:NAME)."
)


def import_boto3() -> ModuleType:
    """The boto3 module; ``MissingConfigurationError`` when it is not installed."""
    try:
        import boto3
    except ImportError:
        raise MissingConfigurationError(
            'This needs boto3, which is not installed. Install it: pip install "backupiq[s3]"', package="boto3"
        ) from None
    return boto3


def session_of(config: S3Config) -> Session:
    """The boto3 session with the destination's credentials; our errors when there are none."""
    new_session: type[Session] = import_boto3().session.Session
    with botocore_errors(f"find the credentials for {config.location}"):
        if config.session is not None:
            session = config.session
        elif config.access_key_id is not None:
            session = new_session(
                aws_access_key_id=config.access_key_id,
                aws_secret_access_key=config.secret_access_key,
                aws_session_token=config.session_token,
                region_name=config.region,
            )
        else:
            session = new_session(profile_name=config.profile, region_name=config.region)
        if session.get_credentials() is None:
            raise StorageAuthenticationError(NO_CREDENTIALS)
    return session


def credential_provider(config: S3Config) -> Callable[[], S3Credential]:
    """What obstore calls for credentials: the key pair itself, or what boto3's session says each time.

    obstore is never left to search on its own: it would mix in the environment's and call the metadata address.
    """
    key, secret, token = config.access_key_id, config.secret_access_key, config.session_token
    if config.session is None and key is not None and secret is not None:
        return lambda: {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}
    credentials = session_of(config).get_credentials()

    def ask() -> S3Credential:
        assert credentials is not None  # noqa: S101 - `session_of` has seen them
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key or "",
            "secret_access_key": frozen.secret_key or "",
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LIVE,
        }

    with botocore_errors(f"find the credentials for {config.location}"):
        ask()
    return ask


def client_of(config: S3Config) -> Any:
    """A boto3 client with timeouts of seconds and few retries."""
    session = session_of(config)
    from botocore.config import Config

    times = config.transfer
    with botocore_errors(f"connect to {config.location}"):
        return session.client(
            "s3",
            region_name=config.region,
            endpoint_url=config.service_url,
            verify=config.ca_bundle,
            config=Config(
                connect_timeout=min(times.connect_seconds, 5.0),
                read_timeout=min(times.read_seconds, 10.0),
                retries={"total_max_attempts": 2, "mode": "standard"},
                s3={"addressing_style": "virtual" if config.in_host else "path"},
                # Other makers' servers do not know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def create_bucket(client: Any, config: S3Config) -> None:
    """Make the bucket, with object lock when the destination asks for it; it may be there already."""
    options: dict[str, Any] = {}
    if config.region != DEFAULT_REGION:
        options["CreateBucketConfiguration"] = {"LocationConstraint": config.region}
    if config.object_lock_mode is not None:
        options["ObjectLockEnabledForBucket"] = True
    try:
        with botocore_errors(f"create the bucket {config.bucket}"):
            client.create_bucket(Bucket=config.bucket, **options)
    except StorageError as error:
        answer = error.details.get("answer")
        if answer == "BucketAlreadyExists":
            raise StoragePermissionError(
                f"The bucket {config.bucket} belongs to somebody else: names of buckets are shared by all. "
                "Choose another name.",
                **error.details,
            ) from None
        if answer != "BucketAlreadyOwnedByYou":
            raise


def abort_uploads(
    client: Any, config: S3Config, prefix: str, *, exact: bool = False, before: datetime | None = None
) -> int:
    """End unfinished multipart uploads whose key begins with the prefix (or is it); their number."""
    count = 0
    with botocore_errors(f"remove unfinished uploads at {config.location}"):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=config.bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                if exact and upload["Key"] != prefix:
                    continue
                if before is not None and upload["Initiated"] >= before:
                    continue
                with contextlib.suppress(client.exceptions.NoSuchUpload):  # its own program was faster
                    client.abort_multipart_upload(Bucket=config.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    count += 1
    return count


@contextlib.contextmanager
def botocore_errors(doing: str) -> Iterator[None]:
    """Turn what boto3 raises inside the block into the storage error it stands for."""
    from botocore import exceptions as raised

    try:
        yield
    except raised.ClientError as error:
        answer = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        code = str(answer.get("Code", "")) or None
        after = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
        signal = Signal("ClientError", meta.get("HTTPStatusCode"), code, str(error).lower())
        details = {"retry_after": float(after)} if after.isascii() and after.isdigit() else {}
        raise from_signal(S3_ERRORS, signal, doing, reason=str(error), **details) from None
    except (raised.ProfileNotFound, raised.ConfigParseError, raised.ConfigNotFound) as error:
        raise MissingConfigurationError(
            f"Cannot {doing}: the AWS profile that is asked for cannot be read. Check AWS_PROFILE and AWS's files.",
            reason=type(error).__name__,
        ) from None
    except (raised.NoCredentialsError, raised.PartialCredentialsError):
        raise StorageAuthenticationError(NO_CREDENTIALS) from None
    except (raised.CredentialRetrievalError, raised.SSOError, raised.TokenRetrievalError, raised.LoginError) as error:
        raise StorageAuthenticationError(
            f"Cannot {doing}: the credentials have expired or cannot be fetched. Sign in again (aws sso login).",
            reason=type(error).__name__,
        ) from None
    except (raised.ConnectTimeoutError, raised.ReadTimeoutError):
        raise StorageTimeoutError(f"Cannot {doing}: no answer in time. {StorageTimeoutError.hint}") from None
    except (raised.HTTPClientError, raised.ConnectionError):
        raise StorageConnectionError(f"Cannot {doing}: it cannot be reached. {StorageConnectionError.hint}") from None
    except raised.BotoCoreError as error:
        raise StorageError(f"Cannot {doing}. {StorageError.hint}", reason=type(error).__name__) from None
