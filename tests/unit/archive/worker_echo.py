"""The helper's side of `test_worker_process`: answers with what it is sent, or goes wrong as asked."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from backupiq.archive.worker_child import Bytes, Child, Handler
from backupiq.errors import DiskFullError, ValidationError


def start_worker(setup: bytes, child: Child) -> Handler:
    """Answers to ``repeat`` with setup, head and the bulk twice; the other heads are ways to go wrong."""
    if setup == b"refuse":
        raise ValidationError("This setup is refused.", field="setup")

    def handle(head: memoryview, bulk: memoryview) -> tuple[bytes, Sequence[Bytes]]:
        match bytes(head):
            case b"disk full":
                raise DiskFullError("The disk is full.", free=0)
            case b"bug":
                raise KeyError("content of a file")
            case b"kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            case b"exit":
                os._exit(7)
            case b"print":
                print("noise", flush=True)
                os.write(1, b"noise")
            case b"modules":
                return " ".join(sys.modules).encode(), ()
            case b"wait for the end":
                assert child.shared is not None
                child.shared[0] = 1
                while not child.should_stop():
                    pass
                child.shared[1] = 1
        return setup + bytes(head), (bulk, bulk)

    return handle
