#!/usr/bin/env python3
"""PyTorch on the workload of `flywheel bench train`, one JSON object a variant.

usage: python train_peer.py [--secs 3] [--reps 3] [--curve N]
needs: numpy, torch (a CPU build or the CUDA wheel; one thread of the CPU is used)

One step of a double DQN on an MLP 128-256-256-8, batch 256: target forward, argmax by the online network, Huber loss
with importance weights, backward, Adam, target sync every 1,000. Figures are steps per CPU-second of this process:
the median of --reps windows of --secs after 50 steps. --curve prints the losses of the first N steps on a batch made
by a rule, by the plain and by the fused optimiser, for comparison with another implementation.
"""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--secs", type=float, default=3.0)
parser.add_argument("--reps", type=int, default=3)
parser.add_argument("--curve", type=int, default=0)
args = parser.parse_args()
torch.set_num_threads(1)
torch.manual_seed(7)

BATCH = 256


def network():
    return nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))


def ruled(count, salt):
    """Numbers in -1..1 that any language can make: a linear congruential generator modulo 2^32."""
    out, x = [], salt
    for _ in range(count):
        x = (x * 1664525 + 1013904223) % 2**32
        out.append((x >> 8) / 2**23 - 1.0)
    return torch.tensor(out, dtype=torch.float32)


def stepper(q, t, optimiser, batch):
    s, s2, a, r, d, w = batch
    count = 0

    def step():
        nonlocal count
        with torch.no_grad():
            y = r + d * t(s2).gather(1, q(s2).argmax(1, keepdim=True)).squeeze(1)
        chosen = q(s).gather(1, a).squeeze(1)
        loss = (w * F.huber_loss(chosen, y, reduction="none")).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        count += 1
        if count % 1000 == 0:
            t.load_state_dict(q.state_dict())
        return loss

    return step


def curve(options):
    q, t = network(), network()
    with torch.no_grad():
        for i, p in enumerate(q.parameters()):
            p.copy_(ruled(p.numel(), 100 + i).view_as(p) / p.shape[-1] ** 0.5)
    t.load_state_dict(q.state_dict())
    s, s2 = ruled(BATCH * 128, 1).view(BATCH, 128), ruled(BATCH * 128, 2).view(BATCH, 128)
    a = ((ruled(BATCH, 3) + 1) * 4).long().clamp(0, 7).view(BATCH, 1)
    r, d, w = ruled(BATCH, 4), torch.full((BATCH,), 0.97), (ruled(BATCH, 5) + 1) / 2
    step = stepper(q, t, torch.optim.Adam(q.parameters(), 1e-4, **options), (s, s2, a, r, d, w))
    return [step().item() for _ in range(args.curve)]


if args.curve:
    print(json.dumps(dict(version=torch.__version__, losses=curve({}), fused=curve(dict(fused=True)))))
    raise SystemExit

for name, options in (("torch-eager", {}), ("torch-foreach", dict(foreach=True)), ("torch-fused", dict(fused=True))):
    q, t = network(), network()
    t.load_state_dict(q.state_dict())
    batch = (torch.randn(BATCH, 128), torch.randn(BATCH, 128), torch.randint(0, 8, (BATCH, 1)), torch.randn(BATCH),
             torch.full((BATCH,), 0.97), torch.rand(BATCH))
    step = stepper(q, t, torch.optim.Adam(q.parameters(), 1e-4, **options), batch)
    for _ in range(50):
        step()
    windows = []
    for _ in range(args.reps):
        n, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < args.secs:
            step()
            n += 1
        windows.append(n / (time.process_time() - cpu))
    print(json.dumps(dict(peer=name, version=torch.__version__, metric="dqn_step_b256", steps_per_cpu_s=round(statistics.median(windows), 1),
                          spread=[round(min(windows), 1), round(max(windows), 1)])), flush=True)
