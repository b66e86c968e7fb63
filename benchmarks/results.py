"""The file a measurement leaves behind: the machine, what was measured on, the budgets, every single figure."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Verdict

RESULTS = Path(__file__).resolve().parent / "results"


def write_results(name: str, measurements: Sequence[Any], verdicts: Sequence[Verdict], **more: Any) -> Path:
    """Writes one JSON file ``<name><date>-<time>.json``; ``measurements`` are dataclasses, ``more`` plain values."""
    document = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "python": platform.python_version(),
        **more,
        "budgets": [dataclasses.asdict(verdict) for verdict in verdicts],
        "measurements": [dataclasses.asdict(one) for one in measurements],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
