"""Runs many command lines of ``backupiq`` in one process, for a matrix of cases: starting is what takes long.

Each line of standard input is a JSON object with ``arguments``, ``env`` and ``uid``; the answer is one with ``code``,
``out`` and ``err``. It calls what the console script calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.programs import Argument, Completed


def serve() -> None:
    """Answer commands until standard input ends."""
    from backupiq.cli.main import run

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        command = json.loads(line)
        before = dict(os.environ)
        os.environ.update(command["env"])
        os.seteuid(command["uid"])
        answers.write(json.dumps(answer(run, command["arguments"])) + "\n")
        os.seteuid(os.getuid())
        for name in command["env"].keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in command["env"].keys() & before.keys()})
        answers.flush()


def answer(run: Any, arguments: list[str]) -> dict[str, Any]:
    """One command, with what it wrote to its two outputs, also from libraries and other threads."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            code = run(arguments)
        except SystemExit as ended:
            code = ended.code
        sys.stdout.flush()
        sys.stderr.flush()
        out.seek(0)
        err.seek(0)
        return {"code": code, "out": out.read().decode(errors="replace"), "err": err.read().decode(errors="replace")}


class Commands:
    """The other end: starts that process and asks it."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.driver"],
            env={**env, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def run(
        self, *arguments: Argument, password: str, env: Mapping[str, str] | None = None, uid: int | None = None
    ) -> Completed:
        """Run ``backupiq ARGUMENTS`` there, with more variables, as another user who has no rights of root."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        command = {
            "arguments": [os.fsdecode(argument) for argument in arguments],
            "env": {"BACKUPIQ_PASSWORD": password, **(env or {})},
            "uid": os.geteuid() if uid is None else uid,
        }
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, f"the process ended with exit code {process.wait()}"
        said = json.loads(line)
        return subprocess.CompletedProcess(command["arguments"], said["code"], said["out"], said["err"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    serve()
