"""One Apple ID in this process: one thread, one session, one lock that other processes respect."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from backupiq.errors import MissingConfigurationError
from backupiq.storage.disk import Transfer
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_lock import AccountLock, make_private_folder
from backupiq.storage.workers import settled

if TYPE_CHECKING:
    from backupiq.storage.icloud_client import ICloudClient

T = TypeVar("T")

_accounts: dict[tuple[object, ...], Account] = {}
_accounts_lock = threading.Lock()


class Account:
    """All calls of all providers of one Apple ID go through here.

    Invariants: one call at a time, in this account's own thread, under the machine-wide lock (pyicloud is not made for
    more, and Apple throttles); a call that is cancelled has ended, or never begun, when `run` returns.
    """

    def __init__(self, config: ICloudConfig) -> None:
        self.users = 0
        self._config = config
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="backupiq-icloud")
        self._client: ICloudClient | None = None

    async def run(self, config: ICloudConfig, job: Transfer, work: Callable[[ICloudClient], T]) -> T:
        """Do work for a destination of the account in its thread; a cancellation stops ``job`` and waits for it."""
        context = contextvars.copy_context()
        future = self._pool.submit(lambda: context.run(self._work, config, job, work))
        waiter = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            job.stop()
            if not future.cancel():
                await settled(waiter)
            raise

    def _work(self, config: ICloudConfig, job: Transfer, work: Callable[[ICloudClient], T]) -> T:
        if self._client is None:
            self._client = _new_client(self._config)
        make_private_folder(self._config.sessions())
        with AccountLock(self._config.sessions()).held(job.check):
            job.check()
            self._client.destination = config
            self._client.adopt_newer_session()
            return work(self._client)

    def close(self) -> None:
        """Let the thread end after what it is doing, and then close the connections."""
        with contextlib.suppress(RuntimeError):  # closed already
            self._pool.submit(lambda: self._client.close() if self._client is not None else None)
        self._pool.shutdown(wait=False)


def open_account(config: ICloudConfig) -> Account:
    """The account of this configuration, shared by all who ask for it in this process; give it back with `release`."""
    with _accounts_lock:
        account = _accounts.setdefault(_key(config), Account(config))
        account.users += 1
        return account


def release(config: ICloudConfig, account: Account) -> None:
    """Give an account back; the last user's going closes it."""
    with _accounts_lock:
        account.users -= 1
        if account.users:
            return
        if _accounts.get(_key(config)) is account:
            del _accounts[_key(config)]
    account.close()


def _key(config: ICloudConfig) -> tuple[object, ...]:
    return config.account, config.sessions(), config.password, config.connect_seconds, config.read_seconds


def _new_client(config: ICloudConfig) -> ICloudClient:
    try:
        from backupiq.storage.icloud_client import ICloudClient
    except ImportError as error:
        raise missing_library(error) from error
    return ICloudClient(config)


def missing_library(error: ImportError) -> MissingConfigurationError:
    """The error for an iCloud destination without the library it needs."""
    return MissingConfigurationError(
        'iCloud Drive needs more libraries. Install them: pip install "backupiq[icloud]"', library=error.name or ""
    )
