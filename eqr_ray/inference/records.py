"""Records: what is kept of every trajectory, in memory and in Parquet.

One part file per work unit, rows in the order (puzzle, restart, segments), so that equal runs give equal files. The
only place of the package's answering that knows Arrow.

    N rows, L tokens
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eqr_ray.config.errors import UserError
from eqr_ray.storage.atomic import atomic

HASH = b"records_hash"  # in a part's metadata; older parts have none

# running: a snapshot on the way; depth: ended at the depth asked for; diverged: the state is not finite; accepted: the
# task's rules accept the answer; pruned: could not win any more, or the budget was spent; cancelled: another restart
# was first, the row tells what was spent and has no answer
STATUSES = ("running", "depth", "settled", "halted", "diverged", "accepted", "pruned", "cancelled")
RUNNING, DEPTH, SETTLED, HALTED, DIVERGED, ACCEPTED, PRUNED, CANCELLED = range(len(STATUSES))


@dataclass(frozen=True)
class Records:
    """Trajectories as columns. `puzzle` (N,) row number in the data; `segments` done when recorded; `prediction` (N,
    L); `status` index into STATUSES. Residuals are `inf` where there is none (logit residual before the second
    segment)."""

    puzzle: npt.NDArray[np.int64]
    restart: npt.NDArray[np.int32]
    segments: npt.NDArray[np.int32]
    settled: npt.NDArray[np.bool_]
    logit_residual: npt.NDArray[np.float32]
    latent_residual: npt.NDArray[np.float32]
    halt_logit: npt.NDArray[np.float32]
    prediction: npt.NDArray[np.uint8]
    status: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.puzzle)

    def take(self, rows: npt.NDArray[np.generic]) -> Records:
        """The rows of a mask (N,) bool or of row numbers."""
        return Records(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def in_order(self) -> Records:
        """Sorted by (puzzle, restart, segments)."""
        return self.take(np.lexsort((self.segments, self.restart, self.puzzle)))

    def last_at(self, depth: int, breadth: int) -> npt.NDArray[np.int64]:
        """Row numbers of the last row of every (puzzle, restart) with at most `depth` segments, restarts below
        `breadth`; for ordered rows. So a run with snapshots also tells what a shallower or narrower one had
        answered."""
        at = np.flatnonzero((self.segments <= depth) & (self.restart < breadth))
        last = np.ones(len(at), dtype=np.bool_)
        last[:-1] = (np.diff(self.puzzle[at]) != 0) | (np.diff(self.restart[at]) != 0)
        return at[last]


def concatenate(parts: Sequence[Records]) -> Records:
    """Rows of all parts, in the order given; at least one part. One without rows may not know L."""
    parts = [part for part in parts if len(part)] or parts[:1]
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Records)
    }
    return Records(**columns)


def no_records(length: int) -> Records:
    """No row, of puzzles with L = `length` tokens."""
    none = np.zeros(0, dtype=np.float32)
    whole = np.zeros(0, dtype=np.int32)
    return Records(
        puzzle=np.zeros(0, dtype=np.int64),
        restart=whole,
        segments=whole,
        settled=np.zeros(0, dtype=np.bool_),
        logit_residual=none,
        latent_residual=none,
        halt_logit=none,
        prediction=np.zeros((0, length), dtype=np.uint8),
        status=np.zeros(0, dtype=np.uint8),
    )


def up_to_first(rows: Records, status: str) -> Records:
    """Of each puzzle, the restarts up to the first that ended with `status`; what was run ahead of that is left out."""
    ended = np.flatnonzero(rows.status == STATUSES.index(status))
    order = ended[np.lexsort((rows.restart[ended], rows.puzzle[ended]))]
    puzzles, at = np.unique(rows.puzzle[order], return_index=True)
    if len(puzzles) == 0:
        return rows
    place = np.searchsorted(puzzles, rows.puzzle).clip(max=len(puzzles) - 1)
    later = (puzzles[place] == rows.puzzle) & (rows.restart > rows.restart[order[at]][place])
    return rows.take(~later)


def first_to_settle(rows: Records) -> Records:
    """What is kept of restarts that ran side by side, one row each: of a puzzle that has settled rows, the one of
    fewest segments, then of least number, as it is; the others as cancelled after as many segments. Ordered rows."""
    settled = np.flatnonzero(rows.status == SETTLED)
    order = settled[np.lexsort((rows.restart[settled], rows.segments[settled], rows.puzzle[settled]))]
    puzzles, at = np.unique(rows.puzzle[order], return_index=True)
    if len(puzzles) == 0:
        return rows
    place = np.searchsorted(puzzles, rows.puzzle).clip(max=len(puzzles) - 1)
    cancelled = puzzles[place] == rows.puzzle
    winners = order[at]
    segments = rows.segments[winners][place]
    cancelled[winners] = False
    none = np.float32(np.inf)
    return dataclasses.replace(
        rows,
        segments=np.where(cancelled, segments, rows.segments).astype(np.int32),
        settled=rows.settled & ~cancelled,
        logit_residual=np.where(cancelled, none, rows.logit_residual),
        latent_residual=np.where(cancelled, none, rows.latent_residual),
        halt_logit=np.where(cancelled, -none, rows.halt_logit),
        prediction=np.where(cancelled[:, None], np.uint8(0), rows.prediction),
        status=np.where(cancelled, np.uint8(CANCELLED), rows.status),
    )


def is_answered(labels_NL: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(N,) whether there is an answer to compare with."""
    return np.asarray((labels_NL != 0).any(axis=1))


