"""Learning-rate schedules: after each ``optimizer.step()`` (or epoch), ``scheduler.step()`` sets the groups' ``lr``.

A schedule multiplies or moves the present learning rate, so that several can act on one optimizer and a change made by
hand is kept; where the value at a step has a closed form, ``step(epoch)`` sets that.
"""

from tinyflow.optim.lr_scheduler.base import LRScheduler as LRScheduler
from tinyflow.optim.lr_scheduler.combined import ChainedScheduler as ChainedScheduler
from tinyflow.optim.lr_scheduler.combined import SequentialLR as SequentialLR
from tinyflow.optim.lr_scheduler.cosine import CosineAnnealingLR as CosineAnnealingLR
from tinyflow.optim.lr_scheduler.cosine import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from tinyflow.optim.lr_scheduler.cyclic import CyclicLR as CyclicLR
from tinyflow.optim.lr_scheduler.decay import ConstantLR as ConstantLR
from tinyflow.optim.lr_scheduler.decay import ExponentialLR as ExponentialLR
from tinyflow.optim.lr_scheduler.decay import LambdaLR as LambdaLR
from tinyflow.optim.lr_scheduler.decay import LinearLR as LinearLR
from tinyflow.optim.lr_scheduler.decay import MultiplicativeLR as MultiplicativeLR
from tinyflow.optim.lr_scheduler.decay import MultiStepLR as MultiStepLR
from tinyflow.optim.lr_scheduler.decay import PolynomialLR as PolynomialLR
from tinyflow.optim.lr_scheduler.decay import StepLR as StepLR
from tinyflow.optim.lr_scheduler.one_cycle import OneCycleLR as OneCycleLR
from tinyflow.optim.lr_scheduler.plateau import ReduceLROnPlateau as ReduceLROnPlateau
