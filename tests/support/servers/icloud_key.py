"""A security key in software: what pyicloud's FIDO2 client talks to in the place of one that is plugged in."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2.ctap import CtapDevice

PRESENT = 1
OK = b"\x90\x00"
NOT_TOUCHED = b"\x69\x85"
WRONG_HANDLE = b"\x6a\x80"


class SoftwareKey(CtapDevice):
    """Speaks U2F (CTAP1). ``touched`` is whether a person touches it."""

    def __init__(self, handle: bytes, *, touched: bool = True) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._handle = handle
        self._counter = 0
        self.touched = touched
        self.asked = threading.Event()

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._private.public_key()

    @property
    def capabilities(self) -> int:
        return 0

    def call(
        self,
        cmd: int,
        data: bytes = b"",
        event: threading.Event | None = None,
        on_keepalive: Callable[[Any], None] | None = None,
    ) -> bytes:
        """Answer an authentication: challenge and application (32 bytes each), the handle's length, the handle."""
        body = data[7:-2]
        challenge, application, handle = body[:32], body[32:64], body[65:]
        self.asked.set()
        if handle != self._handle:
            return WRONG_HANDLE
        if not self.touched:
            return NOT_TOUCHED
        self._counter += 1
        told = struct.pack(">BI", PRESENT, self._counter)
        signature = self._private.sign(application + told + challenge, ec.ECDSA(SHA256()))
        return told + signature + OK

    @classmethod
    def list_devices(cls) -> Iterator[CtapDevice]:
        return iter(())
