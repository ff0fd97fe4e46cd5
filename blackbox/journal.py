"""The journal of a run: an append-only file of JSON lines, from which the run can be replayed.

A line is written and flushed before it is acted on, so what was answered survives the death of the process; human
answers and checkpoints are also forced to the disk. Arrays of more than 64 entries go to a sidecar file of raw
little-endian numbers, with a checksum in the line that refers to them. One process at a time holds a run's folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from blackbox.errors import JournalError

SCHEMA = 1
_INLINE = 64

Record = dict[str, Any]


class Journal:
    """One run's journal.

    Args:
        folder: the run's folder; made if absent.

    Attributes:
        records: what the file held when it was opened; a torn last line is cut off.

    Raises:
        JournalError: another process holds the folder, or the file is damaged before its last line.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "journal.jsonl"
        self._arrays = self.folder / "arrays.bin"
        self._lock = self._take_lock()
        self.records = self._read()
        self._file: TextIO = self.path.open("a", encoding="utf-8")

    def append(self, record: Record, durable: bool = False) -> None:
        """Write one line and flush it; ``durable`` also waits for the disk."""
        # A record of plain numbers and strings; NaN would not be JSON, so it is refused.
        self._file.write(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def pack(self, array: npt.NDArray[np.float64]) -> Any:
        """A JSON value for a float64 array: a (nested) list if short, else a reference into the sidecar."""
        if array.size <= _INLINE:
            return array.tolist()
        data = np.ascontiguousarray(array, dtype="<f8").tobytes()
        with self._arrays.open("ab") as sidecar:
            offset = sidecar.tell()
            sidecar.write(data)
        return {"offset": offset, "shape": list(array.shape), "crc32": zlib.crc32(data)}

    def unpack(self, packed: Any) -> npt.NDArray[np.float64]:
        """The array that ``pack`` was given, bit for bit."""
        if not isinstance(packed, dict):
            return np.array(packed, dtype=np.float64)
        count = int(np.prod(packed["shape"]))
        with self._arrays.open("rb") as sidecar:
            sidecar.seek(packed["offset"])
            data = sidecar.read(8 * count)
        if zlib.crc32(data) != packed["crc32"]:
            raise JournalError(f"{self._arrays} is damaged at byte {packed['offset']}: the checksum differs.")
        return np.frombuffer(data, dtype="<f8").reshape(packed["shape"]).astype(np.float64)

    def close(self) -> None:
        """Close the file and let the folder go."""
        self._file.close()
        self._lock.close()

    def _take_lock(self) -> TextIO:
        lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise JournalError(
                f"{self.folder} is in use by another process. Wait for it, or give this run another name."
            ) from error
        return lock

    def _read(self) -> list[Record]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # the process died while writing its last line
            with self.path.open("r+b") as file:
                file.truncate(whole)
        records = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise JournalError(f"{self.path}, line {number}, is damaged: {error}.") from error
        if records and records[0].get("schema") != SCHEMA:
            raise JournalError(
                f"{self.path} has schema {records[0].get('schema')}; this version of blackbox reads {SCHEMA}."
            )
        return records
