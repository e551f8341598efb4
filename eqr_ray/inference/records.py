"""Records: what is kept of every trajectory, in memory and in Parquet.

One part file per work unit, rows in the order (puzzle, restart, segments), so that equal runs give equal files. The
only place of the package's answering that knows Arrow.

    N rows, L tokens
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eqr_ray.config.errors import UserError
from eqr_ray.storage.atomic import atomic

Tokens = npt.NDArray[np.uint8]

HASH = b"records_hash"  # in a part's metadata

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
    prediction: Tokens
    status: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.puzzle)

    def take(self, rows: npt.NDArray[np.generic]) -> Records:
        """The rows of a mask (N,) bool or of row numbers."""
        return Records(**{name: column[rows] for name, column in vars(self).items()})

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


_PLAIN = [f.name for f in dataclasses.fields(Records) if f.name not in ("status", "prediction")]  # columns of numbers


def concatenate(parts: Sequence[Records]) -> Records:
    """Rows of all parts, in the order given; at least one part. One without rows may not know L."""
    columns = [vars(part) for part in parts if len(part)] or [vars(parts[0])]
    return Records(**{name: np.concatenate([part[name] for part in columns]) for name in columns[0]})


def no_records(length: int) -> Records:
    """No row, of puzzles with L = `length` tokens."""
    whole, none = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
    settled, prediction, status = (np.zeros(shape, dtype=np.uint8) for shape in (0, (0, length), 0))
    return Records(whole.astype(np.int64), whole, whole, settled.astype(np.bool_), none, none, none, prediction, status)


def is_answered(labels_NL: Tokens) -> npt.NDArray[np.bool_]:
    """(N,) whether there is an answer to compare with."""
    return np.asarray((labels_NL != 0).any(axis=1))


def is_exact(prediction_NL: Tokens, labels_NL: Tokens) -> npt.NDArray[np.bool_]:
    """(N,) every position right; token 0 in the labels is padding and not asked for."""
    return np.asarray(((prediction_NL == labels_NL) | (labels_NL == 0)).all(axis=1))


def write_part(path: Path, rows: Records, seed: int, labels_NL: Tokens | None) -> None:
    """One Parquet file, atomically. `labels_NL` (N, L): the right answer of each row's puzzle, None without answers."""
    exact = pa.nulls(len(rows), pa.bool_())
    if labels_NL is not None:
        exact = pa.array(is_exact(rows.prediction, labels_NL), mask=~is_answered(labels_NL))
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.prediction.shape[1]
    columns = {
        "puzzle": rows.puzzle,
        "restart": rows.restart,
        "seed": np.full(len(rows), seed, dtype=np.int64),
        **{name: getattr(rows, name) for name in _PLAIN[2:]},
        "prediction": pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.prediction.reshape(-1))),
        "exact": exact,
        "status": pa.DictionaryArray.from_arrays(pa.array(rows.status.astype(np.int8)), pa.array(STATUSES)),
    }
    table = pa.table(columns).replace_schema_metadata({HASH: _hash(rows)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_part(path: Path) -> Records:
    """The inverse of `write_part`. UserError: a damaged or foreign file, named."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        status = table.column("status").cast(pa.string()).to_pylist()
        prediction = table.column("prediction").combine_chunks().flatten().to_numpy()
        rows = Records(
            status=np.array([STATUSES.index(name) for name in status], dtype=np.uint8),
            prediction=prediction.reshape(len(table), -1 if len(table) else 0),
            **{name: table.column(name).to_numpy() for name in _PLAIN},
        )
        if (table.schema.metadata or {}).get(HASH) != _hash(rows):
            raise ValueError("their content has another hash")
        return rows
    except (pa.ArrowException, KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a part of this program's records: {error}; without it, the same command runs it again"
        ) from error


def _hash(rows: Records) -> bytes:
    """Of types, shapes and values. Pages have their own checksums, but not what says how to read them."""
    digest = hashlib.sha256()
    for name, column in vars(rows).items():
        digest.update(f"{name} {column.dtype} {column.shape if len(column) else 0}".encode())
        digest.update(column.tobytes())
    return digest.hexdigest().encode()


@contextmanager
def growing_table(path: Path, schema: Mapping[str, str]) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """A function that appends rows to a Parquet file, which appears when it is complete. `schema`: column -> Arrow type
    by name ("int64", "string", ...); what a row does not have is null."""
    columns = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in schema.items()])
    with atomic(path) as temporary, pq.ParquetWriter(temporary, columns, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=columns))
