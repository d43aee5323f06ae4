#!/usr/bin/env python3
"""Vectors for `stentor bench ann`, and hnswlib on the same files.

    ann.py make BASE QUERIES [--count 50000] [--dim 384]      clustered unit vectors as .fvecs files
    ann.py hnswlib BASE QUERIES [--threads 2]                 its build on so many threads, its searches on one

Run it with a Python that has numpy and hnswlib. Prints a JSON object a case.
"""

import argparse
import json
import time

import numpy as np

K = 10


def make(args):
    rng = np.random.default_rng(args.seed)
    centres = rng.standard_normal((500, args.dim)).astype("f4")
    for path, count in ((args.base, args.count), (args.queries, 500)):
        x = centres[rng.integers(0, 500, count)] + 0.9 * rng.standard_normal((count, args.dim)).astype("f4")
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        rows = np.empty((count, args.dim + 1), "f4")
        rows[:, 0] = np.array([args.dim], "i4").view("f4")
        rows[:, 1:] = x
        rows.tofile(path)


def read(path):
    rows = np.fromfile(path, "f4")
    dim = int(rows[:1].view("i4")[0])
    return np.ascontiguousarray(rows.reshape(-1, dim + 1)[:, 1:])


def run(args):
    import hnswlib

    base, queries = read(args.base), read(args.queries)
    truth = np.vstack([np.argsort(-(q @ base.T), axis=1)[:, :K] for q in np.array_split(queries, 10)])
    start = time.perf_counter()
    index = hnswlib.Index(space="cosine", dim=base.shape[1])
    index.init_index(len(base), ef_construction=200, M=16)
    index.set_num_threads(args.threads)
    index.add_items(base)
    print(json.dumps({"case": "build", "seconds": round(time.perf_counter() - start, 2)}))
    index.set_num_threads(1)
    for ef in (16, 32, 64, 128, 256):
        index.set_ef(ef)
        start = time.perf_counter()
        found, _ = index.knn_query(queries, K)
        qps = len(queries) / (time.perf_counter() - start)
        recall = np.mean([len(set(map(int, a)) & set(map(int, b))) / K for a, b in zip(found, truth)])
        print(json.dumps({"case": "search", "ef": ef, "recall": round(float(recall), 4), "qps": round(qps)}))


options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("what", choices=("make", "hnswlib"))
options.add_argument("base")
options.add_argument("queries")
options.add_argument("--count", type=int, default=50_000)
options.add_argument("--dim", type=int, default=384)
options.add_argument("--seed", type=int, default=0)
options.add_argument("--threads", type=int, default=2)
arguments = options.parse_args()
(make if arguments.what == "make" else run)(arguments)
