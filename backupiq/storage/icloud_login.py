"""Signing in to iCloud with a person there: the code or the security key that makes Apple trust this machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from backupiq.errors import MissingConfigurationError, StorageAuthenticationError, ValidationError
from backupiq.storage.icloud_account import missing_library
from backupiq.storage.icloud_config import PASSWORD_VARIABLE, ICloudConfig
from backupiq.storage.icloud_lock import AccountLock, make_private_folder

if TYPE_CHECKING:
    from backupiq.storage.icloud_session import Service

Needs = Literal["none", "code", "security-key"]
Delivery = Literal["sms", "device"]

CODE_LENGTH = 6


class ICloudLogin:
    """One sign-in, step by step: `start`, then what it says is needed. Blocking; for a command line.

    The account's lock is held during each step, not between them, where a person types. What Apple trusts is kept in
    the session's folder, and running programs of this machine take it over at their next call. Every step raises
    ``StorageAuthenticationError`` when Apple refuses, ``StorageConnectionError`` when it cannot be reached.
    """

    def __init__(self, config: ICloudConfig) -> None:
        self._config = config
        self._made: Service | None = None

    def start(self, *, anew: bool = False) -> Needs:
        """Sign in as far as that goes without a person; ``anew`` forgets the kept session first.

        "none": the session is trusted. "code": `request_code` and `submit_code`. "security-key":
        `confirm_security_key`. Raises ``MissingConfigurationError`` when a password is needed and there is none.
        """
        try:
            from pyicloud.exceptions import PyiCloudFailedLoginException  # type: ignore[import-untyped]

            from backupiq.storage.icloud_session import forget, keep, new_service
        except ImportError as error:
            raise missing_library(error) from error
        with self._turn("sign in", before=True):
            self.close()
            if anew:
                forget(self._config)
            self._made = service = new_service(self._config)
            try:
                service.authenticate()
            except PyiCloudFailedLoginException:
                if self._config.password is None:
                    raise MissingConfigurationError(
                        f"The password of the Apple ID is needed. Set {PASSWORD_VARIABLE}, or put it into the block."
                    ) from None
                raise
            if not service.requires_2fa and service.is_trusted_session:
                keep(service)
                return "none"
            return "security-key" if service.two_factor_delivery_method == "security_key" else "code"

    def request_code(self) -> Delivery:
        """Have a code sent, and how: "sms" to the trusted phone number, "device" to the trusted devices' screens."""
        with self._turn("have a code sent") as service:
            service.may_send_codes = True
            try:
                service.request_2fa_code()
            finally:
                service.may_send_codes = False
            return "sms" if service.two_factor_delivery_method == "sms" else "device"

    def submit_code(self, code: str) -> bool:
        """Send the code a person typed; ``False`` when Apple does not take it. The trust is then kept."""
        digits = "".join(code.split()).replace("-", "")
        if len(digits) != CODE_LENGTH or not (digits.isascii() and digits.isdecimal()):
            return False
        with self._turn("check the code") as service:
            return bool(service.validate_2fa_code(digits)) and self._trusted(service)

    def security_keys(self) -> list[str]:
        """The names of the security keys that this Apple ID takes."""
        with self._turn("list the security keys") as service:
            return [str(name) for name in service.security_key_names or []]

    def confirm_security_key(self, *, cancel: threading.Event | None = None, device: Any = None) -> bool:
        """Wait until a person touches a security key; ``cancel`` ends the wait, which then raises.

        ``device`` is a FIDO2 device of the library ``fido2`` (default: the first that is plugged in).
        """
        with self._turn("confirm the security key") as service:
            service.confirm_security_key(device, event=cancel)
            return self._trusted(service)

    def close(self) -> None:
        """Let go of connections; the kept session stays."""
        service, self._made = self._made, None
        if service is not None:
            service.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _trusted(self, service: Service) -> bool:
        from backupiq.storage.icloud_session import keep

        if not service.is_trusted_session:
            raise StorageAuthenticationError(
                "Apple took the confirmation but does not trust this machine. Wait a while, then sign in again: "
                f"backupiq providers login {self._config.login}"
            )
        keep(service)
        return True

    @contextlib.contextmanager
    def _turn(self, doing: str, *, before: bool = False) -> Iterator[Any]:
        from backupiq.storage.icloud_errors import icloud_errors

        if self._made is None and not before:
            raise ValidationError("This sign-in was not started. Call start() first.")
        make_private_folder(self._config.sessions())
        with (
            AccountLock(self._config.sessions()).held(lambda: None),
            icloud_errors(f"{doing} for {self._config.location}", self._config.login),
        ):
            yield self._made
