"""Azure Blob Storage's rows of the error table; codes are those of its REST API."""

from __future__ import annotations

from backupiq.errors import (
    StorageAuthenticationError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnsupportedError,
)
from backupiq.storage.objecterrors import ErrorTable, rule

CHECK_CREDENTIALS = (
    "Check the account key and this machine's clock; a SAS token may have expired (see its se=...): make a new one."
)

AZURE_ERRORS: ErrorTable = (
    # obstore calls every 409 "already exists", so what is none stands first.
    rule(
        StorageNeedsThawError,
        codes="BlobArchived BlobBeingRehydrated",
        hint="It lies in the Archive tier. Set its tier to Hot or Cool, which takes hours, then run the command again.",
    ),
    rule(
        StorageConnectionError,
        codes="ContainerBeingDeleted AccountBeingCreated",
        hint="Azure is still deleting or making it. Run the command again in a minute.",
    ),
    rule(
        StoragePermissionError,
        codes="BlobImmutableDueToPolicy BlobImmutableDueToLegalHold ContainerImmutableDueToPolicy",
        hint="An immutability policy or a legal hold still protects the blob.",
    ),
    rule(
        StoragePermissionError,
        codes="LeaseIdMissing LeaseIdMismatchWithBlobOperation LeaseIdMismatchWithContainerOperation",
        hint="Another program holds a lease on it. End the lease, then run the command again.",
    ),
    rule(StorageError, codes="InvalidBlobType SnapshotsPresent", hint="Another program made this blob; remove it."),
    rule(
        StorageNotFoundError,
        codes="ContainerNotFound ContainerDisabled",
        hint="There is no such container: check its name, or create it with `backupiq init`.",
    ),
    rule(
        StorageNotFoundError,
        texts=("the specified container does not exist",),
        hint="There is no such container: check its name, or create it with `backupiq init`.",
    ),
    rule(StorageThrottledError, codes="ServerBusy TooManyRequests"),
    rule(StorageTimeoutError, codes="OperationTimedOut"),
    rule(StorageConnectionError, codes="InternalError"),
    rule(StorageQuotaError, codes="AccountStorageLimitExceeded QuotaExceeded InsufficientStorage"),
    rule(StorageCorruptError, texts=("wanted range starting at",)),  # a range that begins beyond the end
    # What fetching a token raised comes as text; no network there is no wrong password.
    rule(
        StorageConnectionError,
        raised="UnauthenticatedError",
        texts=(
            "servicerequesterror",
            "serviceresponseerror",
            "failed to establish a new connection",
            "failed to resolve",
            "connection aborted",
            "connection reset",
            "timed out",
        ),
        hint="Microsoft's sign-in server cannot be reached. Check the network and run the command again.",
    ),
    rule(
        StorageAuthenticationError,
        raised="UnauthenticatedError",
        texts=("credential provider",),
        hint="Microsoft's sign-in gives no token. Check tenant id, client id and client secret, or sign in again "
        "(az login).",
    ),
    rule(
        StorageAuthenticationError,
        codes="AuthenticationFailed InvalidAuthenticationInfo NoAuthenticationInformation",
        hint=CHECK_CREDENTIALS,
    ),
    rule(
        StorageAuthenticationError,
        texts=("server failed to authenticate the request", "signature not valid in the specified time frame"),
        hint=CHECK_CREDENTIALS,
    ),
    rule(
        StoragePermissionError,
        codes="AuthorizationFailure AuthorizationSourceIPMismatch IpAuthorizationError",
        hint="The account's firewall may keep this machine out, or the credentials do not cover the container.",
    ),
    rule(
        StoragePermissionError,
        codes="KeyBasedAuthenticationNotPermitted",
        hint="The account takes no keys. Use a service principal, or ?auth=default.",
    ),
    rule(
        StoragePermissionError,
        codes="AuthorizationPermissionMismatch AuthorizationProtocolMismatch AuthorizationResourceTypeMismatch "
        "AuthorizationServiceMismatch InsufficientAccountPermissions AccountIsDisabled PublicAccessNotPermitted "
        "ResourceTypeMismatch",
        hint="Grant read, write, delete, list, add and create on the container (a SAS token with racwdl; the role "
        "Storage Blob Data Contributor).",
    ),
    rule(
        StorageUnsupportedError,
        codes="InvalidHeaderValue InvalidBlobTier AccessTierNotSupportedForBlobType FeatureNotSupportedForAccount "
        "BlobTierInadequateForContentLength",
        hint="The account does not take this; check storage_class.",
    ),
    # A part that another writer of the same blob replaced, or that expired: sending it again is the cure.
    rule(
        StorageConnectionError,
        codes="InvalidBlockList InvalidBlobOrBlock Md5Mismatch Crc64Mismatch",
        hint="The upload was interrupted; run the command again.",
    ),
)
