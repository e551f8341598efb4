"""A command as a job on a Ray cluster: what is shipped, where it runs, how it is followed and stopped.

    python -m jobs.train data=data/sudoku6 workers=2 out=runs/sudoku6                       a cluster is started here
    export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265                                     ... or one is used
    python -m jobs.train data=/mnt/eqr/data/sudoku6 workers=8 out=/mnt/eqr/runs/sudoku6

The same command again goes on with what is there. Shipped is this package alone, named by its content: no data, no
runs, no environment, no secrets. What a job is told in its environment, Ray writes into its logs; so nothing is: a
cluster that is started here has the environment of this process, the nodes of another one have their own
(docs/guide/clusters.md).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from eqr_ray.config.errors import UserError
from eqr_ray.distributed.cluster import STOP_WAIT_S, job_server

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("eqr_ray/**/*", "tune/*.yaml", "jobs/again.py", "pyproject.toml", "LICENSE")
PATIENCE_S, PAUSE_S = 300.0, 2.0  # for a job server that does not answer
LARGEST = 3  # files named when a package is shown
API = "RAY_API_SERVER_ADDRESS"
# Keys of commands that name files, and how what is none of the user's begins: the same everywhere, or shipped.
PATHS = {"out": (), "resume": (), "data": (), "calibration": (), "recipe": ("tune/",), "space": ("tune/",)}
PATHS |= {"checkpoint": ("zoo:",), "weights": ("zoo:",), "source": ("hub:",)}


@dataclass(frozen=True)
class Package:
    """A folder of what is shipped. `hash` is that of names and contents; `sizes` in bytes by name."""

    folder: Path
    hash: str
    sizes: dict[str, int]

    def __str__(self) -> str:
        largest = sorted(self.sizes.items(), key=lambda item: -item[1])[:LARGEST]
        names = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in largest)
        return f"package {self.hash[:12]}: {len(self.sizes)} files, {sum(self.sizes.values()) / 1e6:.2f} MB; {names}"


def pack(root: Path, store: Path) -> Package:
    """Copy what is shipped of `root` to `store`/HASH, unless it is there. Links are left out: they lead elsewhere."""
    files = sorted({path for pattern in SHIPPED for path in root.glob(pattern) if _is_shipped(path, root)})
    contents = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    folder = store / digest.hexdigest()[:16]
    if not folder.exists():
        store.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=store, prefix=".partial-"))
        for name, content in contents.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        try:
            partial.rename(folder)
        except OSError:  # another submission was first
            shutil.rmtree(partial)
    return Package(folder, digest.hexdigest(), {name: len(content) for name, content in contents.items()})


def _is_shipped(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
    linked = any(parent.is_symlink() for parent in (path, *path.parents) if parent.is_relative_to(root))
    return path.is_file() and not hidden and not linked


def placed(command: str, arguments: Sequence[str], here: Path | None) -> list[str]:
    """The arguments with paths that mean the same in a job's folder, which is Ray's copy and is swept away.

    `here`: relative paths are meant from this folder; None: the cluster is elsewhere, and they mean nothing. UserError:
    such a path, or results without a place.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if "out" not in given and not (command in ("train", "sweep") and "resume" in given):
        raise UserError(
            f"out= must be given: without it {command} would leave its results in Ray's copy of the package"
        )
    return [_placed(argument, here) for argument in arguments]


def _placed(argument: str, here: Path | None) -> str:
    key, _, value = argument.partition("=")
    if key == "out" and value == "null":
        raise UserError("out=null is not allowed: a job's results need a place")
    if key not in PATHS or value == "null" or value.startswith(PATHS[key] or "/") or Path(value).is_absolute():
        return argument
    if here is None:
        raise UserError(f"{argument} is not allowed on a cluster: an absolute path that every node sees, or zoo:NAME")
    return f"{key}={here / value}"


