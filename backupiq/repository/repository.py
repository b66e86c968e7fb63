"""A repository at one destination: its keys, its config, its index and its small files.

Layout and order of writes: repository format, sections 1, 3, 4, 5 and 13. Every file but ``config`` is named by the
SHA-256 of its stored bytes, and every file that is read here is checked against its name before it is used.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from backupiq.errors import (
    BackupIQError,
    CryptoError,
    IndexDamagedError,
    KeyFileError,
    KeyInUseError,
    PackError,
    RepositoryDamagedError,
    RepositoryExistsError,
    RepositoryMissingError,
    SnapshotDamagedError,
    StorageConflictError,
    StorageCorruptError,
    StorageNotFoundError,
    ValidationError,
    WrongPasswordError,
)
from backupiq.repository.config import RepositoryConfig, decode_config, encode_config
from backupiq.repository.copies import Copies, read_verified
from backupiq.repository.crypto import MasterKey
from backupiq.repository.envelope import decode_unpacked, encode_unpacked
from backupiq.repository.index import MasterIndex, decode_index
from backupiq.repository.keyfile import KdfParams, KeyFile, create_key_file, open_key_file, parse_key_file
from backupiq.repository.pack import LENGTH_FIELD_SIZE, PackBlob, damaged_pack, decode_header, sealed_header_length
from backupiq.repository.snapshot import Snapshot, decode_snapshot, resolve_snapshot
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger

CONFIG_KEY = "config"
MAX_KEYS_TRIED = 20
PARALLEL_LOADS = 8

_NAME = re.compile(r"[0-9a-f]{64}")
_HEADER_GUESS = 64 << 10  # holds the header of most packs, so that one read is enough
_THREAD_FROM = 64 << 10  # below this many bytes a hop to a thread costs more than the work
_log = get_logger("backupiq.repository.repository")

Item = TypeVar("Item")
Result = TypeVar("Result")


class FileType(enum.StrEnum):
    """The kinds of files a repository holds; the value is the name of the folder (or of the one file)."""

    KEY = "keys"
    SNAPSHOT = "snapshots"
    INDEX = "index"
    LOCK = "locks"
    PACK = "data"
    CONFIG = "config"


_DAMAGED: Final[dict[FileType, type[RepositoryDamagedError]]] = {
    FileType.KEY: KeyFileError,
    FileType.SNAPSHOT: SnapshotDamagedError,
    FileType.INDEX: IndexDamagedError,
    FileType.PACK: PackError,
}


def pack_key(pack_hex: str) -> str:
    """The storage key of a pack: ``data/xx/<id>``."""
    return f"data/{pack_hex[:2]}/{pack_hex}"


def file_key(kind: FileType, id_hex: str) -> str:
    """The storage key of any file of the repository."""
    if kind is FileType.CONFIG:
        return CONFIG_KEY
    if not _NAME.fullmatch(id_hex):
        raise ValidationError("The name of a file in a repository must be 64 hex digits.", name=id_hex[:80])
    return pack_key(id_hex) if kind is FileType.PACK else f"{kind}/{id_hex}"


async def in_parallel(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], limit: int = PARALLEL_LOADS
) -> list[Result]:
    """Results of ``work`` on every item, in order, at most ``limit`` at a time; the first error ends all of them."""
    results: dict[int, Result] = {}
    queue = enumerate(items)

    async def worker() -> None:
        for position, item in queue:
            results[position] = await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(limit)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[position] for position in sorted(results)]


class Repository:
    """An open repository.

    ``key_id`` is the hex name of the key file whose password opened it. ``index`` is empty until ``load_index``.
    Coroutines of one repository may run side by side in one event loop; CPU-heavy steps run in threads.
    """

    def __init__(self, provider: StorageProvider, master: MasterKey, config: RepositoryConfig, key_id: str) -> None:
        self.provider = provider
        self.master = master
        self.config = config
        self.key_id = key_id
        self.index = MasterIndex()
        self._loaded_indexes: set[str] = set()
        self._snapshots: dict[str, Snapshot] = {}

    # --- making and opening one -------------------------------------------------------------------------------------

    @classmethod
    async def init(
        cls,
        provider: StorageProvider,
        password: str,
        *,
        hostname: str,
        username: str,
        now_ns: int,
        params: KdfParams | None = None,
    ) -> Repository:
        """Create an empty repository at a destination, which is made when it is missing.

        The key is stored before the config, and the config only if there is none: of two programs that do this at the
        same time one gets the repository, the other removes its key and raises RepositoryExistsError. Keys that
        interrupted attempts left are removed, since restic would try them. ``now_ns``: nanoseconds since 1970 (UTC).
        """
        await provider.create()
        await _refuse_if_occupied(provider)
        leftovers = await _list_ids(provider, FileType.KEY)
        master, config = MasterKey.generate(), RepositoryConfig.new()
        repository = cls(provider, master, config, "")
        if provider.capabilities.directories:
            for kind in (FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.LOCK, FileType.PACK):
                await provider.create_directory(kind)
        repository.key_id = await repository.add_key(
            password, hostname=hostname, username=username, created_ns=now_ns, params=params
        )
        try:
            await provider.upload_file(master.seal(encode_config(config)), CONFIG_KEY, create_only=True)
        except StorageConflictError:
            await _delete_if_there(provider, file_key(FileType.KEY, repository.key_id))
            raise RepositoryExistsError(location=provider.location) from None
        for key_id in leftovers:
            await _delete_if_there(provider, file_key(FileType.KEY, key_id))
        return repository

    @classmethod
    async def open(cls, provider: StorageProvider, password: str) -> Repository:
        """Open the repository at a destination with one of its passwords.

        Raises RepositoryMissingError, WrongPasswordError, UnsupportedVersionError, KeyFileError when key files are
        damaged and no other opens, and RepositoryDamagedError.
        """
        where = provider.location
        try:
            await provider.authenticate()
            sealed_config = await provider.read(CONFIG_KEY)
        except StorageNotFoundError:
            raise RepositoryMissingError(
                f"There is no repository at {where}. {RepositoryMissingError.hint}", location=where
            ) from None
        keys = sorted(await _list_ids(provider, FileType.KEY))
        if not keys:
            raise RepositoryDamagedError(
                f"The repository at {where} has no key file. Restore its folder keys/ from a copy of the repository.",
                location=where,
            )
        refused = foreign = 0
        damaged: list[str] = []
        for key_id in keys[:MAX_KEYS_TRIED]:
            try:
                master = await _try_key(provider, key_id, password)
                config = await _open_config(provider, master, sealed_config)
            except WrongPasswordError:
                refused += 1
            except KeyFileError:
                damaged.append(key_id)
            except CryptoError:
                foreign += 1
            else:
                if damaged:
                    _log.warning("key files are damaged", keys=damaged, location=where)
                return cls(provider, master, config, key_id)
        if foreign:
            raise RepositoryDamagedError(
                f"The config of the repository at {where} is damaged. Restore the file `config` from a copy of it.",
                location=where,
            )
        if damaged:
            raise KeyFileError(
                f"No key of the repository at {where} opens with this password, and its key file "
                f"{damaged[0]} is damaged. {KeyFileError.hint}",
                location=where,
                keys=damaged,
            )
        raise WrongPasswordError(location=where, keys=refused)

    # --- files ------------------------------------------------------------------------------------------------------

    async def list_ids(self, kind: FileType) -> dict[str, int]:
        """Name in hex to size in bytes of every file of a kind; other names in its folder are ignored."""
        return await _list_ids(self.provider, kind)

    async def load_raw(self, kind: FileType, id_hex: str) -> bytes:
        """The stored bytes of a file, checked against its name. StorageNotFoundError when it is not there."""

        async def check(stored: bytes) -> bytes:
            if kind is not FileType.CONFIG and await _hash(stored) != id_hex:
                raise _damaged(kind, id_hex, "does not have the content its name stands for", size=len(stored))
            return stored

        return await read_verified(self.provider, file_key(kind, id_hex), check)

    async def load_file(self, kind: FileType, id_hex: str) -> bytes:
        """The JSON of a snapshot, index, lock, key or config file, checked against its name and decrypted.

        Raises StorageNotFoundError when it is not there, and the kind's own error when it is damaged.
        """
        if kind is FileType.CONFIG:
            return await read_verified(self.provider, CONFIG_KEY, self._open_sealed_config)
        stored = await self.load_raw(kind, id_hex)
        if kind is FileType.KEY:
            return stored
        if kind is FileType.PACK:
            raise ValidationError("A pack holds no JSON; read its blobs instead.", name=id_hex)
        try:
            what = _DAMAGED.get(kind, RepositoryDamagedError)
            if len(stored) < _THREAD_FROM:
                return decode_unpacked(self.master, stored, what=what)
            return await asyncio.to_thread(decode_unpacked, self.master, stored, what=what)
        except RepositoryDamagedError as error:
            raise _damaged(kind, id_hex, "cannot be decrypted and unpacked", reason=error.code) from error

    async def _open_sealed_config(self, stored: bytes) -> bytes:
        try:
            return self.master.open(stored)
        except CryptoError as error:
            raise _damaged(FileType.CONFIG, "", "cannot be decrypted and unpacked", reason=error.code) from error

    async def save_file(self, kind: FileType, json: bytes) -> str:
        """Store a snapshot, index or lock; its name in hex. The same bytes being there already is success."""
        if len(json) < _THREAD_FROM:
            stored = encode_unpacked(self.master, json)
        else:
            stored = await asyncio.to_thread(encode_unpacked, self.master, json)
        return await self.save_raw(kind, stored)

    async def save_raw(self, kind: FileType, stored: bytes) -> str:
        """Store bytes as they are under their SHA-256; that name in hex."""
        id_hex = await _hash(stored)
        key = file_key(kind, id_hex)
        try:
            await self.provider.upload_file(stored, key, create_only=True)
        except StorageConflictError:
            # A conflict may also mean that something else stands in the way; then nothing was stored.
            if not await self.provider.file_exists(key):
                raise
        return id_hex

    async def delete_file(self, kind: FileType, id_hex: str) -> bool:
        """Remove a file; False when it was not there."""
        return await _delete_if_there(self.provider, file_key(kind, id_hex))

    # --- index ------------------------------------------------------------------------------------------------------

    async def load_index(self) -> None:
        """Load the index files that are not loaded yet. Raises IndexDamagedError naming the file that is damaged.

        Call it after listing snapshots, never before (format, section 13).
        """
        new = sorted(set(await self.list_ids(FileType.INDEX)) - self._loaded_indexes)

        async def load(id_hex: str) -> None:
            try:
                stored = await self.load_raw(FileType.INDEX, id_hex)
            except StorageNotFoundError:
                raise _damaged(FileType.INDEX, id_hex, "vanished while it was read; run the command again") from None
            async with one_at_a_time:
                await asyncio.to_thread(self._add_index, id_hex, stored)

        # Reads overlap; decoding is mostly Python, so several threads at it would only take turns at the interpreter.
        one_at_a_time = asyncio.Lock()
        await in_parallel(new, load)

    def _add_index(self, id_hex: str, stored: bytes) -> None:
        try:
            packs = decode_index(decode_unpacked(self.master, stored, what=IndexDamagedError))
        except RepositoryDamagedError as error:
            raise _damaged(FileType.INDEX, id_hex, "cannot be read", reason=error.code) from error
        for pack_id, blobs in packs:
            self.index.add_pack(pack_id, blobs)
        self._loaded_indexes.add(id_hex)

    async def read_pack_header(self, pack_hex: str, size: int) -> list[PackBlob]:
        """The blobs a pack of ``size`` bytes says it holds, read from its end. Raises PackError naming the pack."""
        key = pack_key(pack_hex)
        try:
            if size < _HEADER_GUESS:
                tail = await self.provider.read(key, 0, size)
            else:
                tail = await self.provider.read(key, size - _HEADER_GUESS, _HEADER_GUESS)
            length = sealed_header_length(tail, size)
            if length + LENGTH_FIELD_SIZE > len(tail):
                tail = await self.provider.read(key, size - LENGTH_FIELD_SIZE - length, length + LENGTH_FIELD_SIZE)
            blobs = decode_header(self.master.open(tail[-LENGTH_FIELD_SIZE - length : -LENGTH_FIELD_SIZE]))
        except StorageNotFoundError:
            raise damaged_pack(pack_hex, "is missing") from None
        except (PackError, CryptoError, StorageCorruptError) as error:
            raise damaged_pack(pack_hex, "is cut short or its list of blobs is damaged", reason=error.code) from error
        if sum(blob.length for blob in blobs) + length + LENGTH_FIELD_SIZE != size:
            raise damaged_pack(pack_hex, "does not have the size its list of blobs asks for", size=size)
        return blobs

    # --- snapshots --------------------------------------------------------------------------------------------------

    async def snapshots(
        self, on_damaged: Callable[[str, BackupIQError], None] | None = None
    ) -> list[tuple[str, Snapshot]]:
        """Every snapshot with its id in hex, oldest first.

        A damaged one raises SnapshotDamagedError, or, with ``on_damaged``, is reported to it and left out. One that
        another program removes meanwhile is left out.
        """
        return await self._load_snapshots(await self.list_ids(FileType.SNAPSHOT), on_damaged)

    async def load_snapshot(self, text: str) -> tuple[str, Snapshot]:
        """The snapshot that ``latest``, an id or the beginning of one names.

        Raises SnapshotNotFoundError, AmbiguousSnapshotError, SnapshotDamagedError.
        """
        ids: Iterable[str] = await self.list_ids(FileType.SNAPSHOT)
        if text != "latest":
            ids = [id_hex for id_hex in ids if text and id_hex.startswith(text.lower())]
        return resolve_snapshot(await self._load_snapshots(ids, None), text)

    async def _load_snapshots(
        self, ids: Iterable[str], on_damaged: Callable[[str, BackupIQError], None] | None
    ) -> list[tuple[str, Snapshot]]:
        async def load(id_hex: str) -> tuple[int, str, Snapshot] | None:
            try:
                snapshot = self._snapshots.get(id_hex)
                if snapshot is None:
                    snapshot = self._decode_snapshot(id_hex, await self.load_file(FileType.SNAPSHOT, id_hex))
                    self._snapshots[id_hex] = snapshot
                return snapshot.time_ns(), id_hex, snapshot
            except StorageNotFoundError:
                return None
            except RepositoryDamagedError as error:
                if on_damaged is None:
                    raise
                on_damaged(id_hex, error)
                return None

        loaded = [found for found in await in_parallel(sorted(ids), load) if found is not None]
        return [(id_hex, snapshot) for _, id_hex, snapshot in sorted(loaded, key=lambda found: found[:2])]

    @staticmethod
    def _decode_snapshot(id_hex: str, json: bytes) -> Snapshot:
        try:
            snapshot = decode_snapshot(json)
            snapshot.time_ns()
        except RepositoryDamagedError as error:
            raise _damaged(FileType.SNAPSHOT, id_hex, "cannot be read", reason=error.code) from error
        return snapshot

    # --- keys -------------------------------------------------------------------------------------------------------

    async def add_key(
        self, password: str, *, hostname: str, username: str, created_ns: int, params: KdfParams | None = None
    ) -> str:
        """Let a further password open the repository; the new key file's name in hex."""
        data = await asyncio.to_thread(
            create_key_file,
            self.master,
            password,
            params=params or KdfParams(),
            username=username,
            hostname=hostname,
            created_ns=created_ns,
        )
        return await self.save_raw(FileType.KEY, data)

    async def list_keys(self) -> list[tuple[str, KeyFile]]:
        """Every key file with its name in hex, in the order of names. Raises KeyFileError for a damaged one."""

        async def load(id_hex: str) -> tuple[str, KeyFile]:
            try:
                return id_hex, parse_key_file(await self.load_raw(FileType.KEY, id_hex))
            except KeyFileError as error:
                raise _damaged(FileType.KEY, id_hex, "cannot be read", reason=error.code) from error

        return await in_parallel(sorted(await self.list_ids(FileType.KEY)), load)

    async def remove_key(self, text: str) -> str:
        """Remove the key file that ``text``, its name or the beginning of it, means; its name in hex.

        Raises KeyInUseError for the key that opened this repository, ValidationError when none or several match.
        """
        matching = [id_hex for id_hex in await self.list_ids(FileType.KEY) if text and id_hex.startswith(text)]
        if len(matching) != 1:
            many = "More than one key begins" if matching else "No key begins"
            raise ValidationError(f"{many} with {text[:64]!r}. List the keys with `backupiq key list`.")
        if matching[0] == self.key_id:
            raise KeyInUseError(key=self.key_id)
        await self.delete_file(FileType.KEY, matching[0])
        return matching[0]


