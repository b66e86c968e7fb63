"""One destination of each of the five kinds on real servers, and what stands there by the servers' own account."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.programs import ROOT, run_program
from tests.support.servers.azurite import Azurite
from tests.support.servers.gcs import GcsServer
from tests.support.servers.icloud import ICloudServer
from tests.support.servers.seaweedfs import SeaweedFS

PREFIX = "machines/one"
KINDS = ("local", "s3", "gcs", "azure", "icloud")
CLOUDS = KINDS[1:]


@dataclass(frozen=True)
class Replica:
    """One destination: as a person writes it, and all it holds, read behind BackupIQ's back.

    ``keys`` gives the objects' keys below the destination, and ``read`` the bytes of one.
    """

    kind: str
    url: str
    keys: Callable[[], list[str]]
    read: Callable[[str], bytes]

    def hashes(self) -> dict[str, str]:
        """Every object but the locks, with the SHA-256 of its bytes."""
        kept = [key for key in self.keys() if not key.startswith("locks/")]
        return {key: hashlib.sha256(self.read(key)).hexdigest() for key in kept}

    def locks(self) -> list[str]:
        """The locks that nobody has taken away."""
        return [key for key in self.keys() if key.startswith("locks/")]

    def mirror(self, folder: Path) -> Path:
        """Copies every object to a folder, as a file of its key."""
        for key in self.keys():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(key))
        return folder


@dataclass(frozen=True)
class Clouds:
    """The servers of the four clouds. ``sessions`` keeps the trusted session of iCloud."""

    s3: SeaweedFS
    gcs: GcsServer
    azure: Azurite
    icloud: ICloudServer
    sessions: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a program uses all of them."""
        icloud = self.icloud.environment(self.sessions)
        return self.s3.environment | self.gcs.environment | self.azure.environment | icloud

    def replicas(self, local: Path) -> dict[str, Replica]:
        """Five new, empty destinations by kind; that of iCloud is a folder that is not there yet."""
        bucket, other, container = self.s3.new_bucket(), self.gcs.new_bucket(), self.azure.new_container()
        folder = f"Backups/{bucket}"
        urls = {
            "s3": self.s3.destination(bucket, PREFIX),
            "gcs": self.gcs.destination(other, PREFIX),
            "azure": self.azure.destination(container, PREFIX),
            "icloud": f"icloud:/{folder}",
        }
        return {
            "local": on_disk(local),
            "s3": _in_bucket("s3", urls["s3"], self.s3, bucket),
            "gcs": _in_bucket("gcs", urls["gcs"], self.gcs, other),
            "azure": _in_bucket("azure", urls["azure"], self.azure, container),
            "icloud": Replica(
                "icloud",
                urls["icloud"],
                lambda: sorted(self.icloud.files(folder)),
                lambda key: self.icloud.files(folder)[key].read_bytes(),
            ),
        }

    def restic_repository(self, replica: Replica) -> str:
        """The S3 destination as restic writes it."""
        return f"s3:{self.s3.url}/{replica.url.removeprefix('s3://').partition('?')[0]}"


def on_disk(folder: Path) -> Replica:
    """A destination that is a folder."""

    def keys() -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    return Replica("local", str(folder), keys, lambda key: (folder / key).read_bytes())


def _in_bucket(kind: str, url: str, server: SeaweedFS | GcsServer | Azurite, bucket: str) -> Replica:
    def keys() -> list[str]:
        found = server.keys(bucket)
        assert all(key.startswith(f"{PREFIX}/") for key in found), found
        return [key.removeprefix(f"{PREFIX}/") for key in found]

    return Replica(kind, url, keys, lambda key: server.read(bucket, f"{PREFIX}/{key}"))


@contextlib.contextmanager
def running_clouds(folder: Path) -> Iterator[Clouds]:
    """Starts the four servers at once, with a session of iCloud that is trusted."""
    with contextlib.ExitStack() as stack:
        s3, gcs, azure = SeaweedFS(folder / "s3"), GcsServer(folder / "gcs"), Azurite(folder / "azure")
        for server in (s3, gcs, azure):
            stack.callback(server.stop)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda server: server.start(), (s3, gcs, azure)))
        icloud = stack.enter_context(ICloudServer(folder / "icloud"))
        icloud.trust(folder / "sessions")
        yield Clouds(s3, gcs, azure, icloud, folder / "sessions")


