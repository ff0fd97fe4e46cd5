"""The journal: lines that survive the process, and what becomes of damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blackbox.errors import JournalError
from blackbox.journal import Journal

HEADER = {"kind": "header", "schema": 1}


def written(folder: Path, lines: int = 3) -> Path:
    journal = Journal(folder)
    journal.append(HEADER)
    for step in range(lines):
        journal.append({"kind": "stepped", "step": step})
    journal.close()
    return journal.path


def reopened(folder: Path) -> list[dict[str, object]]:
    journal = Journal(folder)
    journal.close()
    return journal.records


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    written(tmp_path)
    assert reopened(tmp_path) == [HEADER, *({"kind": "stepped", "step": step} for step in range(3))]


def test_a_line_is_in_the_file_once_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(HEADER)
    assert json.loads(journal.path.read_text()) == HEADER
    journal.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_cut_off_and_written_over(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    journal = Journal(tmp_path)
    assert len(journal.records) == 3
    journal.append({"kind": "stepped", "step": 9})
    journal.close()
    assert reopened(tmp_path)[-1] == {"kind": "stepped", "step": 9}


def test_a_journal_torn_in_its_header_is_empty(tmp_path: Path) -> None:
    path = written(tmp_path, 0)
    os.truncate(path, 10)
    assert reopened(tmp_path) == []


@pytest.mark.parametrize("damage", [b'{"kind": \n', b"\xff\xfe\n", b"7\n", b"\n", b"{}\n"])
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, damage: bytes) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    with pytest.raises(JournalError, match=r"journal.jsonl, line 3, is damaged"):
        Journal(tmp_path)


def test_another_schema_and_a_missing_header_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text('{"kind":"header","schema":99}\n')
    with pytest.raises(JournalError, match="has schema 99; this version of blackbox reads 1"):
        Journal(tmp_path)
    path.write_text('{"kind":"stepped"}\n')
    with pytest.raises(JournalError, match="no header"):
        Journal(tmp_path)


def test_numbers_that_are_not_json_are_refused_and_leave_no_trace(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(HEADER)
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"kind": "evaluated", "metrics": {"loss": float("nan")}})
    journal.close()
    assert reopened(tmp_path) == [HEADER]


@pytest.mark.parametrize("shape", [(1,), (32,), (33,), (4, 100)])
def test_arrays_come_back_bit_for_bit_and_only_long_ones_leave_the_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    journal = Journal(tmp_path)
    array = np.random.default_rng(0).standard_normal(shape) * 1e-300
    array.flat[0] = -0.0
    packed = json.loads(json.dumps(journal.pack(array)))
    assert isinstance(packed, dict) == (array.size > 32)
    assert journal.unpack(packed).tobytes() == array.tobytes()
    assert journal.unpack(packed).shape == shape
    journal.close()


def test_many_arrays_share_the_sidecar(tmp_path: Path) -> None:
    arrays = [np.full(70 + i, float(i)) for i in range(5)]
    journal = Journal(tmp_path)
    packed = [journal.pack(array) for array in arrays[:3]]
    journal.close()
    journal = Journal(tmp_path)
    packed += [journal.pack(array) for array in arrays[3:]]
    for array, one in zip(arrays, packed, strict=True):
        np.testing.assert_array_equal(journal.unpack(one), array)
    journal.close()


@pytest.mark.parametrize("damage", ["changed", "short"])
def test_a_damaged_sidecar_is_refused(tmp_path: Path, damage: str) -> None:
    journal = Journal(tmp_path)
    packed = journal.pack(np.arange(100.0))
    sidecar = tmp_path / "arrays.bin"
    data = bytearray(sidecar.read_bytes())
    data[123] ^= 1
    sidecar.write_bytes(bytes(data) if damage == "changed" else bytes(data[:-8]))
    with pytest.raises(JournalError, match=r"arrays.bin is damaged at byte 0"):
        journal.unpack(packed)
    journal.close()


def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    program = f"from blackbox.journal import Journal; Journal({str(tmp_path)!r})"
    journal = Journal(tmp_path)
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "is in use by another process" in refused.stderr
    with pytest.raises(JournalError, match="is in use"):
        Journal(tmp_path)
    journal.close()
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_forked_worker_does_not_keep_the_folder_of_its_parent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    release, hold = os.pipe()
    begun, begins = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(hold)
        os.write(begins, b".")
        os.read(release, 1)
        os._exit(0)
    os.read(begun, 1)
    journal._lock.close()  # as the parent's death would
    journal._file.close()
    reopened(tmp_path)
    for end in (hold, release, begun, begins):
        os.close(end)
    os.waitpid(worker, 0)
