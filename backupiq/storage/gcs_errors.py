"""Google Cloud Storage's rows of the error table; codes are those of its XML API."""

from __future__ import annotations

from backupiq.errors import (
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
)
from backupiq.storage.objecterrors import ErrorTable, rule

_SIGN_IN = "Sign in again with `gcloud auth application-default login`, or renew the service account's key."

GCS_ERRORS: ErrorTable = (
    rule(
        StorageNotFoundError,
        codes="NoSuchBucket",
        hint="There is no such bucket: check its name, or create it with `backupiq init`.",
    ),
    # Ended by a sweep, or finished by a request whose answer was lost: sending it again is the cure for both.
    rule(StorageConnectionError, codes="NoSuchUpload", hint="The upload was interrupted; run the command again."),
    rule(
        StorageThrottledError,
        codes="SlowDown TooManyRequests RateLimitExceeded rateLimitExceeded userRateLimitExceeded",
    ),
    # What fetching a token raised comes as text; no network there is no wrong password.
    rule(
        StorageConnectionError,
        raised="UnauthenticatedError",
        texts=("transporterror", "timeouterror", "retryable=true", "'retryable': true"),
        hint="Google's token server cannot be reached. Check the network and run the command again.",
    ),
    rule(StorageAuthenticationError, raised="UnauthenticatedError", texts=("credential provider",), hint=_SIGN_IN),
    rule(
        StorageAuthenticationError,
        codes="ExpiredToken InvalidAuthentication AuthenticationRequired authError InvalidSecurity "
        "SignatureDoesNotMatch InvalidAccessKeyId",
        hint=_SIGN_IN,
    ),
    rule(
        StorageAuthenticationError,
        codes="RequestTimeTooSkewed",
        hint="The clock of this machine is wrong. Set it.",
    ),
    rule(
        StoragePermissionError,
        codes="UserProjectAccountProblem AccountProblem BillingDisabled accountDisabled",
        hint="The project's billing is off. Turn it on in the Google Cloud console.",
    ),
    rule(
        StoragePermissionError,
        codes="RetentionPolicyNotMet ObjectUnderActiveHold ObjectRetentionNotMet",
        hint="A retention policy or a hold of the bucket still protects the object.",
    ),
    rule(
        StoragePermissionError,
        codes="AccessDenied Forbidden forbidden insufficientPermissions",
        hint="Grant the account the role Storage Object Admin (roles/storage.objectAdmin) on the bucket.",
    ),
    rule(StorageQuotaError, codes="QuotaExceeded quotaExceeded InsufficientQuota"),
    rule(
        StorageConflictError,
        codes="PreconditionFailed conditionNotMet OperationAborted ConditionalRequestConflict",
    ),
    rule(StorageTimeoutError, codes="RequestTimeout"),
    rule(
        StorageError,
        codes="InvalidStorageClass InvalidBucketStorageClass",
        hint="Check storage_class: the bucket does not take that class.",
    ),
    rule(
        StorageConnectionError,
        codes="BadDigest IncompleteBody InvalidPart",
        hint="The bytes were changed on their way; run the command again.",
    ),
)
