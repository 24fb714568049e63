from pathlib import Path

import pytest

from schemas.errors import ConfigError
from stages.memory import Need, free_memory, most_memory, own_memory

GIB = 2**30
VERSION_1 = {
    "limit": "memory/memory.limit_in_bytes",
    "used": "memory/memory.usage_in_bytes",
    "kept": "memory/memory.stat",
}
VERSION_2 = {"limit": "memory.max", "used": "memory.current", "kept": "memory.stat"}


def machine(root: Path, total: int = 16, free: int = 8, swap: int = 0, own: int = 1) -> Path:
    """A /proc of a machine, in GiB."""
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    lines = {"MemTotal": total, "MemAvailable": free, "SwapTotal": swap}
    (proc / "meminfo").write_text("".join(f"{name}:   {value * 2**20} kB\n" for name, value in lines.items()))
    (proc / "self" / "status").write_text(f"Name:\tpython\nVmRSS:\t{own * 2**20} kB\nThreads:\t3\n")
    return proc


def container(root: Path, names: dict[str, str], limit: str, used: int = 0, kept: int = 0) -> Path:
    cgroup = root / "cgroup"
    values = {"limit": limit, "used": str(used), "kept": f"anon 5\ninactive_file {kept}"}
    for kind, name in names.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(f"{values[kind]}\n")
    return cgroup


def test_without_a_container_the_machine_says_what_there_is(tmp_path: Path) -> None:
    proc, nothing = machine(tmp_path, swap=2), tmp_path / "none"
    assert most_memory(proc, nothing) == 18 * GIB
    assert free_memory(proc, nothing) == 8 * GIB
    assert own_memory(proc) == GIB


@pytest.mark.parametrize("names", [VERSION_1, VERSION_2], ids=["cgroup 1", "cgroup 2"])
def test_a_container_gets_no_more_than_its_limit_and_its_page_cache_counts_as_free(
    tmp_path: Path, names: dict[str, str]
) -> None:
    proc = machine(tmp_path)
    cgroup = container(tmp_path, names, str(6 * GIB), used=4 * GIB, kept=3 * GIB)
    assert most_memory(proc, cgroup) == 6 * GIB
    assert free_memory(proc, cgroup) == 5 * GIB


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_a_container_without_a_limit_has_what_the_machine_has(tmp_path: Path, limit: str) -> None:
    names = VERSION_2 if limit == "max" else VERSION_1
    proc, cgroup = machine(tmp_path), container(tmp_path, names, limit, used=GIB)
    assert (most_memory(proc, cgroup), free_memory(proc, cgroup)) == (16 * GIB, 8 * GIB)


def test_another_system_than_linux_says_nothing_and_nothing_is_refused(tmp_path: Path) -> None:
    assert (most_memory(tmp_path), free_memory(tmp_path), own_memory(tmp_path)) == (None, None, 0)
    Need("x", 10**6, GIB, 1.0, "batch").check(pytest.fail, tmp_path, tmp_path)


def test_what_cannot_fit_is_refused_with_the_setting_and_a_number_that_fits(tmp_path: Path) -> None:
    proc = machine(tmp_path)  # 15 GiB beside what the process has
    with pytest.raises(
        ConfigError, match=r"^batch: 16 images take at least 18\.3 GB .* 17\.2 GB here; set batch to 7 or"
    ):
        Need("16 images", 16, GIB, 2.0, "batch").check(pytest.fail, proc, tmp_path)
    said: list[str] = []
    Need("7 images", 7, GIB, 2.0, "batch").check(said.append, proc, tmp_path)
    assert "about 15.0 GB" in said[0], "which there is, though not all of it is free"


def test_what_does_not_fit_beside_others_is_said_and_what_fits_is_not(tmp_path: Path) -> None:
    proc = machine(tmp_path)
    said: list[str] = []
    Need("5 images", 5, GIB, 2.0, "batch").check(said.append, proc, tmp_path)
    assert said == [
        "5 images take about 10.7 GB of memory, of which 8.6 GB are free; if the stage is killed, "
        "set batch to 4 or less"
    ]
    Need("4 images", 4, GIB, 2.0, "batch").check(pytest.fail, proc, tmp_path)


def test_what_was_not_counted_is_not_refused(tmp_path: Path) -> None:
    Need("x", 8, 0.0, 2.0, "batch").check(pytest.fail, machine(tmp_path, total=0), tmp_path)


def test_where_one_is_too_many_the_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one alone takes about 42\.9 GB: lower image_size"):
        Need("1 image", 1, 20 * GIB, 2.0, "batch").check(pytest.fail, machine(tmp_path), tmp_path)
