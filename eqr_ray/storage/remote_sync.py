"""A copy of a run's folder in a place that outlives the machines: s3://bucket/runs/one, gs://..., any fsspec address.

The driver copies what is finished, file by file, while the run goes on, and a driver on another machine begins by
fetching it. What makes a folder whole goes last (`state.json` of a checkpoint, `summary.json` of a run) and is removed
first, so a half-copied checkpoint is never chosen. What a store that does not answer has missed is copied later.

S3 and GCS are reached by pyarrow's clients behind fsspec's interface: s3fs pins a botocore that excludes boto3's own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from pyarrow.fs import FileSystem

from eqr_ray.config.errors import Failure, UserError
from eqr_ray.config.schema import read_json
from eqr_ray.storage.run_dir import CONFIG, LOCK, MANIFEST, SUMMARY

EVERY_S = 5.0  # between two looks at the folder
PATIENCE_S, PAUSE_S = 120.0, 2.0  # for a store that does not answer, at the end of a run ...
LEAVING_S = 30.0  # ... and of one that was interrupted or failed: somebody waits, and may not wait long
LAST = ("state.json", "end.json", MANIFEST, CONFIG, SUMMARY)  # in this order
LOCAL = frozenset({LOCK, "ray"})  # of the machine, not of the run
PARTIAL = ".partial"
BY_PYARROW = ("s3", "gs", "gcs")
ALLOWED = "s3://bucket/path, gs://bucket/path, ..."
GONE = (-1, -1)  # size and time of a file that only the store has

log = logging.getLogger(__name__)


class RemoteCopy:
    """The copy of `folder` at `url`. UserError: `url` is no address, or cannot be reached."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self._store, root = store_of(url)
        self._root = PurePosixPath(root)
        self._sent: dict[str, tuple[int, int]] = {}  # what is there: (size, time of change in ns) here, by name

    def fetch(self) -> int:
        """Bring the copy to the folder, which holds no run yet; how many files. UserError: the store does not answer,
        or names a file outside of the folder."""
        names = sorted(self._there(), key=_rank)
        for name in names:
            path = self.folder / name
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise UserError(f"mirror={self.url} holds {name}, which leads out of the run's folder")
            with _store_errors(self._unreadable):
                content = self._store.cat_file(str(self._root / name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return len(names)

    def compare(self) -> None:
        """Learn what the copy has already. UserError: the store does not answer, or has what the folder lacks."""
        here, there = self._here(), self._there()
        if ahead := next((name for name in sorted(there.keys() - here.keys()) if _is_ahead(name, here)), None):
            words = "move the folder away to go on from the copy, or choose another mirror="
            raise UserError(f"mirror={self.url} is ahead of {self.folder}: it has {ahead}; {words}")
        for name, size in there.items():
            if name not in here:
                self._sent[name] = GONE
            elif here[name][0] == size and not _makes_whole(name):
                self._sent[name] = here[name]

    def send(self) -> None:
        """Copy what is new or has changed, remove what is gone. OSError: the store does not answer, or the folder is
        not there any more (whose copy is then left alone)."""
        here = self._here()
        if CONFIG in self._sent and CONFIG not in here:
            raise OSError(f"{self.folder} has lost its {CONFIG}")
        for name in sorted(self._sent.keys() - here.keys(), key=_rank, reverse=True):
            with _store_errors(OSError), suppress(FileNotFoundError):
                self._store.rm_file(str(self._root / name))
            del self._sent[name]
        missed: set[PurePosixPath] = set()  # folders in which a file went away while it was copied
        for name in sorted(here, key=_rank):
            parent = PurePosixPath(name).parent
            if self._sent.get(name) == here[name] or (_makes_whole(name) and parent in missed):
                continue
            try:
                content = (self.folder / name).read_bytes()
            except FileNotFoundError:
                missed.add(parent)
                continue
            if name.endswith(".jsonl"):
                content = content[: content.rfind(b"\n") + 1]  # a line that is being written comes next time
            self._put(name, content)
            self._sent[name] = here[name]

    def _here(self) -> dict[str, tuple[int, int]]:
        found = {}
        for place, folders, files in os.walk(self.folder):
            folders[:] = filter(_is_shared, folders)
            for path in (Path(place, file) for file in files if _is_shared(file)):
                with suppress(FileNotFoundError):  # of a checkpoint that has just been removed
                    facts = path.lstat()
                    if not path.is_symlink():
                        found[path.relative_to(self.folder).as_posix()] = (facts.st_size, facts.st_mtime_ns)
        return found

    def _there(self) -> dict[str, int]:
        """Sizes by name. UserError: the store does not answer. Not by `find`: to that, such a store is an empty one."""

        def skip(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        sizes = {}
        with _store_errors(self._unreadable):
            self._store.invalidate_cache()
            for _, _, files in self._store.walk(str(self._root), detail=True, on_error=skip):
                for file in (file for file in files.values() if file["type"] == "file"):
                    name = PurePosixPath(file["name"]).relative_to(self._root)
                    if all(map(_is_shared, name.parts)):
                        sizes[str(name)] = file["size"]
        return sizes

    def _put(self, name: str, content: bytes) -> None:
        """A file of an object store is there whole or not at all; elsewhere it is written beside its place."""
        path = self._root / name
        with _store_errors(OSError):
            if isinstance(self._store, LocalFileSystem):
                self._store.makedirs(str(path.parent), exist_ok=True)
                temporary = str(path.with_name(f".{path.name}.tmp"))
                self._store.pipe_file(temporary, content)
                self._store.mv(temporary, str(path))
            else:
                self._store.pipe_file(str(path), content)

    def _unreadable(self, why: str) -> UserError:
        return UserError(f"mirror={self.url} cannot be read ({why})")


def store_of(url: str) -> tuple[AbstractFileSystem, str]:
    """(the file system, the path in it) of an address. UserError: it is none, names no folder, or does not answer."""
    scheme, _, rest = url.partition("://")
    if not rest.strip("/"):
        raise UserError(f"mirror={url} is not allowed: {ALLOWED}")
    try:
        if scheme in BY_PYARROW:
            store, root = FileSystem.from_uri(url)
            return ArrowFSWrapper(store), root
        store, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"mirror={url} is not allowed: {ALLOWED} ({_first_line(error)})") from error
    except OSError as error:
        raise UserError(f"mirror={url} cannot be reached ({_first_line(error)})") from error
    return store, root


def mirror_of(values: dict[str, Any], given: Collection[str], folder: Path) -> str | None:
    """The address that was typed, if only to say null; else the one that the run in `folder` has."""
    typed: str | None = values["mirror"]
    if typed is not None or "mirror" in given:
        return typed
    try:
        before = read_json(folder / CONFIG).get("mirror")
    except (OSError, UserError):  # what is wrong with it, the command says
        return None
    return before if isinstance(before, str) else None


def fetch(folder: Path, url: str | None) -> None:
    """Bring a run here that only its copy has; not into a folder that holds anything. UserError: it cannot be read."""
    is_free = not folder.exists() or (folder.is_dir() and not any(_is_shared(path.name) for path in folder.iterdir()))
    if url is not None and is_free and (count := RemoteCopy(folder, url).fetch()):
        log.warning("%d files fetched from %s", count, url)


@contextmanager
def mirrored(folder: Path, url: str | None) -> Iterator[None]:
    """Keep a copy of `folder` at `url` while the block runs, and complete it at the end. None: nothing is copied.

    UserError: the store does not answer at the start, or is ahead. Failure: it does not answer at the end (a warning
    where the block has failed)."""
    if url is None:
        yield
        return
    copy = RemoteCopy(folder, url)
    copy.compare()
    copier = _Copier(copy)
    copier.start()
    try:
        yield
    except BaseException:
        if why := copier.finish(LEAVING_S):
            log.warning("mirror=%s is not complete (%s); the same command completes it", url, why)
        raise
    if why := copier.finish(PATIENCE_S):
        raise Failure(f"mirror={url} does not answer ({why}); all is in {folder}, the same command copies it later")


class _Copier(threading.Thread):
    """Sends until it is told to finish, and then until it has sent everything once more."""

    def __init__(self, copy: RemoteCopy) -> None:
        super().__init__(daemon=True)  # a store that hangs must not hold the process
        self._copy, self._why = copy, ""
        self._ending, self._done = threading.Event(), threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            ending = self._ending.wait(EVERY_S)
            try:
                self._copy.send()
            except OSError as error:
                if not self._why:
                    log.warning("mirror=%s: going on without a copy (%s)", self._copy.url, _first_line(error))
                self._why = _first_line(error)
                if ending:
                    time.sleep(PAUSE_S)
            else:
                self._why = ""
                if ending:
                    self._done.set()

    def finish(self, patience_s: float) -> str:
        """Complete the copy. Returns why not, or nothing."""
        self._ending.set()
        if self._done.wait(patience_s):
            return ""
        self._done.set()
        return self._why or f"no answer for {patience_s:g} s"


def _is_ahead(name: str, here: Collection[str]) -> bool:
    """Whether a file that only the copy has is one that no run removes: a newer checkpoint, records, a trial's end."""
    path = PurePosixPath(name)
    if f"{name}.damaged" in here:  # it was set aside
        return False
    if path.name == "state.json":
        states = [other for other in map(PurePosixPath, here) if other.name == path.name]
        own = (state.parent.name for state in states if state.parent.parent == path.parent.parent)
        return path.parent.name > max(own, default="")
    return path.name in ("end.json", "result.json") or path.parent.name == "records"


@contextmanager
def _store_errors(made: Callable[[str], Exception]) -> Iterator[None]:
    """Whatever a store's library raises is one kind of error."""
    try:
        yield
    except Exception as error:
        raise made(_first_line(error)) from error


def _is_shared(name: str) -> bool:
    return name not in LOCAL and not name.startswith(".") and not name.endswith(PARTIAL)


def _makes_whole(name: str) -> bool:
    return PurePosixPath(name).name in LAST


def _rank(name: str) -> tuple[int, str]:
    return (LAST.index(PurePosixPath(name).name) if _makes_whole(name) else -1, name)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
