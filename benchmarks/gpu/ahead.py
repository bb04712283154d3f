"""Compiles what the models' steps launch, ahead and in several processes: ``python -m benchmarks.gpu.ahead --part 1/8``.

Kernels land in Triton's cache, where later processes find them; nothing is launched. A part that fails has cost nothing:
what it left out is compiled when it is asked for. Where there is no GPU it compiles for another, as a trial.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch

import tinyflow

#: What is compiled without a GPU, and for how many multiprocessors.
_TRIAL_TARGET, _TRIAL_SIZE = "sm_90", 132

Work = tuple[str, Callable[[], Any]]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.ahead", description=__doc__)
    parser.add_argument("--part", default="1/1", help="one part of so many")
    parser.add_argument("--candidates", action="store_true", help="all that a search tries, not what is chosen")
    parser.add_argument("--model", action="append", help="resnet18 unless it is named; may be given again")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after this time")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code: 1 where something did not compile."""
    options = parse(arguments)
    end = time.monotonic() + options.seconds
    part, parts = map(int, options.part.split("/"))
    from tinyflow.kernels import hardware, launch
    from tinyflow.kernels.configs import planned_for_gpu

    name, capability, multiprocessors = _gpu()
    failed = count = 0
    with ExitStack() as stack:
        stack.enter_context(hardware.assumed(capability, multiprocessors))
        stack.enter_context(planned_for_gpu(name))
        work = [w for model in options.model or ["resnet18"] for w in _work(model, options)]
        for label, call in work[part - 1 :: parts]:
            if time.monotonic() > end:
                break
            print(label[:120], flush=True)  # a sign of life
            try:
                with launch.compile_only() as compiled:
                    call()
                count += len(compiled)
            except Exception as error:
                # a search has candidates that do not fit; what a step needs is told of where it is measured
                failed += 1
                print(f"    {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
    print(f"{count} launches compiled for {name or _TRIAL_TARGET}, {failed} calls failed", flush=True)
    return 1 if failed and not options.candidates else 0


def _gpu() -> tuple[str, tuple[int, int], int]:
    """Name, compute capability and size of the GPU to compile for."""
    from tinyflow.kernels import hardware, tuned

    if tinyflow.gpu_available():
        device = tinyflow.get_default_device()
        return tuned.current_device(), hardware.capability(device), hardware.multiprocessors(device)
    from triton.runtime import driver

    from tests.compile.offline import TARGETS, OfflineDriver, capability

    target, shared_memory = TARGETS[_TRIAL_TARGET]
    driver.set_active(OfflineDriver(target, shared_memory))
    return "", capability(target), _TRIAL_SIZE


def _work(model: str, options: argparse.Namespace) -> Iterator[Work]:
    """Independent pieces, each a call on ``meta`` buffers."""
    if options.candidates:
        yield from _candidates(model, options)
        return
    from tinyflow import tuning

    steps = _steps(model, options)
    with tuning.recorded() as calls:
        for step in steps:
            step()
    for call in calls:
        yield call.label, call
    for step in steps:  # at last: what no operation launches
        yield f"a step of {model}", step


def _steps(model: str, options: argparse.Namespace) -> list[Callable[[], Any]]:
    """A training step in mixed precision and inference in half precision, as they are measured."""
    from benchmarks.cases.training import TrainingStep
    from tinyflow import models
    from tinyflow.kernels.memory import default_device_as

    meta = torch.device("meta")
    images = torch.empty(options.batch, 3, options.image, options.image, device=meta)
    labels = torch.empty(options.batch, dtype=torch.int64, device=meta)
    with default_device_as(meta):
        training = TrainingStep(images, labels, model=model, half=True)
        training()  # after which the optimizer has its state
        net = getattr(models, model)().eval().to(tinyflow.bfloat16)

    def inference() -> Any:
        with tinyflow.inference_mode():
            return net(tinyflow.from_torch(images).to(tinyflow.bfloat16))

    def on_meta(step: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with default_device_as(meta):
                return step()

        return run

    return [on_meta(training), on_meta(inference)]


def _candidates(model: str, options: argparse.Namespace) -> Iterator[Work]:
    """Every configuration that a search tries, and the references that it compares with."""
    from tinyflow import tuning
    from tinyflow.kernels import hardware, memory
    from tinyflow.models.config import Tune
    from tinyflow.models.tune import calls_of_a_step

    calls = calls_of_a_step(Tune(shapes=model, batch_size=options.batch, image_size=options.image))
    meta = torch.device("meta")
    for problem in tuning.problems(calls, meta):
        what = f"{problem.configs.kernel}: {problem.problem}"
        for config in problem.configs.shipped_for(hardware.capability(meta)):
            yield f"{what}: {config.blocks}", _forced(problem, config)
        wide = problem.call.each(
            lambda x: torch.empty_like(x, dtype=memory.float64) if x.dtype.is_floating_point else x
        )
        yield f"{what} in float64", wide


def _forced(problem: Any, config: Any) -> Callable[[], Any]:
    def call() -> None:
        with problem.configs.forced(config):
            problem.call()

    return call


if __name__ == "__main__":
    sys.exit(main())
