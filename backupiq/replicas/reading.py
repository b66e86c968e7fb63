"""Several replicas read as one destination: the healthiest answers, and the next one when it fails or is wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from backupiq.errors import (
    RepositoryDamagedError,
    StorageConflictError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StorageUnsupportedError,
)
from backupiq.replicas.health import ReplicaHealth
from backupiq.repository.repository import FileType
from backupiq.storage.provider import (
    Capabilities,
    DownloadResult,
    FileInfo,
    Progress,
    StorageInfo,
    StorageProvider,
    UploadResult,
    check_key,
    check_range,
)
from backupiq.telemetry import get_logger

MOST_NOTES = 20
_LOCKS = f"{FileType.LOCK}/"

_log = get_logger("backupiq.replicas.reading")
T = TypeVar("T")


class ReplicatedProvider(StorageProvider):
    """Replicas of one repository as a destination to read from.

    Invariants: a call fails only when no replica has the answer; what `read_verified` returns was accepted by its
    check; a listing is the union of those that answer. The only writes are locks: each goes to the first replica that
    takes it, and is removed wherever it stands. ``note`` is told, in a line for a person, once when a replica stops
    answering and once for an object that a replica holds wrong (the first 20 lines; all are logged). ``down`` names
    replicas that are known not to answer now. Belongs to one event loop; `close` closes all of them.
    """

    kind: ClassVar[str] = "replicas"

    def __init__(
        self,
        replicas: Mapping[str, StorageProvider],
        *,
        note: Callable[[str], None] | None = None,
        down: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.replicas = dict(replicas)
        self._note = note or (lambda _: None)
        self._notes = 0
        self._health = ReplicaHealth(self.replicas, clock=clock)
        for name in down:
            self._health.failed(name)
        self._own_locks: dict[str, str] = {}
        self._left_out: list[StorageProvider] = []

    @property
    def location(self) -> str:
        return ", ".join(self.replicas)

    def leave_out(self, name: str) -> None:
        """Ask this replica nothing any more; it is closed with the others."""
        self._left_out.append(self.replicas.pop(name))
        self._health = self._health.without(name)

    def known_wrong(self, name: str, key: str) -> bool:
        """Take note that a replica holds an object wrong, or not at all; whether that is news."""
        return self._health.wrong(name, key)

    @property
    def capabilities(self) -> Capabilities:
        every = [provider.capabilities for provider in self.replicas.values()]
        return Capabilities(
            ranged_reads=all(each.ranged_reads for each in every),
            create_only=all(each.create_only for each in every),
            atomic_writes=all(each.atomic_writes for each in every),
            directories=False,
        )

    async def close(self) -> None:
        for provider in (*self.replicas.values(), *self._left_out):
            await provider.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def authenticate(self) -> StorageInfo:
        return await self._first_answer("", lambda provider: provider.authenticate())

    async def check_space(self) -> StorageInfo:
        return await self._first_answer("", lambda provider: provider.check_space())

    async def get_file_info(self, key: str) -> FileInfo:
        return await self._first_answer(check_key(key), lambda provider: provider.get_file_info(key))

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        return await self._first_answer(check_key(key), lambda provider: provider.read(key, offset, length))

    async def read_verified(
        self, key: str, check: Callable[[bytes], Awaitable[T]], offset: int = 0, length: int | None = None
    ) -> T:
        """What ``check`` makes of the bytes of the first replica whose bytes it accepts.

        It refuses them with RepositoryDamagedError, which is raised when it refuses those of every replica.
        """
        check_range(offset, length)

        async def work(provider: StorageProvider) -> T:
            return await check(await provider.read(key, offset, length))

        return await self._first_answer(check_key(key), work)

    async def download_file(self, key: str, target: Path, *, progress: Progress | None = None) -> DownloadResult:
        return await self._first_answer(
            check_key(key), lambda provider: provider.download_file(key, target, progress=progress)
        )

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        found: dict[str, FileInfo] = {}
        answered = 0
        failures: list[Exception] = []
        for name in self._health.order():
            if answered and not self._health.answers(name):
                continue  # asking it again would only take time
            try:
                async for info in self.replicas[name].list_files(prefix):
                    known = found.get(info.key)
                    if known is None or known.size < info.size:
                        found[info.key] = info
                answered += 1
                self._health.succeeded(name)
            except StorageError as error:
                self._replica_failed(name, error)
                failures.append(error)
        if not answered:
            raise _worst(failures)
        for key, name in self._own_locks.items():
            # A lock of ours at a replica that does not answer any more has not been removed by others.
            if key.startswith(prefix) and key not in found and not self._health.answers(name):
                found[key] = FileInfo(key, 1, None)
        for info in found.values():
            yield info

    async def _first_answer(self, key: str, work: Callable[[StorageProvider], Awaitable[T]]) -> T:
        failures: list[Exception] = []
        wrong: list[str] = []
        for name in self._health.order(key):
            try:
                answer = await work(self.replicas[name])
            except (RepositoryDamagedError, StorageCorruptError) as error:
                failures.append(error)
                if self._health.wrong(name, key):
                    wrong.append(name)
            except (StorageNotFoundError, StorageNeedsThawError) as error:
                failures.append(error)
                if key and not key.startswith(_LOCKS):
                    self._health.wrong(name, key)
            except StorageError as error:
                failures.append(error)
                self._replica_failed(name, error)
            else:
                self._health.succeeded(name)
                for other in wrong:
                    _log.info("replica.answered_wrongly", replica=other, object=key, read_from=name)
                    self._say(f"{key} is damaged at {other}; it was read from {name}. Run `backupiq heal`.")
                return answer
        raise _worst(failures)

    def _replica_failed(self, name: str, error: StorageError) -> None:
        if self._health.failed(name) and len(self.replicas) > 1:
            _log.info("replica.failed", replica=name, error=error.code, reason=error.message)
            self._say(f"{error.message} The next replica is used.")

    def _say(self, text: str) -> None:
        self._notes += 1
        if self._notes <= MOST_NOTES:
            self._note(text)
        elif self._notes == MOST_NOTES + 1:
            self._note("More of the same is only in the log. Run `backupiq heal` when all replicas answer.")

    # --- locks, the only writes ---------------------------------------------------------------------------------------

    async def upload_file(
        self,
        source: Path | bytes | memoryview,
        key: str,
        *,
        create_only: bool = False,
        durable: bool = True,
        move: bool = False,
        sha256: str | None = None,
        progress: Progress | None = None,
    ) -> UploadResult:
        self._refuse_but_locks(check_key(key), "stored")
        failures: list[Exception] = []
        for name in self._health.order():
            try:
                done = await self.replicas[name].upload_file(
                    source, key, create_only=create_only, durable=durable, sha256=sha256, progress=progress
                )
            except StorageConflictError:
                raise
            except StorageError as error:
                failures.append(error)
                if error.retryable:
                    self._replica_failed(name, error)
            else:
                self._own_locks[key] = name
                return done
        raise _worst(failures)

    async def delete_file(self, key: str) -> None:
        self._refuse_but_locks(check_key(key), "deleted")
        holder = self._own_locks.pop(key, None)
        removed = False
        failures: list[Exception] = []
        for name in [holder] if holder is not None else self._health.order():
            try:
                await self.replicas[name].delete_file(key)
                removed = True
            except StorageNotFoundError as error:
                failures.append(error)
            except StorageError as error:
                if holder is None:
                    failures.append(error)
                    continue
                # What was read is right all the same, and the lock goes stale by itself.
                self._replica_failed(name, error)
                self._say(f"The lock at {name} could not be removed; it is void after 30 minutes.")
                return
        if not removed:
            raise _worst(failures)

    def _refuse_but_locks(self, key: str, what: str) -> None:
        if not key.startswith(_LOCKS):
            raise StorageUnsupportedError(
                f"Nothing is {what} through several replicas at once. Name the one to change.", key=key
            )

    async def create(self) -> None:
        raise StorageUnsupportedError("Several replicas cannot be made at once. Name the one to make.")


def _worst(failures: list[Exception]) -> Exception:
    """What says most: damage, then a replica that does not answer, then that the object is not there."""
    damage = [error for error in failures if isinstance(error, RepositoryDamagedError | StorageCorruptError)]
    others = [error for error in failures if not isinstance(error, StorageNotFoundError)]
    return next(iter(damage or others or failures))