def to_each(replicas: Mapping[str, Replica], option: str = "--to") -> list[str]:
    """The destinations as arguments of a command."""
    return [word for replica in replicas.values() for word in (option, replica.url)]


def assert_identical(replicas: Mapping[str, Replica]) -> dict[str, str]:
    """All hold the same keys with the same bytes, complete, and no lock is left; what they hold."""
    held = {kind: replica.hashes() for kind, replica in replicas.items()}
    first, *others = held
    for kind in others:
        assert held[kind].keys() == held[first].keys(), f"{kind} and {first} hold other objects"
        assert held[kind] == held[first], f"{kind} and {first} hold other bytes"
    assert {kind: replica.locks() for kind, replica in replicas.items()} == {kind: [] for kind in replicas}
    for key, digest in held[first].items():
        name = key.rpartition("/")[2]
        assert len(name) != 64 or name == digest, f"{key} holds other bytes than its name says"
    assert {key.partition("/")[0] for key in held[first]} == {"config", "data", "index", "keys", "snapshots"}
    return held[first]


# --- blocks --------------------------------------------------------------------------------------------------------

_SAVE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.interop import cloud_support as c; c._save_blocks()"


def save_blocks(clouds: Clouds, replicas: Mapping[str, Replica], password: str, env: Mapping[str, str]) -> list[str]:
    """Keeps the four clouds with their credentials, and the repository's password, as blocks in the Prefect API of
    ``env``; the destinations that name them. The block of the password is named like the others: ``five``.
    """
    told = {
        "password": password,
        "aws": {"aws_access_key_id": clouds.s3.access_key, "aws_secret_access_key": clouds.s3.secret_key},
        "google": json.loads(clouds.gcs.service_account),
        "azure": clouds.azure.connection_string,
        "apple": {"apple_id": clouds.icloud.apple_id, "password": clouds.icloud.password},
        "endpoints": {"s3": clouds.s3.url, "gcs": clouds.gcs.url},
        "places": {kind: replicas[kind].url.partition(":")[2].partition("?")[0].strip("/") for kind in CLOUDS},
    }
    run_program([sys.executable, "-c", _SAVE], env=env, stdin=json.dumps(told))
    return [f"block:{kind}/five" for kind in CLOUDS]


def _save_blocks() -> None:
    """The other end of `save_blocks`, in a process of its own: Prefect's settings are those of the process."""
    from prefect_aws import AwsCredentials
    from prefect_azure import AzureBlobStorageCredentials
    from prefect_gcp import GcpCredentials  # type: ignore[import-untyped]

    from blocks.azure_destination import AzureDestination
    from blocks.gcs_destination import GcsDestination
    from blocks.icloud_destination import ICloudDestination
    from blocks.repository_key import RepositoryKey
    from blocks.s3_destination import S3Destination

    told = json.load(sys.stdin)

    def saved(block: Any, name: str = "five") -> Any:
        block.save(name, overwrite=True, _sync=True)
        return block

    def place(kind: str) -> dict[str, str]:
        name, _, prefix = told["places"][kind].partition("/")
        return {"container" if kind == "azure" else "bucket": name, "prefix": prefix}

    aws, google = saved(AwsCredentials(**told["aws"])), saved(GcpCredentials(service_account_info=told["google"]))
    azure = saved(AzureBlobStorageCredentials(connection_string=told["azure"]))
    saved(S3Destination(credentials=aws, endpoint=told["endpoints"]["s3"], **place("s3")))
    saved(GcsDestination(credentials=google, endpoint=told["endpoints"]["gcs"], **place("gcs")))
    saved(AzureDestination(credentials=azure, **place("azure")))
    saved(ICloudDestination(folder=told["places"]["icloud"], **told["apple"]))
    saved(RepositoryKey(password=told["password"]))
