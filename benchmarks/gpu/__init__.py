"""What ``benchmarks/on_gpu`` does: tests, tuning and benchmarks on a bare GPU machine, in calls of a few minutes."""