def is_exact(prediction_NL: npt.NDArray[np.uint8], labels_NL: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(N,) every position right; token 0 in the labels is padding and not asked for."""
    return np.asarray(((prediction_NL == labels_NL) | (labels_NL == 0)).all(axis=1))


def write_part(path: Path, rows: Records, seed: int, labels_NL: npt.NDArray[np.uint8] | None) -> None:
    """One Parquet file, atomically. `labels_NL` (N, L): the right answer of each row's puzzle, None without answers."""
    exact = pa.nulls(len(rows), pa.bool_())
    if labels_NL is not None:
        exact = pa.array(is_exact(rows.prediction, labels_NL), mask=~is_answered(labels_NL))
    table = pa.table(
        {
            "puzzle": rows.puzzle,
            "restart": rows.restart,
            "seed": np.full(len(rows), seed, dtype=np.int64),
            "segments": rows.segments,
            "settled": rows.settled,
            "logit_residual": rows.logit_residual,
            "latent_residual": rows.latent_residual,
            "halt_logit": rows.halt_logit,
            "prediction": _lists(rows.prediction),
            "exact": exact,
            "status": pa.DictionaryArray.from_arrays(pa.array(rows.status.astype(np.int8)), pa.array(STATUSES)),
        }
    )
    table = table.replace_schema_metadata({HASH: _hash(rows)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_part(path: Path) -> Records:
    """The inverse of `write_part`. UserError: a damaged or foreign file, named."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        status = table.column("status").cast(pa.string()).to_pylist()
        prediction = table.column("prediction").combine_chunks()
        rows = Records(
            status=np.array([STATUSES.index(name) for name in status], dtype=np.uint8),
            prediction=prediction.flatten().to_numpy().reshape(len(table), -1 if len(table) else 0),
            **{name: table.column(name).to_numpy() for name in Records.__dataclass_fields__ if name not in _OWN_FORM},
        )
        stored = (table.schema.metadata or {}).get(HASH)
        if stored is not None and stored != _hash(rows):
            raise ValueError("their content has another hash")
        return rows
    except (pa.ArrowException, KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a part of this program's records: {error}; without it, the same command runs it again"
        ) from error


_OWN_FORM = ("status", "prediction")  # columns that are not plain numbers


def _hash(rows: Records) -> bytes:
    """Of types, shapes and values. Pages have their own checksums, but not what says how to read them."""
    digest = hashlib.sha256()
    for name, column in vars(rows).items():
        digest.update(f"{name} {column.dtype} {column.shape if len(column) else 0}".encode())
        digest.update(column.tobytes())
    return digest.hexdigest().encode()


def _lists(prediction_NL: npt.NDArray[np.uint8]) -> pa.Array:
    rows, length = prediction_NL.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * length
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(prediction_NL.reshape(-1)))


class TableWriter:
    """A Parquet file that grows by row groups and appears when it is complete."""

    def __init__(self, path: Path, schema: Mapping[str, str]) -> None:
        """`schema`: column -> Arrow type by name ("int64", "string", ...); every column may hold nulls."""
        self._schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in schema.items()])
        self._atomic = atomic(path)

    def __enter__(self) -> TableWriter:
        self._writer = pq.ParquetWriter(self._atomic.__enter__(), self._schema, compression="zstd")
        return self

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append rows, one list per column."""
        self._writer.write_table(pa.table(dict(columns), schema=self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._atomic.__exit__(kind, error, trace)
