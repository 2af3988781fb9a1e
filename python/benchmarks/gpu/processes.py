"""Processes that may fail, hang or lose the GPU, and whose results so far are kept even then.

Every part of gpu_check.py is a process with a time limit. What it prints appears at once. All end when this program
ends, no matter how.
"""

import collections
import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TIME_WAS_UP = "not measured: the time was up"
START_S = 40  # within which a process must have started: the first import of torch reads gigabytes
MOST_CULPRITS = 3  # contestants that end their process, before their job is given up
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_running: set["Process"] = set()
_stopped = threading.Event()
_log: list = []  # the open log file


def log_to(path: Path) -> None:
    _log.append(path.open("a", buffering=1))


def say(line: str) -> None:
    """Print a line at once, and write it to the log."""
    print(line, flush=True)
    for file in _log:
        file.write(line + "\n")


def stop_all() -> None:
    """End all processes, and let no other begin."""
    _stopped.set()
    for process in list(_running):
        process.signal(signal.SIGKILL)


def prepare() -> None:
    """In the new process: receive interrupts, even if a shell's background job ignored them, and die with the parent.

    A process that has mapped all memory of a GPU must not spend minutes on a core file when it crashes.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A command that runs in the repository, in its own process group."""

    def __init__(self, command: list[str], prefix: str = "", quiet: bool = False, **environment: str):
        if _stopped.is_set():
            raise SystemExit("stopped")
        say(f"$ {' '.join(command)}"[:400])
        self.lines: collections.deque[str] = collections.deque(maxlen=10_000 if quiet else 300)
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip
        _running.add(self)
        self.reader = threading.Thread(target=self._read, args=(prefix, quiet), daemon=True)
        self.reader.start()

    def _read(self, prefix: str, quiet: bool) -> None:
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))
            if not quiet:
                say(prefix + self.lines[-1])

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended in this time."""
        try:
            self.popen.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            return False
        self.signal(signal.SIGKILL)  # child processes that it may have left running
        _running.discard(self)
        self.reader.join(timeout=5)
        return True

    def end(self, politely: int) -> None:
        """Ask it to end, so that it can still print what it knows, and then kill it."""
        self.signal(politely)
        if not self.wait(5):
            self.signal(signal.SIGKILL)
            self.wait(10)  # a process in the GPU's driver may take its time; it is left to itself then

    def output(self, characters: int = 4000) -> str:
        return "\n".join(self.lines)[-characters:]


def run(
    command: list[str], seconds: float, passing: tuple = (0,), prefix: str = "", quiet: bool = False, **environment: str
) -> dict:
    """Run a command for at most `seconds`, and keep the end of its output (with `quiet` all of it, unprinted).

    When its time is up it is interrupted, so that pytest still reports what has failed, and then killed; `late` in the
    result says so.
    """
    begin = time.time()
    process = Process(command, prefix, quiet, **environment)
    late = not process.wait(seconds)
    if late:
        process.end(signal.SIGINT)
    output = process.output(1_000_000 if quiet else 4000)
    output += f"\nended: its {seconds:.0f} s were up" if late else ""
    passed = not late and process.popen.returncode in passing
    return {"passed": passed, "late": late, "seconds": round(time.time() - begin, 1), "output": output}


def clocks() -> str:
    """The clocks as found, in MHz, with temperature and power."""
    query = "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        printed = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        return printed.strip().split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def read_lines(path: Path) -> list[dict]:
    """The whole lines of a file that another process may be writing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


Done = Callable[[dict], None]


def workload_of(key: str) -> str:
    """What the key of a job begins with."""
    return key.split(" | ")[0]


def run_jobs(
    command: list[str], jobs: dict[str, float], lines: Path, until: float, done: Done, **environment: str
) -> None:
    """Do jobs in one process (worker.py), and in another after one that ended it. jobs: key -> seconds of silence.

    done(result) is called for every job as soon as its result is known. A contestant that hangs or ends the process is
    named in the result of its job, which is repeated without it; so are later jobs of the same workload.
    """
    left, failed = list(jobs), {}

    def finish(result: dict) -> None:
        done(result | ({"failed": result.get("failed", {}) | failed} if failed else {}))
        left.remove(result["key"])
        if not left or workload_of(left[0]) != workload_of(result["key"]):
            failed.clear()

    while left and time.time() < until:
        lines.unlink(missing_ok=True)
        more = ["--out", str(lines), "--jobs", *left, *(["--without", *failed] if failed else [])]
        end = watch(Process([*command, *more], **environment), lines, [jobs[key] for key in left], until, finish)
        if end.why == TIME_WAS_UP or end.why is None:
            continue
        if end.trying is not None and len(failed) < MOST_CULPRITS:
            failed[end.trying] = end.why
            continue
        for key in left[:1] if end.began else list(left):
            finish({"key": key, "error": end.why})
    for key in list(left):
        finish({"key": key, "error": TIME_WAS_UP})


@dataclasses.dataclass
class End:
    """How a process ended."""

    began: bool
    trying: str | None  # the contestant that it tried last
    why: str | None  # None: it has done what it could, and another process may do more


def watch(process: Process, lines: Path, silences: list[float], until: float, done: Done) -> End:
    """Pass the results on as they come, and end the process if none comes."""
    trying, finished, count, last = None, 0, 0, time.time()
    while True:
        ended = process.wait(0.1)  # before reading, so that nothing is missed
        for line in read_lines(lines)[count:]:
            count, last, trying = count + 1, time.time(), line.get("trying")
            if "key" in line:
                finished += 1
                done(line)
        if finished == len(silences):
            if not ended and not process.wait(10):
                process.end(signal.SIGKILL)
            return End(True, None, None)
        if ended:
            why = f"the process ended with {process.popen.returncode}: {process.output(300).strip()}"
            return End(count > 0, trying, None if process.popen.returncode == 0 and finished else why)
        silence = silences[finished] if count else START_S
        if time.time() > min(until, last + silence):
            process.end(signal.SIGABRT)  # faulthandler then says where it was
            return End(count > 0, trying, TIME_WAS_UP if time.time() > until else f"hung: no news for {silence:.0f} s")