def _damaged(kind: FileType, id_hex: str, why: str, **details: object) -> RepositoryDamagedError:
    what = _DAMAGED.get(kind, RepositoryDamagedError)
    if kind is FileType.PACK:
        return damaged_pack(id_hex, why, **details)
    name = CONFIG_KEY if kind is FileType.CONFIG else f"{kind}/{id_hex}"
    return what(f"The file {name} of the repository {why}. {what.hint}", file=name, **details)


async def _hash(data: bytes) -> str:
    if len(data) < _THREAD_FROM:
        return hashlib.sha256(data).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()


async def _list_ids(provider: StorageProvider, kind: FileType) -> dict[str, int]:
    found: dict[str, int] = {}
    async for info in provider.list_files(kind):
        folder, _, name = info.key.rpartition("/")
        if _NAME.fullmatch(name) and folder == (f"data/{name[:2]}" if kind is FileType.PACK else kind):
            found[name] = info.size
    return found


async def _delete_if_there(provider: StorageProvider, key: str) -> bool:
    try:
        await provider.delete_file(key)
    except StorageNotFoundError:
        return False
    return True


async def _refuse_if_occupied(provider: StorageProvider) -> None:
    if await provider.file_exists(CONFIG_KEY):
        where = provider.location
        raise RepositoryExistsError(
            f"There is a repository at {where} already. {RepositoryExistsError.hint}", location=where
        )
    for kind in (FileType.SNAPSHOT, FileType.INDEX, FileType.PACK):
        async for info in provider.list_files(kind):
            raise RepositoryExistsError(
                f"{provider.location} holds parts of a repository whose file `config` is missing. "
                "Restore that file from a copy, or choose another place.",
                location=provider.location,
                found=info.key,
            )


async def _try_key(provider: StorageProvider, key_id: str, password: str) -> MasterKey:
    async def check(data: bytes) -> bytes:
        if hashlib.sha256(data).hexdigest() != key_id:
            raise KeyFileError(key=key_id)
        return data

    try:
        data = await read_verified(provider, file_key(FileType.KEY, key_id), check)
    except StorageNotFoundError:
        raise WrongPasswordError(key=key_id) from None  # removed since it was listed: as good as not there
    return await asyncio.to_thread(open_key_file, data, password)


async def _open_config(provider: StorageProvider, master: MasterKey, sealed: bytes) -> RepositoryConfig:
    """The config, out of these bytes or, where there are several copies, out of the first that opens."""

    async def check(data: bytes) -> RepositoryConfig:
        return decode_config(master.open(data))

    try:
        return await check(sealed)
    except RepositoryDamagedError:
        if not isinstance(provider, Copies):
            raise
        return await read_verified(provider, CONFIG_KEY, check)
