#!/usr/bin/env python3
"""cpprb on the workload of `flywheel bench replay`, one JSON object a metric.

usage: python replay_peer.py [--secs 3] [--reps 3] [--capacity 1000000]
needs: numpy, cpprb

A row is obs 4x32 f32, next_obs, action i32, reward f32, discount f32, done u8; the buffer is full before anything
is measured. Figures are rows per CPU-second of this process: the median of --reps windows of --secs after a
warm-up of a sixth of one. Pin the process to one core from outside.
"""
import argparse
import json
import statistics
import time
from importlib.metadata import version

import cpprb
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--secs", type=float, default=3.0)
parser.add_argument("--reps", type=int, default=3)
parser.add_argument("--capacity", type=int, default=1_000_000)
args = parser.parse_args()

OBS, CHUNK = (4, 32), 256
rng = np.random.default_rng(7)


def chunk():
    obs = rng.random((CHUNK, *OBS), dtype=np.float32)
    return dict(
        obs=obs,
        next_obs=obs[::-1].copy(),
        act=rng.integers(0, 8, CHUNK).astype(np.int32),
        rew=rng.random(CHUNK, dtype=np.float32),
        disc=np.full(CHUNK, 0.97, np.float32),
        done=(rng.random(CHUNK) < 0.02).astype(np.uint8),
    )


pools = [chunk() for _ in range(8)]
turn = 0


def following():
    global turn
    turn += 1
    return pools[turn % 8]


def measure(metric, work, rows):
    def window(seconds):
        n, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            for _ in range(4 if rows > 1 else 64):
                work()
                n += rows
        return n / max(time.process_time() - cpu, 1e-9)

    window(args.secs / 6)
    windows = [window(args.secs) for _ in range(args.reps)]
    line = dict(peer="cpprb", version=version("cpprb"), metric=metric, rows_per_cpu_s=round(statistics.median(windows)),
                spread=[round(min(windows)), round(max(windows))])
    print(json.dumps(line), flush=True)


def fill(buffer):
    n = 0
    while n < args.capacity:
        buffer.add(**pools[(n // CHUNK) % 8])
        n += CHUNK


fields = dict(obs=dict(shape=OBS, dtype=np.float32), next_obs=dict(shape=OBS, dtype=np.float32), act=dict(dtype=np.int32),
              rew={}, disc={}, done=dict(dtype=np.uint8))
plain = cpprb.ReplayBuffer(args.capacity, fields)
fill(plain)
one = {key: value[0] for key, value in pools[0].items()}
measure("insert256", lambda: plain.add(**following()), CHUNK)
measure("insert1", lambda: plain.add(**one), 1)
for size in (256, 512):
    measure(f"uniform{size}", lambda: plain.sample(size), size)
del plain

prioritised = cpprb.PrioritizedReplayBuffer(args.capacity, fields, alpha=0.6)
fill(prioritised)
measure("prio_insert256", lambda: prioritised.add(**following()), CHUNK)
for size in (256, 512):
    errors = rng.random(size).astype(np.float32) + 0.01

    def draw_and_update():
        drawn = prioritised.sample(size, beta=0.4)
        prioritised.update_priorities(drawn["indexes"], errors)

    measure(f"prio{size}", draw_and_update, size)
