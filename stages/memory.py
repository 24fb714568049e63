"""How much memory this process may take, as the machine and its container say it, and whether a step fits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigError
from stages.threads import CGROUP

PROC = Path("/proc")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files of a control group with its limit, of version 2 and 1."""
USED = ("memory.current", "memory/memory.usage_in_bytes")
"""Files with what the group uses, kept files (page cache) included."""
STATISTICS = ("memory.stat", "memory/memory.stat")
RECLAIMABLE = "inactive_file"
"""The part of the page cache that the kernel takes back before anything else."""


def most_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes beyond which a process is killed here: of the machine or its container, and swap; None: not known."""
    machine = _of_machine(proc)
    if machine is None:
        return None
    limit = _first_number(cgroup, LIMITS)
    return min(machine["MemTotal"], limit or machine["MemTotal"]) + machine.get("SwapTotal", 0)


def free_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes that can be taken now without swapping or killing; None: not known."""
    machine = _of_machine(proc)
    if machine is None:
        return None
    free = machine.get("MemAvailable", machine["MemTotal"])
    limit, used = _first_number(cgroup, LIMITS), _first_number(cgroup, USED)
    if limit is None or used is None:
        return free
    return max(0, min(free, limit - used + _reclaimable(cgroup)))


def own_memory(proc: Path = PROC) -> int:
    """Resident bytes of this process; 0 where that is not known."""
    return _kilobytes(proc / "self" / "status").get("VmRSS", 0)


def _of_machine(proc: Path) -> dict[str, int] | None:
    found = _kilobytes(proc / "meminfo")
    return found if "MemTotal" in found else None


def _kilobytes(path: Path) -> dict[str, int]:
    """Bytes by name, of lines like `MemTotal:  16384 kB`."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # another system than Linux
        return {}
    parts = [line.split() for line in lines]
    return {part[0].rstrip(":"): int(part[1]) * 1024 for part in parts if len(part) == 3 and part[2] == "kB"}


def _first_number(folder: Path, names: tuple[str, ...]) -> int | None:
    for name in names:
        try:
            return int((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such group; `max`
            continue
    return None


def _reclaimable(cgroup: Path) -> int:
    for name in STATISTICS:
        try:
            pairs = dict(line.split() for line in (cgroup / name).read_text(encoding="ascii").splitlines())
            return int(pairs[RECLAIMABLE])
        except (OSError, ValueError, KeyError):
            continue
    return 0


@dataclass(frozen=True)
class Need:
    """What a step needs beside what the process has.

    Attributes:
        what: takes it, as a line begins: "8 images at once, …".
        count: how many there are of what `setting` counts.
        each: bytes that one of them takes for sure.
        overhead: what all of it takes at its peak, over what is sure.
        setting: what to lower.
    """

    what: str
    count: int
    each: float
    overhead: float
    setting: str

    def check(self, warn: Callable[[str], None], proc: Path = PROC, cgroup: Path = CGROUP) -> None:
        """Refuse what cannot fit, and `warn` of what does not fit beside what else the machine does.

        Raises:
            ConfigError: it takes more than there is.
        """
        if self.each <= 0:  # counted on small images, where something else took most
            return
        most, free, own = most_memory(proc, cgroup), free_memory(proc, cgroup), own_memory(proc)
        sure, likely = self.count * self.each, self.count * self.each * self.overhead
        if most is not None and own + sure > most:
            raise ConfigError(
                f"{self.setting}: {self.what} take at least {gigabytes(own + sure)} of memory, and there are "
                f"{gigabytes(most)} here; {self._way_out(most - own)}"
            )
        if free is not None and likely > free:
            warn(
                f"{self.what} take about {gigabytes(likely)} of memory, of which {gigabytes(free)} are free; if the "
                f"stage is killed, {self._way_out(free)}"
            )

    def _way_out(self, room: int) -> str:
        fitting = int(room / (self.each * self.overhead))
        if fitting < 1:
            return f"one alone takes about {gigabytes(self.each * self.overhead)}: lower image_size"
        return f"set {self.setting} to {fitting} or less"


def gigabytes(count: float) -> str:
    """Bytes as a person reads them, `1.5 GB`."""
    return f"{count / 1e9:.1f} GB"
