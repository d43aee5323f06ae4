#!/usr/bin/env python3
"""qdrant-edge on the files and cases of `stentor bench store`.

    store.py BASE QUERIES [--batch 100] [--flush]

Points with a payload are put, so many an update; with --flush each update is flushed, without it is in the write-ahead
log. Then it is closed, opened, and searched by one thread, also among a tenth and a hundredth of the points. Run it with
a Python that has numpy and qdrant-edge-py. Prints a JSON object a case.
"""

import argparse
import json
import tempfile
import time

import numpy as np
import qdrant_edge as q

K = 10


def read(path):
    rows = np.fromfile(path, "f4")
    dim = int(rows[:1].view("i4")[0])
    return np.ascontiguousarray(rows.reshape(-1, dim + 1)[:, 1:])


def say(**case):
    print(json.dumps(case), flush=True)


def search(shard, base, queries, name, condition, counts):
    params = q.SearchParams(hnsw_ef=64)
    asked = [v.tolist() for v in queries]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        found = [
            shard.query(q.QueryRequest(query=q.Query.Nearest(v), limit=K, filter=condition, params=params,
                                       with_payload=True))
            for v in asked
        ]
        best = min(best, time.perf_counter() - start)
    among = np.nonzero(counts)[0]
    same = 0
    for query, hits in list(zip(queries, found))[:200]:
        nearest = among[np.argsort(-(base[among] @ query))[:K]]
        same += len({h.id for h in hits} & set(map(int, nearest)))
    say(case=name, recall=round(same / min(200, len(queries)) / K, 4), qps=round(len(queries) / best))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base")
    options.add_argument("queries")
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--flush", action="store_true")
    args = options.parse_args()
    base, queries = read(args.base), read(args.queries)
    folder = tempfile.mkdtemp()
    vectors = q.EdgeVectorParams(size=base.shape[1], distance=q.Distance.Cosine)
    shard = q.EdgeShard.create(folder, q.EdgeConfig(vectors=vectors))
    for field in ("tenth", "hundredth"):
        index = q.UpdateOperation.create_field_index(field, q.PayloadSchemaType.Integer)
        shard.update(index)
    # What Python makes of the points is not timed.
    writes = []
    for start in range(0, len(base), args.batch):
        points = [
            q.Point(at, base[at].tolist(),
                    {"name": f"document {at // 20}", "page": at % 20, "tenth": at % 10, "hundredth": at % 100})
            for at in range(start, min(len(base), start + args.batch))
        ]
        writes.append(q.UpdateOperation.upsert_points(points))
    start = time.perf_counter()
    for write in writes:
        shard.update(write)
        if args.flush:
            shard.flush()
    say(case="put", per_s=round(len(base) / (time.perf_counter() - start)))
    shard.optimize()
    shard.flush()
    say(case="linked and saved", seconds=round(time.perf_counter() - start, 3))
    shard.close()
    start = time.perf_counter()
    shard = q.EdgeShard.load(folder)
    say(case="open", seconds=round(time.perf_counter() - start, 3))
    every = np.arange(len(base))
    field = lambda name, value: q.Filter(must=[q.FieldCondition(key=name, match=q.MatchValue(value))])
    search(shard, base, queries, "search", None, every >= 0)
    search(shard, base, queries, "search, of 10%", field("tenth", 0), every % 10 == 0)
    search(shard, base, queries, "search, of 1%", field("hundredth", 7), every % 100 == 7)


main()
