"""What every task is: tokens on a grid, rules, symmetries, a generator.

N puzzles, L cells (tokens), row by row over `grid` = (rows, columns)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.tasks.keys import Words, hash_words
from eqr_ray.tasks.puzzles import Puzzles, Tokens

CHUNK = 64  # candidates between two looks at the fingerprints
DRY_LIMIT = 20_000  # candidates in a row without a new puzzle: the task has no more

ShowCount = Callable[[int, int], None]  # (done, wanted)
Candidate = tuple[Tokens, Tokens, int]  # puzzle (L,), answer (L,), rating


class Task(ABC):
    """A kind of puzzle. `vocabulary[i]` is the character of token i; index 0 is the padding token's place."""

    name: str
    vocabulary: str
    grid: tuple[int, int]
    aliases: ClassVar[dict[str, str]] = {}  # characters read as others

    @property
    def length(self) -> int:
        """L, the number of cells."""
        return self.grid[0] * self.grid[1]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, padding included."""
        return len(self.vocabulary)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def alphabet(self) -> bytes:
        """(256,) token of each Latin-1 character; 255 for one that no puzzle has."""
        table = bytearray(b"\xff" * 256)
        for token, character in enumerate(self.vocabulary[1:], start=1):
            table[ord(character)] = token
        for written, meant in self.aliases.items():
            table[ord(written)] = table[ord(meant)]
        return bytes(table)

    def encode(self, text: str) -> Tokens:
        """Tokens (L,) uint8 of a puzzle or an answer in one line. UserError: wrong length, unknown character."""
        if len(text) != self.length:
            raise UserError(f"{len(text)} characters where {self.name} has {self.length} cells")
        tokens = text.encode("latin-1", errors="replace").translate(self.alphabet)
        at = tokens.find(255)
        if at >= 0:
            allowed = self.vocabulary[1:] + "".join(self.aliases)
            raise UserError(f"character {text[at]!r} at position {at + 1}; {self.name} allows {allowed!r}")
        return np.frombuffer(tokens, dtype=np.uint8).copy()

    def decode(self, tokens: npt.ArrayLike) -> str:
        """One line of L characters; padding is '_'. UserError: wrong length, a token outside the vocabulary."""
        array = np.asarray(tokens)
        if array.shape != (self.length,):
            raise UserError(f"tokens of shape {array.shape} where {self.name} has ({self.length},)")
        if ((array < 0) | (array >= self.vocab_size)).any():
            raise UserError(f"a token outside 0..{self.vocab_size - 1} in a {self.name} puzzle")
        return "".join(self.vocabulary[token] for token in array.tolist())

    def check_puzzle(self, puzzle_tokens: npt.ArrayLike) -> str | None:
        """None for a well-formed puzzle (its solutions are not counted), otherwise what is wrong, in words."""
        puzzle_L = np.asarray(puzzle_tokens)
        return self._check_tokens(puzzle_L) or self._check_puzzle(puzzle_L.astype(np.uint8))

    def check(self, puzzle_tokens: npt.ArrayLike, answer_tokens: npt.ArrayLike) -> str | None:
        """None for a right answer to this puzzle, otherwise which rule it breaks and where. Needs no known answer."""
        puzzle_L, answer_L = np.asarray(puzzle_tokens), np.asarray(answer_tokens)
        reason = self._check_tokens(puzzle_L) or self._check_tokens(answer_L)
        return reason or self._check_answer(puzzle_L.astype(np.uint8), answer_L.astype(np.uint8))

    def _check_tokens(self, tokens: npt.NDArray[Any]) -> str | None:
        if tokens.shape != (self.length,):
            return f"{tokens.size} tokens where {self.name} has {self.length} cells"
        wrong = np.flatnonzero((tokens < 1) | (tokens >= self.vocab_size))
        if len(wrong):
            return f"token {tokens[wrong[0]]} at position {wrong[0] + 1} is none of 1..{self.vocab_size - 1}"
        return None

    def suspects(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> npt.NDArray[np.bool_]:
        """(N,) rows that `check_puzzle` or (with answers) `check` objects to. Subclasses make it fast."""
        if answers_NL is None:
            return np.array([self.check_puzzle(puzzle) is not None for puzzle in puzzles_NL], dtype=np.bool_)
        pairs = zip(puzzles_NL, answers_NL, strict=True)
        return np.array([bool(self.check_puzzle(one) or self.check(one, answer)) for one, answer in pairs], np.bool_)

    @abstractmethod
    def _check_puzzle(self, puzzle_L: Tokens) -> str | None: ...

    @abstractmethod
    def _check_answer(self, puzzle_L: Tokens, answer_L: Tokens) -> str | None: ...

    @abstractmethod
    def solve(self, puzzle_tokens: npt.ArrayLike, limit: int = 2) -> list[Tokens]:
        """Up to `limit` solutions, each (L,); two or more mean that the puzzle is not unique. UserError: no puzzle."""

    @abstractmethod
    def rate(self, puzzle_tokens: npt.ArrayLike) -> int:
        """Difficulty. Sudoku: guesses until the first solution; maze: steps of the shortest path."""

    @abstractmethod
    def fingerprint(self, puzzles_NL: Tokens, answers_NL: Tokens | None) -> Words:
        """(N,) uint64, equal for puzzles that a symmetry of the grid turns into each other (a collision only merges).
        With and without answers the values differ: compare like with like."""

    @abstractmethod
    def augment(self, puzzles_NL: Tokens, answers_NL: Tokens, keys_N: Words) -> tuple[Tokens, Tokens]:
        """Apply to row i the symmetry of the grid that keys_N[i] names. Returns (puzzles, answers), both (N, L)."""

    @abstractmethod
    def generate(self, count: int, seed: int, hard: bool = False, progress: ShowCount | None = None) -> Puzzles:
        """`count` puzzles with one solution each, no two equal up to symmetry, a function of (seed, hard) alone: the
        first `count` of an endless list. UserError: the task has not so many."""


def generate_unique(
    task: Task, count: int, seed: int, hard: bool, make: Callable[[Words], Candidate | None], progress: ShowCount | None
) -> Puzzles:
    """The first `count` puzzles of `make(hash_words(seed, i))`, i = 0, 1, ..., that differ up to symmetry.

    `make` returns None for a candidate that is not wanted. UserError: the task has not so many.
    """
    chosen: list[Candidate] = []
    seen: set[int] = set()
    dry, number = 0, 0
    while len(chosen) < count:
        size = min(CHUNK, count - len(chosen))
        keys = hash_words(seed, np.arange(number, number + size))
        candidates = [one for key in keys if (one := make(np.array([key], dtype=np.uint64))) is not None]
        number, dry = number + size, dry + size
        prints = task.fingerprint(*_tokens(candidates, task.length))
        for candidate, fingerprint in zip(candidates, prints.tolist(), strict=True):
            if fingerprint not in seen:
                seen.add(fingerprint)
                chosen.append(candidate)
                dry = 0
        if dry > DRY_LIMIT:
            found = f"found {len(chosen)} different puzzles up to symmetry"
            raise UserError(f"{task.name}: {found} where {count} were asked for")
        if progress is not None:
            progress(len(chosen), count)
    ratings = np.array([rating for _, _, rating in chosen], dtype=np.int32)
    sources = [f"generated seed={seed}{' hard' if hard else ''}"] * count
    return Puzzles(*_tokens(chosen, task.length), ratings, sources)


def _tokens(candidates: list[Candidate], length: int) -> tuple[Tokens, Tokens]:
    """(puzzles, answers), both (N, L)."""
    pairs = np.array([candidate[:2] for candidate in candidates], dtype=np.uint8).reshape(-1, 2, length)
    return pairs[:, 0].copy(), pairs[:, 1].copy()
