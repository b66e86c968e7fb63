"""What has to be known of an S3 destination, and how it is read from a URL and the environment."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self, cast, get_args
from urllib.parse import urlsplit

from backupiq.errors import ValidationError
from backupiq.storage.names import (
    check_classes,
    check_destination_prefix,
    check_endpoint,
    classes_by_kind,
    flag,
    split_url,
)
from backupiq.storage.objectstore import DEFAULT_TRANSFER, TransferOptions
from backupiq.telemetry import register_secret

if TYPE_CHECKING:
    from boto3.session import Session

Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse", "sse-c"]
LockMode = Literal["GOVERNANCE", "COMPLIANCE"]
Checksum = Literal["SHA256", "CRC64NVME"]

DEFAULT_REGION = "us-east-1"
OPTIONS = (
    "endpoint",
    "region",
    "profile",
    "virtual_hosted",
    "sse",
    "sse_kms_key_id",
    "sse_bucket_key",
    "storage_class",
    "checksum",
    "object_lock",
    "object_lock_days",
)
"""The options of an ``s3:`` URL."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}\Z")
MAX_LOCK_DAYS = 36500


@dataclass(frozen=True, slots=True)
class S3Config:
    """An S3 destination. Credentials: ``session`` (a boto3 session), a key pair, a ``profile``, or boto3's own search.

    ``endpoint``: another server than AWS, ``http:`` or ``https:``; without it the region's own. ``virtual_hosted``: the
    bucket's name in the host (as AWS has it) or in the path; ``None`` chooses. ``storage_class``: by kind of object
    (`names.classes_by_kind`). ``sse_customer_key``: 32 bytes in base64, with ``sse="sse-c"``; who loses it loses the
    repository. ``checksum_algorithm``: one more beside the signed hash that AWS compares anyway, for servers that
    compare only this one (SeaweedFS); not all know it. ``object_lock_days``: how long the bytes of everything but locks
    are kept in the bucket, whoever deletes or replaces the object, in the mode ``object_lock_mode``; the bucket must
    have been made with object lock. ``ca_bundle``: a PEM file of more certificates.
    Raises ``ValidationError`` that names the field and repeats no value.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = DEFAULT_REGION
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    session: Session | None = field(default=None, repr=False, compare=False)
    virtual_hosted: bool | None = None
    sse: Encryption | None = None
    sse_kms_key_id: str | None = None
    sse_bucket_key: bool | None = None
    sse_customer_key: str | None = field(default=None, repr=False)
    storage_class: Mapping[str, str] = field(default_factory=dict)
    checksum_algorithm: Checksum | None = None
    object_lock_mode: LockMode | None = None
    object_lock_days: int | None = None
    ca_bundle: str | None = None
    transfer: TransferOptions = DEFAULT_TRANSFER

    def __post_init__(self) -> None:
        for secret in (self.secret_access_key, self.session_token, self.sse_customer_key):
            if secret:
                register_secret(secret)
        if not _BUCKET.match(self.bucket):
            raise ValidationError("The bucket's name cannot be one: letters, digits, dots and dashes, at least three.")
        object.__setattr__(self, "prefix", check_destination_prefix(self.prefix))
        if self.endpoint is not None:
            object.__setattr__(self, "endpoint", check_endpoint(self.endpoint))
        if not _REGION.match(self.region):
            raise ValidationError("The option region is not the name of a region.")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValidationError("An access key id and a secret access key belong together; one of them is missing.")
        check_classes(self.storage_class)
        self._check_encryption()
        self._check_lock()
        _one_of("checksum", self.checksum_algorithm, get_args(Checksum))

    def _check_encryption(self) -> None:
        _one_of("sse", self.sse, get_args(Encryption))
        kms = self.sse in ("aws:kms", "aws:kms:dsse")
        if (self.sse_kms_key_id or self.sse_bucket_key is not None) and not kms:
            raise ValidationError("The options sse_kms_key_id and sse_bucket_key need sse=aws:kms or aws:kms:dsse.")
        if (self.sse == "sse-c") != (self.sse_customer_key is not None):
            raise ValidationError("sse=sse-c needs a customer key (BACKUPIQ_S3_SSE_CUSTOMER_KEY), and only that does.")
        if self.sse_customer_key is not None:
            try:
                size = len(base64.b64decode(self.sse_customer_key, validate=True))
            except (binascii.Error, ValueError):
                size = 0
            if size != 32:
                raise ValidationError("The customer key for sse-c must be 32 bytes in base64.")

    def _check_lock(self) -> None:
        _one_of("object_lock", self.object_lock_mode, get_args(LockMode))
        if (self.object_lock_mode is None) != (self.object_lock_days is None):
            raise ValidationError("The options object_lock and object_lock_days belong together; one is missing.")
        if self.object_lock_days is not None and not 1 <= self.object_lock_days <= MAX_LOCK_DAYS:
            raise ValidationError(f"The option object_lock_days must be 1 to {MAX_LOCK_DAYS}.")

    @classmethod
    def from_url(cls, url: str, env: Mapping[str, str]) -> Self:
        """Read ``s3://bucket/prefix?option=value`` and the variables that AWS's own tools read (``AWS_...``).

        ``UnknownDestinationError`` or ``ValidationError``; no message repeats a value.
        """
        parts = split_url(url, "s3", OPTIONS)
        given = parts.options
        profile = given.get("profile") or env.get("AWS_PROFILE") or None
        # A profile that was asked for comes before keys that happen to be in the environment, as in AWS's own tools.
        keys = {} if given.get("profile") else env
        sse = given.get("sse")
        days = given.get("object_lock_days")
        if days is not None and not (days.isascii() and days.isdigit() and len(days) < 7):
            raise ValidationError("The option object_lock_days must be a number of days.")
        return cls(
            bucket=parts.container,
            prefix=parts.prefix,
            endpoint=given.get("endpoint") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or None,
            region=given.get("region") or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or DEFAULT_REGION,
            access_key_id=keys.get("AWS_ACCESS_KEY_ID") or None,
            secret_access_key=keys.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=keys.get("AWS_SESSION_TOKEN") or None,
            profile=profile,
            virtual_hosted=flag(given, "virtual_hosted"),
            sse=cast("Encryption | None", sse),
            sse_kms_key_id=given.get("sse_kms_key_id"),
            sse_bucket_key=flag(given, "sse_bucket_key"),
            sse_customer_key=env.get("BACKUPIQ_S3_SSE_CUSTOMER_KEY") if sse == "sse-c" else None,
            storage_class=classes_by_kind(given["storage_class"]) if "storage_class" in given else {},
            checksum_algorithm=cast("Checksum | None", given.get("checksum")),
            object_lock_mode=cast("LockMode | None", given.get("object_lock")),
            object_lock_days=int(days) if days is not None else None,
            ca_bundle=env.get("AWS_CA_BUNDLE") or None,
        )

    @property
    def location(self) -> str:
        """As people write it, without options."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    @property
    def in_host(self) -> bool:
        """Whether the bucket's name stands in the host."""
        if self.virtual_hosted is not None:
            return self.virtual_hosted
        # AWS's certificate covers one label before its own name.
        return self.endpoint is None and "." not in self.bucket

    @property
    def service_url(self) -> str:
        """The address of the service, without the bucket."""
        if self.endpoint is not None:
            return self.endpoint
        suffix = ".cn" if self.region.startswith("cn-") else ""
        return f"https://s3.{self.region}.amazonaws.com{suffix}"

    @property
    def bucket_url(self) -> str:
        """The address that obstore is given: with the bucket in the host where it belongs there."""
        if not self.in_host:
            return self.service_url
        parts = urlsplit(self.service_url)
        return parts._replace(netloc=f"{self.bucket}.{parts.netloc}").geturl()


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise ValidationError(f"The option {option} must be one of: {', '.join(allowed)}.")
