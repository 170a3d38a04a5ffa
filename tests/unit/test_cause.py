"""What is said of a process that has died, or that hangs."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkserve.process import cause
from tests.support.waiting import eventually

READER = "import os; os.read(0, 1)"


@contextlib.contextmanager
def running(*command: str) -> Iterator[int]:
    """Run a program that ends with the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """Return a process that is blocked in read(2)."""
    with running(sys.executable, "-c", READER) as pid:
        eventually(lambda: "read" in Path(f"/proc/{pid}/wchan").read_text())
        yield pid


@pytest.mark.parametrize(
    ("code", "core", "text"),
    [
        (0, False, "exited with 0"),
        (9, False, "exited with 9"),
        (-signal.SIGSEGV, False, "was killed by SIGSEGV"),
        (-signal.SIGSEGV, True, "was killed by SIGSEGV (core dumped)"),
        (-signal.SIGKILL, False, "was killed by SIGKILL"),
        (-(signal.SIGRTMIN + 3), False, "was killed by signal 37"),
    ],
)
def test_how_a_process_ended(code: int, core: bool, text: str) -> None:
    """A signal goes by its name, if it has one."""
    assert cause.describe(code, core=core) == text


def test_a_sleeping_process(sleeper: int) -> None:
    """It is said where in the kernel it sleeps, and in which system call: 0 is read (x86-64)."""
    place = Path(f"/proc/{sleeper}/wchan").read_text()
    call = Path(f"/proc/{sleeper}/syscall").read_text().split()[0]
    assert cause.describe_stuck(sleeper) == f"sleeping in {place}, system call {call}"


def test_a_stopped_process(sleeper: int) -> None:
    """Whoever is stopped is said to be."""
    os.kill(sleeper, signal.SIGSTOP)
    eventually(lambda: cause.describe_stuck(sleeper).startswith("stopped"))


def test_a_running_process() -> None:
    """Whoever computes is nowhere in the kernel, and in no system call."""
    with running(sys.executable, "-c", "while True: pass") as pid:
        eventually(lambda: cause.describe_stuck(pid) == "running")


def test_a_process_named_to_mislead() -> None:
    """A name with spaces and parentheses does not hide the state behind it."""
    with running("/bin/sh", "-c", "printf ') T (' > /proc/$$/comm; read x; :") as pid:
        eventually(lambda: Path(f"/proc/{pid}/comm").read_text() == ") T (\n")
        eventually(lambda: cause.describe_stuck(pid).startswith("sleeping"))


def test_a_dead_process() -> None:
    """A zombie is dead, and so is who was collected."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert cause.describe_stuck(process.pid) == "dead"
    process.wait()
    assert cause.describe_stuck(process.pid) == "dead"


def test_time_on_a_cpu_and_waiting_for_one(sleeper: int) -> None:
    """Both are seconds since the process began; one that sleeps does neither."""
    before = cause.run_delay(sleeper)
    assert before is not None
    assert 0 < before[0] < 60
    assert 0 <= before[1] < 60
    assert cause.run_delay(sleeper) == before


def test_whoever_works_is_seen_to_be_on_a_cpu() -> None:
    """Work shows as time on a CPU."""
    before = cause.run_delay(os.getpid())
    assert before is not None
    eventually(
        lambda: sum(range(10_000)) and (cause.run_delay(os.getpid()) or before)[0] > before[0]
    )


def test_no_times_of_who_is_gone() -> None:
    """A process that has left has none."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cause.run_delay(process.pid) is None


