"""S3's rows of the error table."""

from __future__ import annotations

from backupiq.errors import (
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
)
from backupiq.storage.objecterrors import ErrorTable, rule

S3_ERRORS: ErrorTable = (
    rule(
        StorageNotFoundError,
        codes="NoSuchBucket",
        hint="There is no such bucket: check its name and region, or create it with `backupiq init`.",
    ),
    # Ended by a sweep, or finished by a request whose answer was lost: sending it again is the cure for both.
    rule(StorageConnectionError, codes="NoSuchUpload", hint="The upload was interrupted; run the command again."),
    rule(StorageNeedsThawError, codes="InvalidObjectState"),
    rule(
        StorageThrottledError,
        codes="SlowDown SlowDownRead SlowDownWrite Throttling ThrottlingException RequestLimitExceeded ServerBusy "
        "RequestThrottled RequestThrottledException TooManyRequests TooManyRequestsException BandwidthLimitExceeded",
    ),
    rule(
        StorageAuthenticationError,
        codes="ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired",
        hint="The credentials have expired. Renew them.",
    ),
    rule(
        StorageAuthenticationError,
        codes="RequestTimeTooSkewed",
        hint="The clock of this machine is wrong. Set it.",
    ),
    rule(
        StorageAuthenticationError,
        codes="InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidSecurity NotSignedUp InvalidClientTokenId "
        "UnrecognizedClientException AuthFailure",
    ),
    rule(
        StorageError,
        codes="AuthorizationHeaderMalformed PermanentRedirect TemporaryRedirect IllegalLocationConstraintException "
        "IncorrectEndpoint InvalidRegion",
        hint="The bucket lies in another region. Give it (?region=... or AWS_REGION).",
    ),
    rule(
        StorageError,
        texts=("redirect without location",),
        hint="The bucket lies in another region. Give it (?region=... or AWS_REGION).",
    ),
    rule(
        StoragePermissionError,
        codes="AccessDenied AllAccessDisabled AccountProblem InvalidPayer Forbidden AccessDeniedException",
    ),
    rule(
        StorageQuotaError,
        codes="QuotaExceeded BucketQuotaExceeded InsufficientCapacity InsufficientStorage StorageFull "
        "XMinioStorageFull XMinioAdminBucketQuotaExceeded TooManyBuckets EntityQuotaExceeded",
    ),
    rule(
        StorageConflictError,
        codes="PreconditionFailed ConditionalRequestConflict OperationAborted BucketAlreadyExists "
        "BucketAlreadyOwnedByYou",
    ),
    rule(StorageTimeoutError, codes="RequestTimeout"),
    rule(
        StorageConnectionError,
        codes="BadDigest XAmzContentSHA256Mismatch InvalidDigest XAmzContentChecksumMismatch IncompleteBody "
        "InvalidPart",
        hint="The bytes were changed on their way; run the command again.",
    ),
)
