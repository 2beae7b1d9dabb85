#!/usr/bin/env python3
"""Plays a tiny game and sends its events.

usage: python emit.py URL [GAME_ID]
"""
import sys
import time

from flywheel import Emitter


def main() -> int:
    url = sys.argv[1]
    game_id = sys.argv[2] if len(sys.argv) > 2 else f"py-{time.time_ns()}"
    with Emitter(url) as emitter:
        game = emitter.game("tank", game_id)
        for tick in range(100):
            game.emit("tank.tick", {"tick": tick, "tanks": [], "removed": []}, actor="server")
        game.emit("tank.session.closed", {"cause": "finished"}, actor="server")
        if not emitter.flush():
            print(f"not everything was acknowledged: {emitter.stats}", file=sys.stderr)
            return 1
        print(f"{emitter.stats.acknowledged} events of {game_id} acknowledged, last seq {emitter.stats.last_seq[game_id]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
