"""Losses over rows of classes: cross entropy of logits, and the negative log-likelihood; ``rows`` has what they share."""

from __future__ import annotations

from tinyflow.kernels.loss.logits import check_cross_entropy as check_cross_entropy
from tinyflow.kernels.loss.logits import cross_entropy as cross_entropy
from tinyflow.kernels.loss.logits import cross_entropy_configs as cross_entropy_configs
from tinyflow.kernels.loss.logits import cross_entropy_input_grad as cross_entropy_input_grad
from tinyflow.kernels.loss.logits import cross_entropy_input_grad_configs as cross_entropy_input_grad_configs
from tinyflow.kernels.loss.logits import cross_entropy_with_grad as cross_entropy_with_grad
from tinyflow.kernels.loss.nll import nll_loss as nll_loss
from tinyflow.kernels.loss.nll import nll_loss_configs as nll_loss_configs
from tinyflow.kernels.loss.nll import nll_loss_input_grad as nll_loss_input_grad
from tinyflow.kernels.loss.nll import nll_loss_input_grad_configs as nll_loss_input_grad_configs
from tinyflow.kernels.loss.rows import MEAN as MEAN
from tinyflow.kernels.loss.rows import NONE as NONE
from tinyflow.kernels.loss.rows import SUM as SUM
from tinyflow.kernels.loss.rows import loss_total_configs as loss_total_configs
from tinyflow.kernels.loss.rows import target_total_configs as target_total_configs
