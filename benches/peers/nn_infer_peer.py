#!/usr/bin/env python3
"""ONNX Runtime on the network of `flywheel bench infer`, one JSON object a line.

usage: python nn_infer_peer.py --data DIR [--secs 3] [--reps 3]
needs: numpy, onnx, onnxruntime

DIR holds raw little-endian float32: `weights.f32` (for each layer its weight [out, in], then its bias), `inputs.f32`
[256, 128], and `outputs.f32` [256, 8] as flywheel answered them; how far the two differ is printed first. Batch 1 is
the wall time of a call in a closed loop: p50 and p99 of each of --reps windows of --secs, and of those the median.
Batches are rows per CPU-second. The session is called in both ways that Python has, `run` and with inputs and outputs
bound beforehand, and the faster one counts. One thread; pin the process to one core from outside.
"""
import argparse
import json
import os
import pathlib
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--secs", type=float, default=3.0)
parser.add_argument("--reps", type=int, default=3)
args = parser.parse_args()

SHAPE = [128, 256, 256, 8]


def read(name):
    return np.fromfile(args.data / name, dtype="<f4")


def build():
    flat, at, nodes, tensors, current = read("weights.f32"), 0, [], [], "x"
    for i, (inputs, outputs) in enumerate(zip(SHAPE, SHAPE[1:])):
        for name, shape in ((f"w{i}", (outputs, inputs)), (f"b{i}", (outputs,))):
            n = int(np.prod(shape))
            tensors.append(numpy_helper.from_array(flat[at : at + n].reshape(shape), name))
            at += n
        nodes.append(helper.make_node("Gemm", [current, f"w{i}", f"b{i}"], [f"g{i}"], transB=1))
        current = f"g{i}"
        if i < len(SHAPE) - 2:
            nodes.append(helper.make_node("Relu", [current], [f"r{i}"]))
            current = f"r{i}"
    assert at == len(flat), "the weights have another shape"
    row = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
    graph = helper.make_graph(nodes, "mlp", [row("x", SHAPE[0])], [row(current, SHAPE[-1])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]), current


def windows(call):
    """For each window the wall times of all calls in us, and the CPU-seconds used."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < args.secs / 6:
        call()
    for _ in range(args.reps):
        times, begin, cpu = [], time.perf_counter(), time.process_time()
        while True:
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
            if time.perf_counter() - begin > args.secs:
                break
        yield np.array(times) / 1e3, time.process_time() - cpu


def emit(**fields):
    print(json.dumps({"peer": f"onnxruntime {ort.__version__}", **fields}), flush=True)


session, answer = build()
inputs = read("inputs.f32").reshape(-1, SHAPE[0])
ours = read("outputs.f32").reshape(-1, SHAPE[-1])
emit(metric="difference", value=float(np.abs(session.run(None, {"x": inputs})[0] - ours).max()))

for batch in (1, 64, 256):
    x = np.ascontiguousarray(inputs[:batch])
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output(answer)
    best = None
    for way, call in (("run", lambda: session.run(None, {"x": x})), ("bound", lambda: session.run_with_iobinding(binding))):
        seen = list(windows(call))
        middle = lambda of: statistics.median(of(times, cpu) for times, cpu in seen)
        fields = dict(
            p50_us=middle(lambda times, cpu: np.percentile(times, 50)),
            p99_us=middle(lambda times, cpu: np.percentile(times, 99)),
            rows_per_cpu_s=middle(lambda times, cpu: batch * len(times) / cpu),
        )
        better = "p50_us" if batch == 1 else "rows_per_cpu_s"
        if best is None or (fields[better] < best[better]) == (batch == 1):
            best = {"way": way, **fields}
    emit(metric=f"mlp_batch{batch}", **best)
