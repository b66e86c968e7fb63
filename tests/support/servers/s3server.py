"""What all S3 servers of the tests offer: a client of boto3 for looking behind the provider's back, and buckets."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any

from backupiq.storage.s3_config import S3Config
from tests.support.servers.base import Server

REGION = "us-east-1"


class S3Server(Server):
    """An S3 server with one pair of credentials."""

    access_key = "AKTESTBACKUPIQ"
    secret_key = "SK/test+secret=of-backupiq"

    @cached_property
    def _names(self) -> itertools.count[int]:
        return itertools.count(1)

    @cached_property
    def client(self) -> Any:
        """A boto3 client; not for use before the first start."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which S3's tools, restic and BackupIQ use this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_name(self) -> str:
        """The name of a bucket or prefix that does not exist."""
        return f"bucket-{next(self._names)}"

    def new_bucket(self, **options: Any) -> str:
        """Makes an empty bucket; its name."""
        name = self.new_name()
        self.client.create_bucket(Bucket=name, **options)
        return name

    @cached_property
    def shared_bucket(self) -> str:
        """One bucket for tests that take a prefix of their own (`new_name` gives one): making buckets costs time."""
        return self.new_bucket()

    def destination(self, bucket: str, prefix: str = "") -> str:
        """The bucket as a person writes it for BackupIQ."""
        return f"s3://{bucket}/{prefix}?endpoint={self.url}"

    def config(self, bucket: str, **more: Any) -> S3Config:
        """A destination with this server's credentials."""
        return S3Config(
            bucket,
            **{
                "endpoint": self.url,
                "access_key_id": self.access_key,
                "secret_access_key": self.secret_key,
                **more,
            },
        )

    def keys(self, bucket: str) -> list[str]:
        """Every key in a bucket, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(found["Key"] for page in pages for found in page.get("Contents", []))

    def read(self, bucket: str, key: str) -> bytes:
        """An object's bytes."""
        data: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def unfinished(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys of multipart uploads that were neither completed nor ended."""
        answer = self.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for found in answer.get("Uploads", [])]
