"""Lookahead around SGD, with all of its state where nnU-Net's own checkpoint finds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LookaheadSGD(torch.optim.SGD):
    """SGD whose fast weights are pulled back to slow ones every ``k`` steps.

    Zhang, Lucas, Hinton, Ba: Lookahead Optimizer: k steps forward, 1 step back, NeurIPS 2019, Algorithm 1. SGD's
    momentum is kept across a pull (the paper's "maintain"). The network holds the fast weights between pulls;
    ``synchronise`` makes it hold the slow ones.

    The slow copy is taken immediately before the first step and not at construction, so that pretrained weights
    loaded in between are honoured. It lies in ``state[p]["slow"]`` and the number of steps since the last pull in
    ``param_groups[i]["since_pull"]``: ``state_dict`` carries both exactly, in the middle of a block as well.

    Args:
        params: parameters or parameter groups, as for SGD.
        lr: learning rate of the fast weights.
        k: steps between two pulls, at least 1.
        alpha: share of the way from slow to fast weights that a pull goes, in (0, 1].
        **sgd: further arguments of torch.optim.SGD (momentum, nesterov, weight_decay, …).

    Raises:
        ValueError: k or alpha out of range.
    """

    def __init__(self, params, lr: float, *, k: int = 5, alpha: float = 0.5, **sgd: Any) -> None:
        if k < 1 or not 0 < alpha <= 1:
            raise ValueError(f"Lookahead needs k >= 1 and 0 < alpha <= 1, got k={k} and alpha={alpha}")
        super().__init__(params, lr, **sgd)
        self.defaults.update(k=k, alpha=alpha, since_pull=0)
        for group in self.param_groups:
            for name in ("k", "alpha", "since_pull"):
                group.setdefault(name, self.defaults[name])

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch declares two overloads, this is both
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """One step of SGD; every k-th is followed by the pull. Returns the closure's loss."""
        for group in self.param_groups:
            for p in group["params"]:
                if "slow" not in self.state[p]:
                    self.state[p]["slow"] = p.detach().clone(memory_format=torch.preserve_format)
        loss = super().step(closure)
        for group in self.param_groups:
            group["since_pull"] += 1
            if group["since_pull"] >= group["k"]:
                self._pull(group)
        return loss

    @torch.no_grad()
    def synchronise(self) -> None:
        """Ends an unfinished block early, so that fast and slow weights agree; nothing happens if they do."""
        for group in self.param_groups:
            if group["since_pull"]:
                self._pull(group)

    def _pull(self, group: dict) -> None:
        """slow <- slow + alpha (fast - slow), fast <- slow."""
        for p in group["params"]:
            slow = self.state[p]["slow"]
            slow.lerp_(p, group["alpha"])
            p.copy_(slow)
        group["since_pull"] = 0
