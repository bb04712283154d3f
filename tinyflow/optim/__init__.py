"""Optimisers and learning-rate schedules."""

from tinyflow.optim import lr_scheduler as lr_scheduler
from tinyflow.optim.adam import Adam as Adam
from tinyflow.optim.adam import Adamax as Adamax
from tinyflow.optim.adam import AdamW as AdamW
from tinyflow.optim.adam import NAdam as NAdam
from tinyflow.optim.adam import RAdam as RAdam
from tinyflow.optim.adaptive import ASGD as ASGD
from tinyflow.optim.adaptive import Adadelta as Adadelta
from tinyflow.optim.adaptive import Adagrad as Adagrad
from tinyflow.optim.adaptive import RMSprop as RMSprop
from tinyflow.optim.adaptive import Rprop as Rprop
from tinyflow.optim.layerwise import LAMB as LAMB
from tinyflow.optim.layerwise import LARS as LARS
from tinyflow.optim.muon import Muon as Muon
from tinyflow.optim.optimizer import Optimizer as Optimizer
from tinyflow.optim.sgd import SGD as SGD

from tinyflow.optim import swa_utils as swa_utils  # isort: skip  (needs modules, which need no optimiser)
