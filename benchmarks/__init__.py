"""What tinyflow's kernels, engine and models take, beside torch on the same machine and in the same run.

``python -m benchmarks.run`` measures, ``python -m benchmarks.profile`` says where a training step's time goes,
``python -m benchmarks.report`` makes tables and pictures of what both wrote, ``benchmarks/on_gpu`` does all that and more
on a GPU machine, and ``pytest benchmarks --benchmark-only`` gives a few of the cases to pytest-benchmark.
"""

import tinyflow as tinyflow  # before anything that imports triton
