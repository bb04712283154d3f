"""Transformations of functions: ``grad``, ``vjp``, ``jvp``, Jacobians and Hessians that nest, as ``torch.func``.

Arguments and results may be Tensors in tuples, lists and dictionaries. Results carry a history where they depend on
something outside that requires a gradient, so that transformations of transformations, and a backward pass through one,
are higher derivatives. There is no ``vmap``.
"""

from __future__ import annotations

from tinyflow.func.modules import functional_call as functional_call
from tinyflow.func.transforms import grad as grad
from tinyflow.func.transforms import grad_and_value as grad_and_value
from tinyflow.func.transforms import hessian as hessian
from tinyflow.func.transforms import jacfwd as jacfwd
from tinyflow.func.transforms import jacrev as jacrev
from tinyflow.func.transforms import jvp as jvp
from tinyflow.func.transforms import vjp as vjp

__all__ = ["functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "vjp"]
