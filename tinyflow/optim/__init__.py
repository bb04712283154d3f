"""Optimisers and learning-rate schedules."""

from tinyflow.optim import lr_scheduler as lr_scheduler
from tinyflow.optim.optimizer import Optimizer as Optimizer
from tinyflow.optim.sgd import SGD as SGD