V1 = "9:name=systemd:/x\n5:cpu,memory:/shop/till\n0::/\n"
V2 = "0::/shop/till\n"
MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
"""
V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNT = "41 31 0:38 {root} /sys/fs/cgroup rw shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("cgroups", "mount", "root", "file"),
    [
        (V1, V1_MOUNT, "/", "/sys/fs/cgroup/memory/shop/till/memory.oom_control"),
        (V1, V1_MOUNT, "/shop", "/sys/fs/cgroup/memory/till/memory.oom_control"),
        (V1, V1_MOUNT, "/shop/till", "/sys/fs/cgroup/memory/memory.oom_control"),
        (V2, V2_MOUNT, "/", "/sys/fs/cgroup/shop/till/memory.events"),
        (V2, V2_MOUNT, "/shop/till", "/sys/fs/cgroup/memory.events"),
        ("0::/\n", V2_MOUNT, "/", "/sys/fs/cgroup/memory.events"),
    ],
)
def test_where_the_kills_are_counted(cgroups: str, mount: str, root: str, file: str) -> None:
    """Each version of cgroups has its file, and a container may see a part of the tree only."""
    assert cause.oom_files(cgroups, MOUNTS + mount.format(root=root)) == [file]


def test_kills_are_counted_nowhere() -> None:
    """Without a memory controller there is no file to read."""
    assert cause.oom_files("4:cpu:/shop\n", MOUNTS + V1_MOUNT) == []
    assert cause.oom_files("", "") == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("low 0\nhigh 7\nmax 9\noom 5\noom_kill 3\noom_group_kill 1\n", 3),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2),
        ("oom_kill_disable 1\nunder_oom 0\n", None),
        ("", None),
    ],
)
def test_the_count_of_kills(text: str, count: int | None) -> None:
    """Only the line of kills counts, in either version's file."""
    assert cause.count_of_kills(text) == count


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a stand-in for /proc/self whose cgroup's counter lies in `events`."""
    (tmp_path / "cgroup").write_text("0::/\n")
    mount = f"41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "mountinfo").write_text(MOUNTS + mount)
    return tmp_path


def test_a_kill_since_the_last_look(proc: Path) -> None:
    """What was killed before is not news, and each kill is news once."""
    (proc / "memory.events").write_text("oom 5\noom_kill 5\n")
    counter = cause.OomCounter(str(proc))
    assert counter.has_grown() is False
    (proc / "memory.events").write_text("oom 5\noom_kill 7\n")
    assert [counter.has_grown(), counter.has_grown()] == [True, False]


def test_the_first_look_may_have_news(proc: Path) -> None:
    """The count begins when the counter is made, not when it is first asked."""
    (proc / "memory.events").write_text("oom_kill 5\n")
    counter = cause.OomCounter(str(proc))
    (proc / "memory.events").write_text("oom_kill 6\n")
    assert counter.has_grown() is True


def test_no_counter_never_grows(proc: Path) -> None:
    """Where the kernel does not count, or not for us, nothing has grown; nor when it begins to."""
    counter = cause.OomCounter(str(proc))
    assert counter.has_grown() is False
    (proc / "memory.events").write_text("oom_kill 7\n")
    assert counter.has_grown() is False
    assert cause.OomCounter(str(proc / "nothing")).has_grown() is False


def test_a_counter_that_cannot_be_read_once(proc: Path) -> None:
    """A look that fails forgets nothing."""
    (proc / "memory.events").write_text("oom_kill 7\n")
    counter = cause.OomCounter(str(proc))
    (proc / "memory.events").unlink()
    assert counter.has_grown() is False
    (proc / "memory.events").write_text("oom_kill 8\n")
    assert counter.has_grown() is True


OUT_OF_MEMORY = """
import os, sys
from forkserve.process.cause import OomCounter, describe
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
counter = OomCounter()
pid = os.fork()
if pid == 0:
    bytearray(256 * 2**20)
    os._exit(0)
print(describe(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
print(counter.has_grown(), counter.has_grown())
"""


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """Return a memory cgroup of 64 MiB, below our own."""
    files = cause.oom_files(
        Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    )
    ours = [Path(file).parent for file in files if file.endswith("oom_control")]
    if not ours:
        pytest.skip("no memory cgroup of version 1 here")
    folder = ours[0] / f"forkserve-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    (folder / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    with contextlib.suppress(OSError):  # without it the child would be swapped out instead
        (folder / "memory.memsw.limit_in_bytes").write_text(str(64 * 2**20))
    yield folder
    folder.rmdir()


@pytest.mark.heavy
def test_the_kernel_kills_for_want_of_memory(small_cgroup: Path) -> None:
    """A real kill is seen once."""
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(small_cgroup)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split("\n") == ["was killed by SIGKILL", "True False", ""]
