"""Muon for matrices and kernels, AdamW for the rest, as one optimizer.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") steps along the nearest orthogonal
matrix to the momentum, so that rare directions learn as fast as common ones. On this project's tokenizer it needs about
half the steps of AdamW (docs/LOG.md). Steps are scaled to the size of AdamW's (arXiv 2502.16982), so that both
halves share a learning rate. ``torch.optim.Muon`` takes no convolutions, hence this file.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vq.hardware import has_bf16


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for parameters of two and more dimensions; AdamW for the others.

    Args:
        named_parameters: of the model. Embedding tables, and whatever is named in ``adamw``, go to AdamW too:
            their rows are not directions of one space.
        lr: learning rate of both halves.
        momentum: of Muon; betas: of AdamW; weight_decay: decoupled, of matrices and kernels only.
        adamw: parts of the names of parameters that AdamW takes, such as first and last layers.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        adamw: tuple[str, ...] = (),
    ) -> None:
        matrices, rest = [], []
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                ours = parameter.ndim >= 2 and not any(part in name for part in adamw)
                (matrices if ours else rest).append(parameter)
        tables, vectors = [p for p in rest if p.ndim >= 2], [p for p in rest if p.ndim < 2]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "orthogonal": False}
        groups = [
            {"params": matrices, "orthogonal": True},
            {"params": tables},
            {"params": vectors, "weight_decay": 0.0},
        ]
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                (self._muon if group["orthogonal"] else self._adamw)(parameters, group)
        return loss

    # Lists of tensors at once, as a GPU waits for a call for each of hundreds of small ones.

    def _muon(self, parameters: list[Tensor], group: dict) -> None:
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter, matrix in zip(parameters, ahead, strict=True):
            matrix = matrix.flatten(1)
            alike.setdefault(matrix.shape, []).append((parameter, matrix))
        for shape, pairs in alike.items():  # matrices of one shape together: half the time
            updates = orthogonal(torch.stack([matrix for _, matrix in pairs]))
            updates = [update.view_as(parameter) for (parameter, _), update in zip(pairs, updates, strict=True)]
            scale = -group["lr"] * 0.2 * max(shape) ** 0.5
            torch._foreach_add_([parameter for parameter, _ in pairs], updates, alpha=scale)

    def _adamw(self, parameters: list[Tensor], group: dict) -> None:
        beta1, beta2 = group["betas"]
        alike: dict[float, list[Tensor]] = {}  # by their number of steps: most have had all
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state |= {"step": torch.zeros(()), "mean": torch.zeros_like(parameter)}
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
            alike.setdefault(state["step"].item(), []).append(parameter)
        for step, some in alike.items():
            gradients = [parameter.grad for parameter in some]
            means, squares = ([self.state[parameter][name] for parameter in some] for name in ("mean", "square"))
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - beta2)
            roots = torch._foreach_div(squares, 1 - beta2**step)
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, 1e-8)
            torch._foreach_addcdiv_(some, means, roots, value=-group["lr"] / (1 - beta1**step))


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of matrices U S V^T (k, m, n) by Newton-Schulz iterations: singular values end in 0.7 ... 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if has_bf16(matrices.device) else matrices.float()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT.contiguous()
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + (b gram + c gram^2) x
    return (x if wide else x.mT).to(matrices.dtype)
