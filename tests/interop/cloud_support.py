"""One destination of each of the five kinds on real servers, and what stands there by the servers' own account."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
            "local": str(local),
            "s3": self.s3.destination(bucket, PREFIX),
            "gcs": self.gcs.destination(other, PREFIX),
            "azure": self.azure.destination(container, PREFIX),
            "icloud": f"icloud:/{folder}",
        }
        return {
            "local": on_disk(urls["local"], local),
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


def on_disk(url: str, folder: Path) -> Replica:
    def keys() -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    return Replica("local", url, keys, lambda key: (folder / key).read_bytes())


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
