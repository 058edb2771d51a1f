"""What the job costs, on real documents: `python -m tests.benchmarks [names]`.

Processors differ and are shared, so what counts are ratios taken within one run, from short
measurements that alternate. One file a benchmark; each has `run() -> Table`.
"""