def run_job(
    client: JobSubmissionClient, package: Package, command: str, arguments: Sequence[str], *, python: str, detach: bool
) -> int:
    """Submit a command, show what it says, and return its exit status. `python`: the one of the cluster.

    Ctrl-C and SIGTERM: with `detach` the job goes on without us, else it is stopped. 130 then, and for a job that
    somebody else has stopped.
    """
    entrypoint = shlex.join([python, "-m", "jobs.again", command, *arguments])
    name = f"eqr-{command}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        job = client.submit_job(
            entrypoint=entrypoint,
            submission_id=name,
            runtime_env={"working_dir": str(package.folder)},
            metadata={"package": package.hash, "command": command},
        )
    except (OSError, RuntimeError) as error:
        raise UserError(f"the cluster does not take the job ({error})") from error
    print(f"job {job}; to follow: ray job logs -f {job}; to stop: ray job stop {job}", file=sys.stderr)
    try:
        _follow(client, job)
    except KeyboardInterrupt:
        if detach:
            print(f"job {job} goes on without us", file=sys.stderr)
        else:
            client.stop_job(job)
            _ended(client, job, time.monotonic() + STOP_WAIT_S + 10)
        return 130
    except ConnectionError as error:
        print(f"job {job} cannot be followed any more ({error}); it may go on: ray job logs -f {job}", file=sys.stderr)
        return 1
    status, details = client.get_job_status(job), client.get_job_info(job)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return 130
    if details.driver_exit_code not in (1, 2, 130):  # never started, or killed
        print(f"job {job}: {details.message}", file=sys.stderr)
        return 1
    return int(details.driver_exit_code)


def _follow(client: JobSubmissionClient, job: str) -> None:
    """Print what the job says until it has ended."""
    shown = 0
    # The log is sent as a whole each time: a long one is asked for less often, at most some 1 MB/s.
    while not _ended(client, job, time.monotonic() + 1.0 + shown / 1e6):
        shown = _show(client, job, shown)
    _show(client, job, shown)


def _show(client: JobSubmissionClient, job: str, shown: int) -> int:
    logs = _answer(lambda: client.get_job_logs(job))
    print(logs[shown:], end="", flush=True)
    return len(logs)


def _ended(client: JobSubmissionClient, job: str, until_s: float) -> bool:
    while not _answer(lambda: client.get_job_status(job)).is_terminal():
        if time.monotonic() >= until_s:
            return False
        time.sleep(0.2)
    return True


def _answer(ask: Callable[[], T]) -> T:
    """What the job server says. It may be out of reach for a while, as when a tunnel breaks; ConnectionError then."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (OSError, RuntimeError) as error:
            if time.monotonic() >= end_s:
                raise ConnectionError(str(error)) from error
            time.sleep(PAUSE_S)


def submit(steps: Sequence[tuple[str, Sequence[str]]]) -> int:
    """Run commands, (name, arguments) each, as one job after the other, until one fails; its exit status.

    UserError, before anything is started or sent: a path that means nothing there.
    """
    address = os.environ.get(API) or os.environ.get("RAY_ADDRESS")
    python, here = ("python", None) if address else (sys.executable, Path.cwd())
    jobs = [(command, placed(command, arguments, here)) for command, arguments in steps]
    package = pack(ROOT, ROOT / "build" / "packages")
    print(package, file=sys.stderr)
    if address is None:
        print("no cluster is named by RAY_API_SERVER_ADDRESS: starting Ray on this machine", file=sys.stderr)
    with job_server(address) as client:
        for command, arguments in jobs:
            status = run_job(client, package, command, arguments, python=python, detach=address is not None)
            if status:
                return status
    return 0


def main(name: str, work: Callable[[list[str]], int]) -> NoReturn:
    """Run a script of jobs/ on the arguments of this process and exit with its status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "--help" in sys.argv:
        print(sys.modules["__main__"].__doc__)
        sys.exit(0)
    try:
        sys.exit(work(sys.argv[1:]))
    except UserError as error:
        print(f"jobs.{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
