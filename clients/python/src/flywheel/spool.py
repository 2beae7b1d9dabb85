"""Events that wait in a file: appended at the end, taken from the front, kept over restarts."""
import os
import shutil
from typing import IO, List

#: What is acknowledged is cut off the file once it is this much, and at least as much as still waits.
CUT_FROM_BYTES = 4 << 20


class Spool:
    """One event a line. `path` holds the events, `path.done` how many bytes of it are acknowledged.

    A line without its newline was torn by a crash and is cut off. If the process dies between an acknowledgement and the
    note of it, events are sent again, which the server recognises.

    What waits is bounded by `limit_bytes`. The file is that and a quarter at most: what is acknowledged lies in front until
    it is worth copying the rest away from it.
    """

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._done = 0
        self._cut_from = CUT_FROM_BYTES
        # What `peek` gave last lies where it lay.
        self._in_place = True
        self._file: IO[bytes] = open(path, "a+b")
        try:
            self._lock()
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"the spool `{self._path}` is in use by another emitter; give each its own file") from error

    def _recover(self) -> None:
        # What was read ahead may be gone.
        self._file.flush()
        self._size = os.path.getsize(self._path)
        end = self._size
        while end > 0:
            start = max(0, end - (64 << 10))
            self._file.seek(start)
            at = self._file.read(end - start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        if end < self._size:
            self._file.truncate(end)
            self._size = end
        try:
            with open(self._path + ".done", encoding="ascii") as note:
                done = int(note.read())
        except (OSError, ValueError):
            done = 0
        self._done = done
        if not self._ends_a_line(done):
            # A note of another file. It must not be believed later either, when this file has grown.
            self._done = 0
            self._note()

    def _ends_a_line(self, at: int) -> bool:
        if at <= 0 or at > self._size:
            return at == 0
        self._file.seek(at - 1)
        return self._file.read(1) == b"\n"

    @property
    def pending_bytes(self) -> int:
        return self._size - self._done

    def append(self, lines: List[bytes]) -> bool:
        """Writes all `lines` or none; a full spool or disk takes none."""
        data = b"".join(line + b"\n" for line in lines)
        try:
            self._look()
        except OSError:
            return False
        if self.pending_bytes + len(data) > self._limit:
            return False
        # Then a quarter of the limit is acknowledged, so that events are copied at most four times.
        if self._size + len(data) > self._limit + self._limit // 4 and not self._cut_front(b""):
            return False
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            # A buffered writer may still hold a part; start over from what is known to be whole.
            self._reopen()
            return False
        self._size += len(data)
        return True

    def prepend(self, lines: List[bytes]) -> bool:
        """Puts lines before all others, or nothing; for events that are older than what is spooled."""
        data = b"".join(line + b"\n" for line in lines)
        try:
            self._look()
        except OSError:
            return False
        return self.pending_bytes + len(data) <= self._limit and self._cut_front(data)

    def _reopen(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass
        self._file = open(self._path, "a+b")
        self._lock()
        self._file.truncate(self._size)

    def _look(self) -> None:
        """Somebody may have cut the file, to get his disk back: then goes on with what is left."""
        if os.fstat(self._file.fileno()).st_size < self._size:
            self._in_place = False
            self._recover()

    def _cut_front(self, front: bytes) -> bool:
        """A new file of `front` and then what waits takes the place of this one."""
        part = self._path + ".part"
        old, done, size = self._file, self._done, self._size
        try:
            new: IO[bytes] = open(part, "a+b")
            try:
                new.truncate(0)
                new.write(front)
                old.seek(done)
                shutil.copyfileobj(old, new, 1 << 20)
                new.flush()
                if new.tell() != len(front) + size - done:
                    raise OSError("the spool is not as long as it was")
                self._file = new
                self._lock()
                # The note first: after a crash between the two, what was acknowledged is sent again.
                self._done = 0
                self._note()
                os.replace(part, self._path)
            except BaseException:
                self._file, self._done = old, done
                new.close()
                raise
        except (OSError, RuntimeError):
            # Half a copy on a disk that may be full; tried again when twice as much is acknowledged.
            try:
                os.remove(part)
            except OSError:
                pass
            self._cut_from = 2 * max(self._cut_from, done)
            return False
        old.close()
        self._size, self._cut_from = len(front) + size - done, CUT_FROM_BYTES
        return True

    def peek(self, max_events: int, max_bytes: int) -> List[bytes]:
        """The oldest events, with at least one if there is any."""
        self._look()
        self._in_place = True
        self._file.seek(self._done)
        lines: List[bytes] = []
        total = 0
        while len(lines) < max_events and self._done + total < self._size:
            line = self._file.readline()
            if not line.endswith(b"\n") or (lines and total + len(line) > max_bytes):
                break
            total += len(line)
            lines.append(line[:-1])
        return lines

    def drop(self, lines: List[bytes]) -> None:
        """The front `lines` are acknowledged."""
        self._look()
        if not self._in_place:
            # Where they lay nobody knows any more: they may be sent again, and are recognised.
            return
        self._done += sum(len(line) + 1 for line in lines)
        emptied = self._done == self._size
        if emptied:
            self._done = 0
        # The note first: if the process dies between the two, all of it is sent again. The other way round, a note of an
        # earlier file could be believed of a later one.
        self._note()
        if emptied:
            self._file.truncate(0)
            self._size = 0
        elif self._done >= max(self._cut_from, self.pending_bytes):
            self._cut_front(b"")

    def _note(self) -> None:
        part = self._path + ".done.part"
        with open(part, "w", encoding="ascii") as note:
            note.write(str(self._done))
        os.replace(part, self._path + ".done")

    def close(self) -> None:
        self._file.close()
