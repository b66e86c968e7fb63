"""A signed-in session of iCloud: pyicloud's service with time limits, in a private folder that survives accidents."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import requests
from pyicloud import PyiCloudService  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter

from backupiq.errors import ResourceError
from backupiq.state import write_private
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_errors import icloud_errors, sign_in_again
from backupiq.storage.icloud_lock import make_private_folder
from backupiq.storage.oserrors import machine_errors
from backupiq.telemetry import register_secret

_EMPTY_JAR = b"#LWP-Cookies-2.0\n"
_MAX_SESSION_BYTES = 1 << 20
_TOKENS = ("session_token", "trust_token")
_KEPT = ".kept"


class Service(PyiCloudService):  # type: ignore[misc]
    """pyicloud's service; a test may say where Apple's servers are, and no code is sent unless a person asked for one.

    A nightly run whose trust has ended would otherwise make every device of the person ring.
    """

    def __init__(self, config: ICloudConfig, folder: Path) -> None:
        self._test_endpoint = config.endpoint
        self.may_send_codes = False
        super().__init__(
            config.apple_id,
            config.password,
            cookie_directory=str(folder),
            china_mainland=config.china_mainland,
            authenticate=False,
        )
        adapter = _LimitedAdapter(config.connect_seconds, config.read_seconds)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)

    def _setup_endpoints(self) -> None:
        super()._setup_endpoints()
        if self._test_endpoint is not None:
            self._idmsa_endpoint = self._test_endpoint
            self._auth_endpoint = f"{self._test_endpoint}/appleauth/auth"
            self._home_endpoint = self._test_endpoint
            self._setup_endpoint = f"{self._test_endpoint}/setup/ws/1"

    def request_2fa_code(self) -> bool:
        """As pyicloud's, but ``False`` and nothing sent unless `may_send_codes` was set."""
        return bool(super().request_2fa_code()) if self.may_send_codes else False


class _LimitedAdapter(HTTPAdapter):
    """Gives every request that has none a time limit; pyicloud sets none anywhere."""

    def __init__(self, connect_seconds: float, read_seconds: float) -> None:
        super().__init__()
        self._limits = (connect_seconds, read_seconds)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._limits
        return super().send(request, *args, **kwargs)


def new_service(config: ICloudConfig) -> Service:
    """A service with the kept session in it; nothing is contacted. The caller holds the account's lock.

    Raises ``ResourceError`` when the session's folder cannot be used.
    """
    folder = config.sessions()
    make_private_folder(folder)
    with machine_errors("prepare the kept iCloud session"), icloud_errors("prepare iCloud's client", config.login):
        session, jar = _files(config, folder)
        _repair(session, jar)
        return Service(config, folder)


def sign_in(config: ICloudConfig, *, renew: bool = False) -> Service:
    """A service that is signed in and trusted, by the kept session or by the password and the kept trust.

    ``renew`` passes over the kept session's cookies. The caller holds the account's lock. Raises
    ``StorageAuthenticationError`` when a person must sign in, and whatever else `icloud_errors` makes.
    """
    service = new_service(config)
    doing = f"sign in to {config.location}"
    try:
        with icloud_errors(doing, config.login):
            service.authenticate(force_refresh=renew)
            needs_person = service.requires_2fa or not service.is_trusted_session
        if needs_person:
            raise sign_in_again(doing, config.login)
    except BaseException:
        service.session.close()
        raise
    keep(service)
    return service


def tokens(service: Service) -> tuple[str | None, ...]:
    """The tokens a service holds in memory."""
    return tuple(service.session.data.get(name) for name in _TOKENS)


def kept_tokens(service: Service) -> tuple[str | None, ...] | None:
    """The tokens on disk, where another process may have left newer ones; ``None`` when there is no readable file."""
    document = _read_session(Path(service.session.session_path))
    return None if document is None else tuple(document.get(name) for name in _TOKENS)


def keep(service: Service) -> None:
    """Keep a copy of a good session: pyicloud writes its files anew at every request, and not in one step."""
    for name in _TOKENS:
        if token := service.session.data.get(name):
            register_secret(token)
    with contextlib.suppress(OSError):  # the session works; without a copy it is only less safe from a power cut
        for path in (Path(service.session.session_path), Path(service.session.cookiejar_path)):
            write_private(_copy_of(path), path.read_bytes())


def forget(config: ICloudConfig) -> None:
    """Remove the kept session, so that the next sign-in begins anew. The caller holds the account's lock."""
    with machine_errors("remove the kept iCloud session"):
        for path in _files(config, config.sessions()):
            path.unlink(missing_ok=True)
            _copy_of(path).unlink(missing_ok=True)


def _files(config: ICloudConfig, folder: Path) -> tuple[Path, Path]:
    # pyicloud's rule for the names of its files.
    stem = "".join(c for c in config.apple_id if c.isalnum() or c == "_")
    if len(stem.encode()) > 200:
        raise ResourceError("The Apple ID is too long to keep a session for.")
    return folder / f"{stem}.session", folder / f"{stem}.cookiejar"


def _repair(session: Path, jar: Path) -> None:
    """Bring a copy back when the files are damaged or gone, and have both there before pyicloud makes them readable."""
    if not (_read_session(session) or {}).get("session_token"):
        for path, empty in ((session, b"{}"), (jar, _EMPTY_JAR)):
            try:
                kept = _copy_of(path).read_bytes()
            except FileNotFoundError:
                kept = empty
            write_private(path, kept)
    if not jar.exists() or jar.stat().st_size == 0:
        write_private(jar, _EMPTY_JAR)
    if os.name != "nt":
        for path in (session, jar):
            path.chmod(0o600)


def _read_session(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_SESSION_BYTES))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _copy_of(path: Path) -> Path:
    return path.with_name(path.name + _KEPT)
