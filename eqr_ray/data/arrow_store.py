"""One Arrow IPC file per split: written at once or not at all, read through a memory map by every worker.

columns   inputs, labels (fixed-size lists of uint8; labels absent without answers), rating int32,
          source (dictionary of strings), fingerprint uint64
metadata  task, vocabulary, length, source, seed, content_hash
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eqr_ray.config.errors import UserError
from eqr_ray.storage.atomic import atomic
from eqr_ray.tasks import Puzzles, Task, task_named
from eqr_ray.tasks.keys import Words
from eqr_ray.tasks.puzzles import Tokens

FORMAT = "eqr_ray.split.1"


def content_hash(task: Task, inputs_NL: Tokens, labels_NL: Tokens | None) -> str:
    """SHA-256 over the task's name, the number of puzzles, the tokens of all puzzles and then of all answers."""
    digest = hashlib.sha256(f"{task.name} {len(inputs_NL)} {labels_NL is not None}\n".encode())
    for tokens in (inputs_NL,) if labels_NL is None else (inputs_NL, labels_NL):
        digest.update(np.ascontiguousarray(tokens).data)
    return digest.hexdigest()


def write_split(path: Path, task: Task, puzzles: Puzzles, *, source: str, seed: int) -> str:
    """Write `puzzles` to `path` (a temporary file beside it, fsync, rename). Returns the content hash."""
    hashed = content_hash(task, puzzles.inputs, puzzles.labels)
    columns: dict[str, pa.Array] = {"inputs": _token_lists(puzzles.inputs)}
    if puzzles.labels is not None:
        columns["labels"] = _token_lists(puzzles.labels)
    columns["rating"] = pa.array(puzzles.ratings, pa.int32())
    columns["source"] = pa.array(list(puzzles.sources), pa.string()).dictionary_encode()
    columns["fingerprint"] = pa.array(task.fingerprint(puzzles.inputs, puzzles.labels), pa.uint64())
    metadata = {"format": FORMAT, "task": task.name, "vocabulary": task.vocabulary, "length": str(task.length)}
    metadata |= {"source": source, "seed": str(seed), "content_hash": hashed}
    batch = pa.record_batch(columns, metadata=metadata)
    with atomic(path) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return hashed


def _token_lists(tokens_NL: Tokens) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(tokens_NL).reshape(-1), pa.uint8())
    return pa.FixedSizeListArray.from_arrays(flat, tokens_NL.shape[1])


class Split:
    """An opened split. `inputs`, `labels` (N, L) uint8, read-only views of the mapped file; labels None without
    answers. Pickles as its path, so that it can be sent to another process."""

    def __init__(self, path: Path, task: Task, metadata: dict[str, str], batch: pa.RecordBatch) -> None:
        self.path, self.task, self.metadata = path, task, metadata
        self.task_name = task.name
        self.content_hash = metadata["content_hash"]
        self.inputs: Tokens = _view(batch.column("inputs"), task.length)
        has_labels = "labels" in batch.schema.names
        self.labels: Tokens | None = _view(batch.column("labels"), task.length) if has_labels else None
        self.ratings: npt.NDArray[np.int32] = batch.column("rating").to_numpy()
        self.fingerprints: Words = batch.column("fingerprint").to_numpy()
        self._sources = batch.column("source")

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> Split:
        """Map the file. `verify` reads all of it and compares the hash. UserError: missing, damaged or foreign file."""
        path = Path(path)
        try:
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
                metadata = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
                batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not an Arrow file, or damaged ({str(error).splitlines()[0]})") from error
        if metadata.get("format") != FORMAT or len(batches) != 1:
            raise UserError(f"{path}: an Arrow file, but no split written by prepare")
        try:
            batches[0].validate(full=verify)
            split = cls(path, task_named(metadata["task"]), metadata, batches[0])
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise UserError(f"{path}: damaged split ({str(error).splitlines()[0]})") from error
        if metadata["vocabulary"] != split.task.vocabulary or metadata["length"] != str(split.task.length):
            raise UserError(f"{path}: its tokens are not those of {split.task_name}")
        if verify and content_hash(split.task, split.inputs, split.labels) != split.content_hash:
            raise UserError(f"{path}: damaged, its tokens do not have the hash {split.content_hash[:12]}")
        return split

    def __len__(self) -> int:
        return len(self.inputs)

    def __reduce__(self) -> tuple[Callable[[Path], Split], tuple[Path]]:
        return Split.open, (self.path,)

    def puzzles(self) -> Puzzles:
        """The same as a value; the tokens stay views."""
        return Puzzles(self.inputs, self.labels, self.ratings, self._sources.to_pylist())


def _view(column: pa.FixedSizeListArray, length: int) -> Tokens:
    view: Tokens = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, length)
    if len(view) != len(column):
        raise ValueError(f"{len(column)} rows of tokens make {len(view)} puzzles of {length} cells")
    return view
