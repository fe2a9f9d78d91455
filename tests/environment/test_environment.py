"""Facts from invented trees of files, and findings from literal facts and measurements."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from clockwork.clock import MonotonicClock
from clockwork.environment.checks import check
from clockwork.environment.facts import (
    CoreFrequency,
    CoreTicks,
    Counters,
    Environment,
    Host,
    HugePages,
    Interruptions,
    Lateness,
    Limit,
    Measured,
    Quota,
    Share,
    Swap,
)
from clockwork.environment.findings import UNKNOWN, disturbing, worst
from clockwork.environment.kernel_files import cores, read_counters, read_host, read_quota
from clockwork.environment.measurement import examine, examine_at_start, others, stolen, watch
from clockwork.messages.findings import Finding, Level
from clockwork.units import GIB, MIB, MILLISECOND, SECOND, ms, us

CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"

WHOLE = {
    "proc/self/status": "Name:\tpython\nVmSwap:\t      12 kB\nCpus_allowed_list:\t1,3\n",
    "proc/self/limits": (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max open files            1024                 4096                 files     \n"
        "Max locked memory         unlimited            unlimited            bytes     \n"
    ),
    "proc/self/timerslack_ns": "50000\n",
    "proc/self/cgroup": "0::/pod/box\n",
    "proc/meminfo": "MemAvailable:  8388608 kB\nSwapTotal:  2048 kB\nSwapFree:  1024 kB\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/vmstat": "nr_free_pages 9\npswpin 3\npswpout 4\n",
    "proc/stat": "cpu  9 9 9 9\ncpu1 1 2 3 40 5 6 7 8 9 9\ncpu3 1 2 3 40\nintr 5 5\n",
    f"{CPU}/online": "0-3\n",
    f"{CPU}/isolated": "3\n",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu1/cpufreq/scaling_driver": "intel_pstate\n",
    f"{CPU}/cpu1/cpufreq/scaling_min_freq": "800000\n",
    f"{CPU}/cpu1/cpufreq/scaling_max_freq": "3500000\n",
    f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq": "4000000\n",
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{CPU}/cpu1/topology/thread_siblings_list": "1,3\n",
    "sys/devices/system/node/online": "0-1\n",
    "sys/devices/system/node/node0/cpulist": "0-1\n",
    "sys/devices/system/node/node1/cpulist": "2-3\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
    "sys/kernel/mm/transparent_hugepage/defrag": "always defer [madvise] never\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\n",
    "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/pod/cpu.stat": "nr_periods 10\nnr_throttled 2\nthrottled_usec 7\n",
    "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
    "sys/fs/cgroup/pod/box/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
    f"{CLOCK}/current_clocksource": "hpet\n",
    f"{CLOCK}/available_clocksource": "tsc hpet \n",
}


def plant(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


# ---------------------------------------------------------------------------------------------------- reading


def test_all_facts_are_read(tmp_path: Path) -> None:
    assert read_host(plant(tmp_path, dict(WHOLE))) == Host(
        allowed=(1, 3),
        online=(0, 1, 2, 3),
        isolated=(3,),
        frequencies=(CoreFrequency(1, "powersave", "intel_pstate", 800_000, 3_500_000, 4_000_000),),
        boost=False,
        siblings={1: (1, 3)},
        nodes={0: (0, 1), 1: (2, 3)},
        quota=Quota(1.5, ms(100), 10, 2, us(7)),
        swap=Swap(2 * MIB, MIB, 12 << 10, 60),
        huge_pages=HugePages("always", "madvise"),
        open_files=Limit(1024, 4096),
        locked_memory=Limit(None, None),
        timer_slack=us(50),
        clock_source="hpet",
        clock_sources=("tsc", "hpet"),
        available=8 * GIB,
    )
    ticks = {1: CoreTicks(busy=19, idle=45, stolen=8), 3: CoreTicks(busy=6, idle=40, stolen=0)}
    assert read_counters(tmp_path) == Counters(ticks, throttled=2, swapped=7)


def test_facts_at_the_start_of_a_worker_need_no_measurement(tmp_path: Path) -> None:
    files = {**WHOLE, "proc/stat": "cpu1 1 2 3 40\ncpu3 1 2 3 40 5 6 7 8 9 9\n"}
    environment = examine_at_start(1, 1, root=plant(tmp_path, dict(files)))
    assert environment.measured == Measured(duration=0, stolen=(Share(1, 0.0), Share(3, 8 / 72)))
    found = disturbing(check(environment))
    assert [(each.name, each.level) for each in found][:2] == [("steal", Level.BAD), ("clock source", Level.WARNING)]
    assert not {"interruptions", "other processes", "timers"} & {each.name for each in found}
    assert [each.level.rank for each in found] == sorted((each.level.rank for each in found), reverse=True)


def test_a_host_without_files_has_no_facts(tmp_path: Path) -> None:
    assert read_host(tmp_path) == Host()
    assert read_counters(tmp_path) == Counters()


SPOILED = (
    *(b"", b"\n", b"\xff\xfe\x00", b"-", b":::\n::", b"[", b"9" * 5000, b"cpu0 a b c d\ncpu 1\n", b"-1 0\n"),
    b"0-999999999999\n",
    b"\x1b[31m" * 100,
)


@pytest.mark.parametrize("content", SPOILED)
def test_malformed_files_give_no_facts_and_no_error(content: bytes, tmp_path: Path) -> None:
    root = plant(tmp_path, dict.fromkeys(WHOLE, content))
    host = read_host(root)
    read_counters(root)
    assert host.allowed == ()
    assert host.frequencies == ()
    assert "\x1b" not in repr(check(environment(host=host)))


def test_unreadable_files_give_no_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    plant(tmp_path, dict(WHOLE))
    with monkeypatch.context() as patch:  # the modes of files do not restrict root
        patch.setattr(Path, "open", forbidden)
        assert read_host(tmp_path) == Host()
        assert read_counters(tmp_path) == Counters()


def test_directories_in_place_of_files_give_no_facts(tmp_path: Path) -> None:
    for name in WHOLE:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert read_host(tmp_path) == Host()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-2,5\n", (0, 1, 2, 5)), ("", ()), ("3", (3,)), ("2-1", None), ("x", None), ("1-2-3", None), (None, None)],
)
def test_a_list_of_cores_is_parsed(text: str | None, expected: tuple[int, ...] | None) -> None:
    assert cores(text) == expected


V1 = "sys/fs/cgroup/cpu"
STAT = "nr_periods 4\nnr_throttled 1\nthrottled_time 900\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\n"}, Quota()),
        (
            {  # version 1; the path of the host does not exist inside the container
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
                f"{V1}/cpu.cfs_quota_us": "50000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
                f"{V1}/cpu.stat": STAT,
            },
            Quota(0.5, ms(100), 4, 1, 900),
        ),
        (
            {  # no limit
                "proc/self/cgroup": "1:cpu:/\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
                f"{V1}/cpu.stat": STAT,
            },
            Quota(None, None, 4, 1, 900),
        ),
        (
            {  # a period of zero, and a path with ".."
                "proc/self/cgroup": "0::/../../x\n",
                "sys/fs/cgroup/cpu.max": "1000 0\n",
                "sys/fs/cgroup/cpu.stat": "",
            },
            Quota(),
        ),
    ],
)
def test_the_quota_is_read_from_both_versions_of_control_groups(
    files: dict[str, str | bytes], expected: Quota | None, tmp_path: Path
) -> None:
    assert read_quota(plant(tmp_path, files)) == expected


# -------------------------------------------------------------------------------------------------- measuring


class Ticking:
    """A clock that returns literal times."""

    def __init__(self, *moments: int) -> None:
        self._moments = iter(moments)

    def now(self) -> int:
        return next(self._moments)


def test_gaps_between_readings_of_the_clock_are_counted() -> None:
    clock = Ticking(0, us(1), us(2), us(52), us(200), us(201), us(300))
    assert watch(3, us(300), clock) == Interruptions(3, us(300), 6, count=2, longest=us(148), lost=us(148 + 99))


def test_the_share_of_others_excludes_the_time_of_this_process() -> None:
    before = Counters({0: CoreTicks(10, 10, 0), 1: CoreTicks(5, 5, 5), 2: CoreTicks(1, 1, 1), 7: CoreTicks(1, 1, 1)})
    after = Counters({0: CoreTicks(40, 70, 10), 1: CoreTicks(6, 104, 5), 2: CoreTicks(1, 1, 1), 8: CoreTicks(1, 1, 1)})
    assert others(before, after, {0: 20.0, 1: 4.0}) == (Share(0, 0.1), Share(1, 0.0))
    assert stolen(before, after) == (Share(0, 0.1), Share(1, 0.0))


def test_this_host_is_examined_for_about_the_requested_time() -> None:
    start = MonotonicClock.now()
    environment = examine(1, 1, 0.2)
    assert MonotonicClock.now() - start >= 0.15 * SECOND
    assert [timer.kind for timer in environment.measured.timers] == ["sleep", "select", "condition"]
    assert all(0 <= timer.p50 <= timer.p99 <= timer.longest and timer.count for timer in environment.measured.timers)
    assert all(0 <= interruption.lost <= interruption.watched for interruption in environment.measured.interruptions)
    assert len(check(environment)) == len({finding.name for finding in check(environment)}) == 17


def test_a_host_without_files_is_measured_too(tmp_path: Path) -> None:
    environment = examine(1000, 1, 0.01, tmp_path)
    assert environment.host == Host()
    assert environment.measured.others == environment.measured.stolen == ()
    assert environment.measured.interruptions[0].core is None
    assert environment.measured.interruptions[0].looks


# ---------------------------------------------------------------------------------------------------- judging

QUIET = Measured(
    duration=2 * SECOND,
    others=(Share(0, 0.5), Share(1, 0.0)),
    stolen=(Share(0, 0.0), Share(1, 0.0)),
    throttled=0,
    swapped=0,
    timers=(Lateness("sleep", 100, us(60), us(80), us(150)),),
    interruptions=(Interruptions(1, SECOND, 10_000_000),),
)
GOOD = Host(
    allowed=(0, 1),
    online=(0, 1),
    isolated=(1,),
    frequencies=(CoreFrequency(1, "performance", None, 800_000, 3_000_000, 3_000_000),),
    boost=False,
    siblings={0: (0,), 1: (1,)},
    nodes={0: (0, 1)},
    quota=Quota(),
    swap=Swap(0, 0),
    huge_pages=HugePages("madvise", "madvise"),
    open_files=Limit(20_000, None),
    locked_memory=Limit(8 * MIB, None),
    timer_slack=us(50),
    clock_source="tsc",
    clock_sources=("tsc",),
    available=64 * GIB,
)


def environment(host: Host = GOOD, measured: Measured = QUIET, devices: Any = ((1,),), threads: int = 1) -> Environment:
    return Environment(devices=devices, threads_per_device=threads, host=host, measured=measured)


def found(name: str, environment: Environment) -> Finding:
    (finding,) = (candidate for candidate in check(environment) if candidate.name == name)
    return finding


def test_a_good_host_has_no_costs_and_no_fixes() -> None:
    findings = check(environment())
    assert worst(findings) is Level.OK
    assert not [finding for finding in findings if finding.cost or finding.fix]


def test_an_unknown_fact_is_a_note() -> None:
    findings = check(environment(host=Host(), measured=Measured(duration=1), devices=((),)))
    assert {finding.level for finding in findings} == {Level.NOTE}
    assert {finding.found for finding in findings} == {UNKNOWN}


@pytest.mark.parametrize(
    ("name", "facts", "level", "part"),
    [
        ("cores", {"allowed": (1,)}, "warning", "1 core allowed (1) of 2; 1 device of 1 thread on 1"),
        ("isolation", {"isolated": ()}, "note", "core 1 is open to all processes"),
        ("hyper-threads", {"siblings": {0: (0, 1), 1: (0, 1)}}, "warning", "with the allowed 0"),
        (
            "hyper-threads",
            {"siblings": {1: (1, 5)}, "online": (0, 1, 5)},
            "note",
            "with 5, which other processes",
        ),
        ("hyper-threads", {"siblings": {1: (1, 5)}}, "ok", "with no other"),
        ("numa", {"nodes": {0: (0,), 1: (1,)}}, "note", "on nodes 0-1"),
        ("cpu quota", {"quota": Quota(0.5, ms(100))}, "bad", "executing on 1 thread uses the quota up"),
        ("cpu quota", {"quota": Quota(1.5, ms(100))}, "warning", "1.5 cores, renewed every 100 ms"),
        ("cpu quota", {"quota": Quota(4, ms(100))}, "note", "4 cores"),
        ("cpu quota", {"quota": Quota(4, ms(100), 9, 3, ms(20))}, "warning", "throttled in 3 of 9 periods, 20 ms in"),
        (
            "cpu governor",
            {"frequencies": (CoreFrequency(1, "schedutil", "x", 800_000, 3_000_000),)},
            "warning",
            "0.8 of 3 GHz",
        ),
        ("cpu governor", {"frequencies": (CoreFrequency(1, "powersave", None, 9, 9, 9),)}, "ok", "powersave"),
        ("cpu governor", {"frequencies": (CoreFrequency(1, "performance", None, 1, 2, 3000000),)}, "note", "3 GHz"),
        ("cpu governor", {"frequencies": (CoreFrequency(0, "ondemand"),)}, "note", UNKNOWN),
        ("cpu boost", {"boost": True}, "note", "on"),
        ("memory", {"available": 8 * GIB}, "note", "weights cache of 2.0 GiB"),
        ("memory", {"available": 60 * MIB}, "bad", "smaller than a page"),
        ("swap", {"swap": Swap(GIB, 0)}, "note", "0 B of 1.0 GiB in use"),
        ("swap", {"swap": Swap(GIB, MIB, 0, 60)}, "warning", "swappiness 60"),
        ("huge pages", {"huge_pages": HugePages("always", "always")}, "warning", "always, defrag always"),
        ("huge pages", {"huge_pages": HugePages("always", "madvise")}, "note", "in the background"),
        ("open files", {"open_files": Limit(1024, 4096)}, "note", "at most 1024"),
        ("open files", {"open_files": Limit(256, 4096)}, "warning", "at most 256"),
        ("open files", {"open_files": Limit(None, None)}, "ok", "unlimited"),
        ("clock source", {"clock_source": "hpet"}, "warning", "echo tsc"),
        ("clock source", {"clock_source": "hpet", "clock_sources": ("hpet",)}, "warning", "why tsc is not used"),
        ("clock source", {"clock_source": "jiffies"}, "bad", "in steps of milliseconds"),
        ("clock source", {"clock_source": "arch_sys_counter"}, "ok", "a reading of the clock takes 0.1 us"),
    ],
)
def test_each_fact_has_a_level(name: str, facts: dict[str, Any], level: str, part: str) -> None:
    finding = found(name, environment(host=msgspec.structs.replace(GOOD, **facts)))
    assert finding.level == level, finding
    assert part in f"{finding.found} {finding.cost} {finding.fix}"
    assert level == "ok" or finding.found == UNKNOWN or (finding.cost and finding.fix)


@pytest.mark.parametrize(
    ("name", "facts", "level", "part"),
    [
        (
            "interruptions",
            {"interruptions": (Interruptions(1, SECOND, 9, 1, us(60), us(60)),)},
            "ok",
            "about one in 100 inferences",
        ),
        ("interruptions", {"interruptions": (Interruptions(1, SECOND, 9, 1, ms(2), ms(2)),)}, "note", "added 2 ms"),
        ("interruptions", {"interruptions": (Interruptions(1, SECOND, 9, 1, ms(6), ms(6)),)}, "warning", "0.6 %"),
        ("interruptions", {"interruptions": (Interruptions(1, SECOND, 9, 50, ms(1), ms(20)),)}, "warning", "2 %"),
        (
            "interruptions",
            {"interruptions": (Interruptions(1, SECOND, 9, 125, ms(4), ms(500)),)},
            "bad",
            "is interrupted 2.5 times",
        ),
        ("interruptions", {"interruptions": (Interruptions(None, ms(9), 1, 1, ms(9), ms(9)),)}, "bad", "100 %"),
        ("other processes", {"others": (Share(0, 0.9), Share(1, 0.02))}, "ok", "2 % of core 1, 46 % of all"),
        ("other processes", {"others": (Share(1, 0.05),)}, "note", "take 5 % of core 1"),
        ("other processes", {"others": (Share(1, 0.5),)}, "warning", "processes that use 50 % of it"),
        ("steal", {"stolen": (Share(0, 0.5), Share(1, 0.004))}, "note", "0.4 % of core 1"),
        ("steal", {"stolen": (Share(1, 0.04),)}, "warning", "4 % of core 1"),
        ("steal", {"stolen": (Share(1, 0.2),)}, "bad", "20 % of core 1"),
        ("timers", {"timers": (Lateness("sleep", 9, us(60), us(80), us(500)),)}, "note", "delayed a start by 300 us"),
        ("timers", {"timers": (Lateness("sleep", 9, us(60), us(500), us(500)),)}, "warning", "late by 300 us or more"),
        ("timers", {"timers": (Lateness("sleep", 9, us(600), us(800), us(900)),)}, "bad", "usually still late"),
        ("clock source", {"interruptions": (Interruptions(1, SECOND, 500_000),)}, "warning", "takes 2 us"),
        ("clock source", {"interruptions": (Interruptions(1, SECOND, 0),)}, "ok", "tsc"),
    ],
)
def test_each_measurement_has_a_level(name: str, facts: dict[str, Any], level: str, part: str) -> None:
    finding = found(name, environment(measured=msgspec.structs.replace(QUIET, **facts)))
    assert finding.level == level, finding
    assert part in f"{finding.found} {finding.cost} {finding.fix}"


def test_throttling_and_swapping_during_the_measurement_are_bad() -> None:
    busy = msgspec.structs.replace(QUIET, throttled=2, swapped=1)
    host = msgspec.structs.replace(GOOD, quota=Quota(4, 100 * MILLISECOND), swap=Swap(GIB, MIB))
    assert found("cpu quota", environment(host, busy)).found.endswith("; 2 while measuring")
    assert found("cpu quota", environment(host, busy)).level is Level.BAD
    assert found("swap", environment(host, busy)).found.endswith("; 1 page moved while measuring")
    assert found("swap", environment(host, busy)).level is Level.BAD


def test_devices_that_need_more_cores_than_allowed_are_not_pinned() -> None:
    finding = found("cores", environment(devices=((), ()), threads=2))
    assert finding.level is Level.BAD
    assert "allow the worker 5 cores" in finding.fix
    assert found("isolation", environment(devices=((), ()), threads=2)).found == "core 0 is open to all processes"


def test_a_device_on_two_nodes_is_worse_than_a_worker_on_two() -> None:
    host = msgspec.structs.replace(GOOD, allowed=(0, 1, 2), nodes={0: (0, 1), 1: (2,)})
    assert found("numa", environment(host, devices=((1,), (2,)))).level is Level.NOTE
    assert found("numa", environment(host, devices=((1, 2),), threads=2)).level is Level.WARNING


def test_the_fix_never_isolates_all_cores() -> None:
    host = msgspec.structs.replace(GOOD, isolated=())
    assert "isolcpus=1 " in found("isolation", environment(host)).fix
    assert "isolcpus" not in found("isolation", environment(host, devices=((0,), (1,)))).fix
