"""How many threads compute, and how they wait for each other; chosen before PyTorch loads.

OpenMP's threads wait by spinning: between two operations they keep their core busy for milliseconds. On an idle machine
that saves the time of waking them. Beside other work it takes the core from whoever computes, and two jobs slow each
other many times over. A short spin keeps nearly all of the first and loses little of the second; `docs/performance.md`
has both figures. Whatever the user set for themselves stays.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

SPIN_COUNT = 1000
"""Rounds that a waiting thread of GNU OpenMP spins before it sleeps: microseconds. Its own default is 300,000."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait: of OpenMP, of GNU's and of Intel's runtime."""
THREADS = "OMP_NUM_THREADS"
CGROUP = Path("/sys/fs/cgroup")


def configure_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what OpenMP reads when PyTorch loads it: a short spin, and no more threads than a quota of cores allows.

    Args:
        environment: changed in place; variables that are there stay.
    """
    if not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    if usable_cores() < affine_cores():  # OpenMP itself knows of affinity, not of quotas
        environment.setdefault(THREADS, str(usable_cores()))


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: by affinity (cpusets, taskset) and by its container's quota, at least 1."""
    quota = core_quota(cgroup)
    return affine_cores() if quota is None else max(1, min(affine_cores(), math.ceil(quota)))


def affine_cores() -> int:
    """Cores that this process is allowed to run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_quota(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of time that the container may use, as `docker run --cpus` sets it; None without a limit.

    Args:
        cgroup: mount of the control groups, version 2 or 1, as a container sees its own.
    """
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group; `max`
        return None
    return cores if cores > 0 else None  # version 1 writes -1 for no limit
