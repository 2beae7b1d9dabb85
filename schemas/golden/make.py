#!/usr/bin/env python3
"""Writes the golden events of envelope version 1: one example of every kind, as a program in another language
would write it. Golden files are only ever added to: what was written once must decode for ever.

usage: python3 make.py > tank-events-v1.jsonl
"""
import base64
import json
import struct


def floats(values):
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


STATE = floats([i / 108 for i in range(108)])
NEXT = floats([-i / 108 for i in range(108)])
CHANGE = {"modelKey": "0a1b", "baseKey": "tank-ai-dqn", "version": 12, "steps": 3456, "epsilon": 0.25, "fromVersion": None}

# kind, actor, model, payload
EVENTS = [
    ("tank.session.opened", "server", None, {
        "mapName": "Stage01.json", "mapKey": "stage01", "mapSize": 416, "tileSize": 16, "tiles": [[0, 1], [2, 3]],
        "tankTableHash": "0123456789abcdef", "seed": 18446744073709551615, "settings": {"tickMs": 33}, "tickMs": 33,
        "source": "live", "opponent": "hunter"}),
    ("tank.player.joined", "p1", None, {"playerId": "p1", "label": "Ana", "spawnIndex": 0, "opponent": None}),
    ("tank.input", "p1", None, {"tick": 17, "tankId": "a", "role": "player", "move": "move_up", "fire": True, "source": "ws"}),
    ("tank.input", "b", "tank-ai-dqn@12", {"tick": 18, "tankId": "b", "role": "ai", "move": None, "fire": False, "source": "repeat"}),
    ("tank.tick", "server", None, {"tick": 18, "tanks": [{"id": "a", "x": 12.5}], "removed": [], "unknown": {"kept": True}}),
    ("tank.transition", "controller", "tank-ai-dqn@12", {
        "tick": 20, "mapKey": "stage01", "tanks": [{
            "tankId": "b", "label": "basic", "s": STATE, "a": 9, "r": -0.5, "s2": NEXT, "done": False, "epsilon": 0.25,
            "reasons": ["hitWall"]}]}),
    ("tank.checkpoint", "server", None, {"tick": 300, "state": {"tick": 300}, "stateHash": "fedcba9876543210", "rngPosition": 77}),
    ("tank.episode.ended", "server", None, {
        "reason": "hq_destroyed", "ticks": 900, "outcome": 1, "tanks": [{
            "tankId": "b", "label": "basic", "return": 3.5, "shots": 12, "predictedHits": 4, "damageDealt": 3, "damageTaken": 1}]}),
    ("tank.session.closed", "server", None, {"cause": "finished"}),
    ("tank.model.allocated", "controller", "tank-ai-dqn@12", CHANGE),
    ("tank.model.released", "controller", "tank-ai-dqn@12", CHANGE),
    ("tank.model.saved", "controller", "tank-ai-dqn@12", CHANGE),
    ("tank.model.swapped", "controller", "tank-ai-dqn@13", {**CHANGE, "version": 13, "fromVersion": 12}),
    ("model.swap_refused", "controller", None, {"model": "tank-ai-dqn@14", "staysOn": "tank-ai-dqn@13", "reason": "not finite"}),
]

for seq, (kind, actor, model, payload) in enumerate(EVENTS):
    event = {"v": 1, "system": "tank", "kind": kind, "game_id": "s-17", "seq": seq, "ts_ms": 1700000000000 + seq * 33,
             "actor": actor, "model": model, "payload": payload}
    print(json.dumps(event, separators=(",", ":")))
