"""Triton kernels and their launchers on raw device memory. Knows nothing of Tensor or of gradients."""

if __name__ != "tinyflow.kernels":
    raise ImportError(f"import tinyflow.kernels instead of {__name__}, which would be a second copy of every module")

from tinyflow.kernels import environment
from tinyflow.kernels import mode as mode  # before anything that imports triton

environment.warn_of_mistyped()

if mode.INTERPRETING:
    from tinyflow.kernels import interpreter as interpreter

    interpreter.install_if_wanted()

    from tinyflow.kernels.interpreter import checks

    checks.enable_if_wanted()
