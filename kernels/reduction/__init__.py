"""Reductions over any dimensions: sum, mean, prod, amax, amin, any, all, variance, and the arg-reductions.

One kernel serves all value reductions (``values``). It is given four JIT functions (``rules``): ``MAP`` (an element, and
the row's centre, to a term), ``COMBINE`` (two tiles of terms to one), ``COLLAPSE`` (a tile to one value a row) and
``FINISH`` (the total and a divisor to the result). The host merges the kept and the reduced dimensions to the fewest that
walk memory (``strides.coalesce``, in ``plan``); a program keeps one accumulator for every lane of its tile, so a sum is a
tree over lanes of short chains. A reduction with few results is split over programs: each writes its partial to a
workspace, which a second launch reduces in a fixed order, so results are the same bits in every run. A second kernel
(``positions``) walks memory in the same way and keeps where the greatest or the least element was.

Accumulation: float32 for float32 and the half precisions, float64 for float64, int64 for integers and bool.
"""

from __future__ import annotations

from tinyflow.kernels.reduction.extremes import all as all
from tinyflow.kernels.reduction.extremes import amax as amax
from tinyflow.kernels.reduction.extremes import amin as amin
from tinyflow.kernels.reduction.extremes import any as any
from tinyflow.kernels.reduction.moments import mean as mean
from tinyflow.kernels.reduction.moments import std as std
from tinyflow.kernels.reduction.moments import var as var
from tinyflow.kernels.reduction.plan import Dims as Dims
from tinyflow.kernels.reduction.plan import normalize_dims as normalize_dims
from tinyflow.kernels.reduction.positions import arg_reduce_configs as arg_reduce_configs
from tinyflow.kernels.reduction.positions import argmax as argmax
from tinyflow.kernels.reduction.positions import argmin as argmin
from tinyflow.kernels.reduction.positions import max_with_index as max_with_index
from tinyflow.kernels.reduction.positions import min_with_index as min_with_index
from tinyflow.kernels.reduction.rules import add as add
from tinyflow.kernels.reduction.rules import furthest as furthest
from tinyflow.kernels.reduction.rules import greater as greater
from tinyflow.kernels.reduction.rules import lesser as lesser
from tinyflow.kernels.reduction.rules import multiply as multiply
from tinyflow.kernels.reduction.sums import log_of_sum as log_of_sum
from tinyflow.kernels.reduction.sums import logsumexp as logsumexp
from tinyflow.kernels.reduction.sums import nansum as nansum
from tinyflow.kernels.reduction.sums import norm as norm
from tinyflow.kernels.reduction.sums import prod as prod
from tinyflow.kernels.reduction.sums import sum as sum
from tinyflow.kernels.reduction.values import reduce_configs as reduce_configs
