"""A run's folder, copied to a place that outlives the machines: s3://bucket/runs/one, gs://..., or any fsspec address.

Why here: a run works in a folder of its own disk, where files can be renamed, locked and appended to; object stores
know none of that. So the driver copies what is finished there, file by file, while the run goes on, and a driver on
another machine begins by fetching it. Doors alone know of it.

What makes a folder whole goes last (`state.json` of a checkpoint, `summary.json` of a run) and is removed first, so a
half-copied checkpoint is never chosen. A file of an object store is there whole or not at all; elsewhere it is written
under another name and moved. A store that does not answer holds nothing up: what it has missed is copied later.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from pyarrow import ArrowException, BufferReader
from pyarrow.fs import FileSelector, FileSystem, FileType, FSSpecHandler, LocalFileSystem, PyFileSystem

from eqr_ray.errors import Failure, UserError

EVERY_S = 5.0  # between two looks at the folder
PATIENCE_S, PAUSE_S = 120.0, 2.0  # for a store that does not answer, at the end of a run
LAST = ("state.json", "end.json", "config.json", "manifest.json", "summary.json")  # in this order
LOCAL = frozenset({"lock.json", "ray"})  # of the machine, not of the run
PARTIAL = ".partial"

log = logging.getLogger(__name__)


class Mirror:
    """A folder and its copy. `sent` holds (size, time of change in ns) of what has been copied, by relative name."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self._store, root = store_of(url)
        self._root = PurePosixPath(root)
        self.sent: dict[str, tuple[int, int]] = {}

    def fetch(self) -> int:
        """Bring the copy to the folder, which holds no run yet; how many files. UserError: the store does not answer.

        What makes a folder whole comes last here too."""
        try:
            names = sorted(self._names(), key=_rank)
            for name in names:
                with self._store.open_input_stream(str(self._root / name)) as stream:
                    content = stream.read()
                self._put_here(name, content)
        except (OSError, ArrowException) as error:
            raise UserError(f"mirror={self.url} cannot be read ({_first_line(error)})") from error
        return len(names)

    def send(self) -> None:
        """Copy what is new or has changed, remove what is gone. OSError: the store does not answer."""
        here = self._here()
        gone = sorted((name for name in self.sent if name not in here), key=_rank, reverse=True)
        for name in gone:
            self._remove(name)
        missed: set[str] = set()  # folders in which a file went away while it was copied
        for name in sorted(here, key=_rank):
            whole = PurePosixPath(name).name in LAST
            if self.sent.get(name) != here[name] and not (whole and str(PurePosixPath(name).parent) in missed):
                try:
                    content = (self.folder / name).read_bytes()
                except FileNotFoundError:
                    missed.add(str(PurePosixPath(name).parent))
                    continue
                if name.endswith(".jsonl"):
                    content = content[: content.rfind(b"\n") + 1]  # a line that is being written comes next time
                self._put_there(name, content)
                self.sent[name] = here[name]

    def _here(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.folder.rglob("*"):
            parts = path.relative_to(self.folder).parts
            private = any(part.startswith(".") or part.endswith(PARTIAL) for part in parts) or not LOCAL.isdisjoint(
                parts
            )
            try:
                if not private and path.is_file() and not path.is_symlink():
                    facts = path.stat()
                    found["/".join(parts)] = (facts.st_size, facts.st_mtime_ns)
            except FileNotFoundError:  # a file of a checkpoint that has just been removed
                continue
        return found

    def _names(self) -> Iterator[str]:
        selector = FileSelector(str(self._root), recursive=True, allow_not_found=True)
        for info in self._store.get_file_info(selector):
            name = PurePosixPath(info.path).relative_to(self._root)
            if info.type == FileType.File and not any(part.startswith(".") for part in name.parts):
                yield str(name)

    def _put_here(self, name: str, content: bytes) -> None:
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"mirror={self.url} holds {name}, which leads out of the run's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        facts = path.stat()
        self.sent[name] = (facts.st_size, facts.st_mtime_ns)

    def _put_there(self, name: str, content: bytes) -> None:
        path = self._root / name
        try:
            if isinstance(self._store, LocalFileSystem):
                self._store.create_dir(str(path.parent), recursive=True)
                temporary = path.with_name(f".{path.name}.tmp")
                self._write(temporary, content)
                self._store.move(str(temporary), str(path))
            else:
                self._write(path, content)
        except ArrowException as error:
            raise OSError(_first_line(error)) from error

    def _write(self, path: PurePosixPath, content: bytes) -> None:
        with self._store.open_output_stream(str(path)) as stream:
            stream.upload(BufferReader(content))

    def _remove(self, name: str) -> None:
        path = str(self._root / name)
        if self._store.get_file_info(path).type == FileType.File:
            self._store.delete_file(path)
        del self.sent[name]


def store_of(url: str) -> tuple[FileSystem, str]:
    """(the file system, the path in it) of an address. UserError: it is none, or names no folder."""
    try:
        store, root = FileSystem.from_uri(url)
    except (ArrowException, ValueError, OSError):
        try:
            system, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"mirror={url} is not allowed: s3://bucket/path, gs://bucket/path, ... ({error})"
            ) from error
        store = PyFileSystem(FSSpecHandler(system))
    if "://" not in url or not root.strip("/"):
        raise UserError(f"mirror={url} is not allowed: s3://bucket/path, gs://bucket/path, ...")
    return store, root


def fetched(folder: Path, url: str, sign: str) -> Mirror:
    """The mirror of `folder`, which is fetched where it has no file `sign`, as every run of its kind has.

    UserError: the store does not answer."""
    mirror = Mirror(folder, url)
    if not (folder / sign).exists() and (count := mirror.fetch()):
        log.warning("%d files fetched from %s", count, url)
    return mirror


def mirror_of(typed: str | None, folder: Path) -> str | None:
    """The address that was typed, else the one that the run in `folder` has."""
    try:
        kept = json.loads((folder / "config.json").read_text())
        return typed or kept["mirror"]
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it, the door says
        return typed


@contextmanager
def mirrored(folder: Path, url: str | None, sign: str) -> Iterator[None]:
    """Fetch `folder` where it is missing, keep a copy at `url` while the block runs, and complete it at the end,
    however that comes. None: nothing is copied.

    UserError: the store does not answer at the start. Failure: it does not at the end.
    """
    if url is None:
        yield
        return
    mirror = fetched(folder, url, sign)
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(mirror, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _complete(mirror)


def _keep(mirror: Mirror, ended: threading.Event) -> None:
    answers = True
    while not ended.wait(EVERY_S):
        try:
            mirror.send()
            answers = True
        except OSError as error:
            if answers:
                log.warning("mirror=%s does not answer: going on without (%s)", mirror.url, _first_line(error))
            answers = False


def _complete(mirror: Mirror) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            mirror.send()
            return
        except OSError as error:
            if time.monotonic() >= end_s:
                words = f"mirror={mirror.url} does not answer ({_first_line(error)})"
                raise Failure(f"{words}; all is in {mirror.folder}, the same command copies it later") from error
        time.sleep(PAUSE_S)


def _rank(name: str) -> tuple[int, str]:
    file = PurePosixPath(name).name
    return (1 + LAST.index(file) if file in LAST else 0, name)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
