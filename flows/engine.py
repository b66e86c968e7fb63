"""What a worker starts for a run: Prefect's engine, in a process that ends at once when the run has ended.

The process notes which run it carries out: the next worker has to know a run that outlived this one from a dead one.

Threads of the clouds' libraries that come back to an interpreter in pieces would abort the process, and the run, which
is complete by then, would count as crashed. So the interpreter is not taken apart: exit handlers run, then it ends.
"""

from __future__ import annotations

import atexit
import os
import runpy
import sys
import traceback

from backupiq.memory import share_heaps
from flows import run_processes
from flows.environment import prepare_environment


def main() -> None:
    """Run the flow run that the environment names, and leave with the engine's exit code."""
    share_heaps()
    prepare_environment()
    endings: list[int] = []
    atexit.register(_leave, endings)  # the first to be registered runs last
    with run_processes.noted():
        endings.append(_run())


def _run() -> int:
    if run_processes.VARIABLE in os.environ:
        from flows import leases

        leases.keep_running_without()
        sys.modules.pop("prefect.engine", None)  # it came along, and Python warns when it is run from anew
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - what the interpreter would do with it
        traceback.print_exc()
        return 1
    return 0


def _leave(endings: list[int]) -> None:
    if endings:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(endings[0])


if __name__ == "__main__":
    main()
