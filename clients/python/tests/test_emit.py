"""The package against a real door: the program named by FLYWHEEL_DOOR."""
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "src"))

from flywheel import Emitter, read_table  # noqa: E402
from flywheel.spool import Spool  # noqa: E402

DOOR = os.environ.get("FLYWHEEL_DOOR")


class Door:
    def __init__(self, folder, address="127.0.0.1:0"):
        self.folder = folder
        self.process = subprocess.Popen(
            [DOOR, folder, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError("the door did not start")
        self.url = "http://" + self.address

    def stop(self):
        self.process.kill()
        self.process.communicate()

    def seqs(self, game):
        """Each `seq` once, in the order in which it is there first."""
        with urllib.request.urlopen(self.url + "/records") as answer:
            events = [json.loads(line) for line in answer.read().splitlines()]
        return list(dict.fromkeys(event["seq"] for event in events if event["game_id"] == game))


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("waited for 30 s")
        time.sleep(0.01)


@unittest.skipUnless(DOOR, "FLYWHEEL_DOOR does not name the program")
class WithADoor(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.door = Door(self.path("log"))
        self.addCleanup(lambda: self.door.stop())

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def restart(self):
        self.door = Door(self.path("log"), self.door.address)

    def emitter(self, **options):
        return Emitter(self.door.url, self.path("spool"), backoff_s=0.01, backoff_max_s=0.1, **options)

    def test_events_arrive_in_order_and_are_acknowledged_with_their_last_seq(self):
        with self.emitter(batch_events=700) as emitter:
            game = emitter.game("tank", "g")
            for tick in range(5000):
                self.assertEqual(game.emit("tank.tick", {"tick": tick}), tick)
            self.assertTrue(emitter.flush())
            self.assertEqual(emitter.stats.last_seq, {"g": 4999})
        self.assertEqual(self.door.seqs("g"), list(range(5000)))

    def test_what_is_emitted_while_the_server_is_away_arrives_in_order_when_it_is_back(self):
        with self.emitter() as emitter:
            game = emitter.game("tank", "g")
            for tick in range(100):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
            self.door.stop()
            for tick in range(100, 400):
                game.emit("tank.tick", {"tick": tick})
                if tick == 200:
                    wait_for(lambda: emitter.stats.spooled > 0)
            self.assertIsNotNone(emitter.stats.away)
            self.restart()
            for tick in range(400, 500):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
            self.assertEqual((emitter.stats.lost, emitter.stats.last_seq), (0, {"g": 499}))
        self.assertEqual(self.door.seqs("g"), list(range(500)))

    def test_what_could_not_be_sent_goes_first_at_the_next_start(self):
        self.door.stop()
        emitter = self.emitter()
        game = emitter.game("tank", "g")
        for tick in range(300):
            game.emit("tank.tick", {"tick": tick})
        emitter.close(timeout_s=0.2)
        self.assertEqual((emitter.stats.acknowledged, emitter.stats.lost), (0, 0))
        self.restart()
        with self.emitter() as emitter:
            game = emitter.game("tank", "g", next_seq=300)
            for tick in range(300, 310):
                game.emit("tank.tick", {"tick": tick})
            self.assertTrue(emitter.flush())
        self.assertEqual(self.door.seqs("g"), list(range(310)))

    def test_a_refused_event_is_named_and_holds_up_nobody(self):
        refused = []
        with self.emitter(on_refused=lambda line, problem: refused.append((json.loads(line)["seq"], problem))) as emitter:
            game = emitter.game("tank", "g")
            for tick in range(10):
                game.emit("tank.tick" if tick % 4 else "baloot.tick", {"tick": tick})
            with self.assertRaises(ValueError):
                game.emit("tank.tick", {"x": float("nan")})
            self.assertTrue(emitter.flush())
            self.assertEqual((emitter.stats.refused, emitter.stats.acknowledged), (3, 7))
        self.assertEqual([seq for seq, _ in refused], [0, 4, 8])
        self.assertEqual({problem["reason"] for _, problem in refused}, {"bad_kind"})
        self.assertEqual(self.door.seqs("g"), [1, 2, 3, 5, 6, 7, 9])

    def test_the_example_runs(self):
        environment = {**os.environ, "PYTHONPATH": str(HERE / "src")}
        done = subprocess.run(
            [sys.executable, str(HERE / "examples/emit.py"), self.door.url, "py-1"],
            capture_output=True, text=True, env=environment, timeout=60,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("101 events of py-1 acknowledged, last seq 100", done.stdout)
        self.assertEqual(self.door.seqs("py-1"), list(range(101)))


class Files(unittest.TestCase):
    def test_a_spool_torn_anywhere_keeps_every_whole_event(self):
        lines = [b"{%d}" % n for n in range(20)]
        whole = b"".join(line + b"\n" for line in lines)
        with tempfile.TemporaryDirectory() as folder:
            for cut in range(len(whole) + 1):
                path = os.path.join(folder, f"spool-{cut}")
                Path(path).write_bytes(whole[:cut])
                spool = Spool(path, 1 << 20)
                kept = spool.peek(100, 1 << 20)
                self.assertEqual(kept, lines[: whole[:cut].count(b"\n")])
                spool.append([b"{new}"])
                spool.drop(kept)
                spool.close()
                spool = Spool(path, 1 << 20)
                self.assertEqual(spool.peek(100, 1 << 20), [b"{new}"])
                spool.close()

    def test_a_note_of_an_earlier_file_is_never_believed_of_a_later_one(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            # Cut to nothing by a process that died before it wrote the note; or a note from within a line.
            for left, note, kept in [(b"", "8", []), (b"{first}\n{second}\n", "3", [b"{first}", b"{second}"])]:
                Path(path).write_bytes(left)
                Path(path + ".done").write_text(note)
                spool = Spool(path, 1 << 20)
                spool.append([b"{new}"] * 10)
                spool.close()
                spool = Spool(path, 1 << 20)
                self.assertEqual(spool.peek(100, 1 << 20), kept + [b"{new}"] * 10)
                spool.close()

    def test_a_spool_is_bounded_and_belongs_to_one_emitter(self):
        with tempfile.TemporaryDirectory() as folder:
            spool = Spool(os.path.join(folder, "s"), 25)
            self.assertEqual(spool.append([b"123456789"] * 5), 2)
            with self.assertRaisesRegex(RuntimeError, "in use"):
                Spool(os.path.join(folder, "s"), 25)
            spool.close()

    def test_a_table_is_read_into_arrays(self):
        try:
            import deltalake
            import pyarrow
        except ImportError:
            self.skipTest("deltalake and pyarrow are not there")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "events")
            deltalake.write_deltalake(path, pyarrow.table({"seq": [0, 1], "kind": ["a", "b"], "obs": [b"xy", b"z\0"]}))
            deltalake.write_deltalake(path, pyarrow.table({"seq": [2], "kind": ["c"], "obs": [b"q"]}), mode="append")
            table = read_table(folder, "events", columns=["seq", "kind"])
            self.assertEqual(sorted(zip(table["seq"].tolist(), table["kind"].tolist())), [(0, "a"), (1, "b"), (2, "c")])
            self.assertEqual(table["seq"].dtype.kind, "i")
            self.assertEqual(sorted(read_table(path)["obs"]), [b"q", b"xy", b"z\0"])
            self.assertEqual(set(read_table(path)), {"seq", "kind", "obs"})
            with self.assertRaisesRegex(KeyError, "no column nope"):
                read_table(path, columns=["nope"])


if __name__ == "__main__":
    unittest.main()
