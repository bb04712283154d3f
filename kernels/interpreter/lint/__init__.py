"""A lint over the sources of Triton kernels: what the interpreter accepts and compilers or GPUs do not.

It reads files and runs nothing. From a shell::

    python -m tinyflow.kernels.interpreter.lint PATHS

>>> for finding in lint.lint_paths(["my_kernels/"]): print(finding)
"""

from tinyflow.kernels.interpreter.lint.engine import Finding as Finding
from tinyflow.kernels.interpreter.lint.engine import lint_paths as lint_paths
from tinyflow.kernels.interpreter.lint.engine import lint_source as lint_source
from tinyflow.kernels.interpreter.lint.rules import RULES as RULES
