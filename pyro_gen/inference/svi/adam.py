r"""Adam as operations of a graph, so that one compiled graph is a whole step.

With the gradient :math:`g` and the count :math:`t` of steps,

.. math::
    m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
    \theta \leftarrow (1 - \eta \lambda) \theta
        - \frac{\eta}{1 - \beta_1^t} \, \frac{m}{\sqrt{v} / \sqrt{1 - \beta_2^t} + \epsilon} .

The numbers are those of torch's optimiser, and so is the state: what a checkpoint has is the same either way.

References:
    | Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015)
    | https://arxiv.org/abs/1412.6980
    | Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019)
    | https://arxiv.org/abs/1711.05101
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["RecordableAdam"]


class RecordableAdam:
    """The state and the operations of one of torch's optimisers, Adam or AdamW, with one group of parameters.

    Torch counts the steps of each parameter. Here they are counted once, and the optimiser is told when it is asked
    for its state, or takes a step itself.

    Arguments:
        optimizer: The optimiser, whose state the moments are.

    Attributes:
        parameters: What it moves.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        (self.group,) = optimizer.param_groups
        self.parameters: list[Tensor] = self.group["params"]
        device = self.parameters[0].device
        # In double precision, as torch corrects: in single 1 - beta_2 has four digits.
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._lr = torch.zeros((), dtype=torch.float64, device=device)
        self._lr_is = 0.0
        self._take_over()
        optimizer.register_state_dict_pre_hook(lambda _: self._hand_over())
        optimizer.register_load_state_dict_post_hook(lambda _: self._take_over())

    def _take_over(self) -> None:
        """Reads the state of the optimiser, after its first step, or makes that before it."""
        (self.group,) = self.optimizer.param_groups
        for p in self.parameters:
            if not self.optimizer.state[p]:
                self.optimizer.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
        states = [self.optimizer.state[p] for p in self.parameters]
        self._count.copy_(states[0]["step"])
        self.state: list[Tensor] = [*(s["exp_avg"] for s in states), *(s["exp_avg_sq"] for s in states)]
        self.state += [self._count, self._lr]

    def _hand_over(self) -> None:
        for p in self.parameters:
            self.optimizer.state[p]["step"].copy_(self._count)

    def set_rate(self) -> None:
        """Reads the learning rate that the optimiser has now, for the operations."""
        if self.group["lr"] != self._lr_is:
            self._lr_is = self.group["lr"]
            self._lr.fill_(self._lr_is)

    def step(self) -> None:
        """Takes a step by torch's own operation, along the gradients that the parameters have."""
        self._hand_over()
        self.optimizer.step()
        self._count += 1

    def move(
        self, parameters: Sequence[Tensor], state: Sequence[Tensor], gradients: Sequence[Tensor], ok: Tensor
    ) -> None:
        """Takes a step by operations that can be recorded, in place.

        Arguments:
            parameters: Those that are moved.
            state: Moments, count and learning rate, as :attr:`state`.
            gradients: Of the parameters.
            ok: Where it is false, a scalar, nothing moves.
        """
        n = len(parameters)
        *moments, count, lr = state
        beta1, beta2 = self.group["betas"]
        after = count + 1
        size = lr / (1 - beta1**after)
        root = (1 - beta2**after).sqrt()
        for p, m, v, g in zip(parameters, moments[:n], moments[n:], gradients, strict=True):
            first = m + (g - m) * (1 - beta1)
            second = v * beta2 + (1 - beta2) * g * g
            decayed = p * (1 - lr * self.group["weight_decay"]).to(p.dtype) if self.group["weight_decay"] else p
            moved = decayed - size.to(p.dtype) * first / (second.sqrt() / root.to(p.dtype) + self.group["eps"])
            for old, new in ((p, moved), (m, first), (v, second)):
                old.copy_(torch.where(ok, new, old))
        count.copy_(torch.where(ok, after, count))
