"""What a worker starts for a run: Prefect's engine, in a process that ends at once when the run has ended.

Threads of the clouds' libraries that come back to an interpreter in pieces would abort the process, and the run, which
is complete by then, would count as crashed. So the interpreter is not taken apart: exit handlers run, then it ends.
"""

from __future__ import annotations

import atexit
import os
import runpy
import sys
import traceback

from flows.environment import prepare_environment


def main() -> None:
    """Run the flow run that the environment names, and leave with the engine's exit code."""
    prepare_environment()
    endings: list[int] = []
    atexit.register(_leave, endings)  # the first to be registered runs last
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        endings.append(ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1)
    except BaseException:  # noqa: BLE001 - what the interpreter would do with it
        traceback.print_exc()
        endings.append(1)
    else:
        endings.append(0)


def _leave(endings: list[int]) -> None:
    if endings:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(endings[0])


if __name__ == "__main__":
    main()
