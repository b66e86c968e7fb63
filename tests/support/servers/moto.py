"""moto as an S3 server: accepts any secret, knows the archive classes."""

from __future__ import annotations

import sys
import urllib.request

from tests.support.servers.base import HOST
from tests.support.servers.s3server import S3Server


class Moto(S3Server):
    """One ``moto_server``; everything it holds is gone when it stops."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.ports[0])]

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5) as answer:  # noqa: S310 - own loopback URL
            return bool(answer.status == 200)
