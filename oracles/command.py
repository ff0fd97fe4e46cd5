"""A program as an oracle: candidates go in as JSON on its standard input, values or orders come out.

What is said is in ``oracles.remote``. No shell is involved: the command is a list of arguments. A program is started
for each batch and reads its input to the end; or, ``persistent``, it lives as long as the run and answers a line by a
line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Literal

from blackbox.errors import UserError
from oracles.remote import Price, RemoteOracle
from oracles.replies import Nonsense, Reply, decoded, encoded, shown

_TAIL = 5  # lines of a program's complaints that are told


class Crashed(Exception):
    """The program ended in another way than it should have."""


class TooSlow(Exception):
    """The program gave no answer in time and was killed."""


class CommandTransport:
    """Runs a program, or talks to one.

    Args:
        command: the program and its arguments, as a list. ``python`` stands for the interpreter that runs blackbox; a
            Python file that isn't in the folder is looked for where import paths are: beside the configuration.
        persistent: keep the program and send a line a request; it is started again after it crashed.
        timeout: seconds that an answer may take.
        concurrency: programs that run at once at most; 1 if persistent.
        folder: where the program runs; the current folder if left out.
        environment: variables added to those of this process. They are saved with the run: secrets belong into the
            environment itself, which the program inherits.

    Raises:
        UserError: a Python file or folder that isn't there, numbers out of range. That another program isn't there
            shows when it is asked.
    """

    def __init__(
        self,
        command: Sequence[str],
        persistent: bool = False,
        timeout: float = 60.0,
        concurrency: int = 1,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(command, str) or not command:
            raise UserError("command is a list of the program and its arguments, such as [python, my_program.py].")
        if not all(isinstance(word, str) for word in command):
            raise UserError(f"command is a list of words, not {list(command)}; put numbers in quotes.")
        if not all(isinstance(value, str) for value in (environment or {}).values()):
            raise UserError("environment: values are words; put numbers in quotes.")
        if not timeout > 0 or concurrency < 1:
            raise UserError(f"timeout and concurrency must be positive, not {timeout} and {concurrency}.")
        if persistent and concurrency > 1:
            raise UserError("concurrency: a persistent program answers one request after the other; leave it at 1.")
        self.folder = Path(folder or ".").expanduser()
        if not self.folder.is_dir():
            raise UserError(f"folder: there is no folder {folder}.")
        self.command = [_found(word, self.folder) for word in command]
        self.persistent = persistent
        self.timeout = timeout
        self.concurrency = concurrency
        self.environment = dict(environment or {})
        self._lock = threading.Lock()
        self._lines: _Lines | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def open(self) -> None:
        """Nothing to look for: the program's mistakes show when it is asked."""
        self._closed = False

    def send(self, message: object) -> Reply:
        """The program's answer to one JSON value."""
        try:
            data = encoded(message)
        except ValueError as error:
            return Reply(error=error, attempts=0)
        try:
            return Reply(decoded(self._by_line(data) if self.persistent else self._by_process(data)))
        except Exception as error:
            return Reply(error=error)

    def close(self) -> None:
        """Kills what is running."""
        self._closed = True
        for process in list(self._running):
            _kill(process)
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.end()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise InterruptedError("the run has ended")
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                start_new_session=True,  # so that what it starts dies with it
            )
        except (OSError, ValueError) as error:
            raise Crashed(f"{self.command[0]} can't be started: {error}") from None

    def _by_process(self, data: bytes) -> bytes:
        process = self._start()
        self._running.add(process)
        if self._closed:  # meanwhile
            _kill(process)
        try:
            out, complaints = process.communicate(data, self.timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            _, complaints = process.communicate()
            raise TooSlow(f"no answer within {self.timeout:g} s; killed{_last(complaints)}") from None
        except BaseException:
            _kill(process)
            raise
        finally:
            self._running.discard(process)
        if process.returncode:
            raise Crashed(f"{_ending(process.returncode)}{_last(complaints)}")
        return out

    def _by_line(self, data: bytes) -> bytes:
        with self._lock:
            if self._lines is not None and self._lines.over:  # it ended after its last answer
                self._lines.end()
                self._lines = None
            lines = self._lines = self._lines or _Lines(self._start())
            try:
                if self._closed:  # meanwhile
                    raise InterruptedError("the run has ended")
                return lines.ask(data, self.timeout)
            except Exception:
                self._lines = None  # the next request starts it anew
                lines.end()
                raise


class _Lines:
    """A living program that answers a line by a line. Its complaints are read as they come, so that it never blocks."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.over = False
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        self._complaints: deque[bytes] = deque(maxlen=_TAIL)
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout,), daemon=True, name="oracle's answers"),
            threading.Thread(target=self._listen, args=(process.stderr,), daemon=True, name="oracle's complaints"),
        ]
        for reader in self._readers:
            reader.start()

    def ask(self, data: bytes, timeout: float) -> bytes:
        if not self._answers.empty() and (line := self._answers.get()) is not None:
            raise Nonsense(f"it said more than one line for a request: {shown(line.decode())}")
        if self.over:
            self._answers.put(None)  # it has ended before it was asked
        # Written aside: a program that reads nothing would block the writer for ever once the pipe is full.
        writer = threading.Thread(target=self._write, args=(data,), daemon=True, name="oracle's questions")
        writer.start()
        try:
            answer = self._answers.get(timeout=timeout)
        except Empty:
            self.end()
            raise TooSlow(f"no answer within {timeout:g} s; killed{_last(b''.join(self._complaints))}") from None
        if answer is None:
            _kill(self.process)
            code = self.process.wait()
            self._readers[1].join(1.0)
            raise Crashed(f"{_ending(code)} instead of answering{_last(b''.join(self._complaints))}")
        return answer

    def end(self) -> None:
        _kill(self.process)
        self.process.wait()
        for reader in self._readers:
            reader.join(1.0)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(OSError, ValueError):
                    pipe.close()

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # it is dead: no answer will come, which says so
            self.process.stdin.write(data + b"\n")
            self.process.stdin.flush()

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._answers.put(line)
        self.over = True
        self._answers.put(None)

    def _listen(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._complaints.append(line)


class CommandOracle(RemoteOracle):
    """Values or orders from a program.

    Args:
        command, persistent, timeout, concurrency, folder, environment: as for CommandTransport.
        answers: "value" or "ranking".
        batch: candidates that one question holds at most; all that share a context if left out.
        price_per_query: what a candidate costs, for a program that asks a service; ``budget.money`` bounds the sum.
    """

    def __init__(
        self,
        command: Sequence[str],
        answers: Literal["value", "ranking"] = "value",
        persistent: bool = False,
        batch: int | None = None,
        timeout: float = 60.0,
        concurrency: int = 1,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
        price_per_query: float = 0.0,
    ) -> None:
        transport = CommandTransport(command, persistent, timeout, concurrency, folder, environment)
        super().__init__(transport, answers, batch, Price(price_per_query))


def _found(word: str, folder: Path) -> str:
    """See ``CommandTransport``: command."""
    if word == "python":
        return sys.executable
    if word.endswith(".py") and not word.startswith("-") and "=" not in word and not (folder / word).exists():
        for place in sys.path:
            if (Path(place) / word).is_file():
                return str((Path(place) / word).resolve())
        raise UserError(f"command: {word} lies neither in {folder.resolve()} nor beside the configuration.")
    return word


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"the program ended with exit code {code}"
    try:
        return f"the program was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the program was ended by signal {-code}"


def _last(complaints: bytes) -> str:
    """The end of what a program wrote to standard error."""
    lines = complaints.decode(errors="replace").strip().splitlines()[-_TAIL:]
    return f"; it said {shown(' | '.join(lines)[-300:], 300)}" if lines else ""
