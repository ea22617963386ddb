"""Batch norm with the statistics of the global batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class SumOverProcesses(torch.autograd.Function):
    """The sum of every process's tensor, and of every process's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        all_reduce(total)
        return total


class CpuSyncBatchNorm(_BatchNorm):
    """What ``torch.nn.SyncBatchNorm`` is on GPUs, for processes on CPUs.

    Shape: (n, c, ...) to the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var, count = global_moments(x.float())
        self._track(mean.detach(), var.detach() * count / (count - 1).clamp(min=1))
        shape = [1, -1] + [1] * (x.dim() - 2)
        out = (x - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape with channels."""

    def _track(self, mean: Tensor, var: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), rate)
        self.running_var.lerp_(var.to(self.running_var), rate)


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel, and the number of values, over all processes.

    Two passes: a difference of large sums would lose digits.
    """
    dims = [0, *range(2, x.dim())]
    sums = torch.cat([x.sum(dims), x.new_tensor([x.numel() / x.shape[1]])])
    total = _sum(sums)
    count = total[-1].detach()
    mean = total[:-1] / count
    shape = [1, -1] + [1] * (x.dim() - 2)
    squares = _sum((x - mean.view(shape)).square().sum(dims))
    return mean, squares / count, count


def _sum(x: Tensor) -> Tensor:
    total: Tensor = SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]  # torch does not type it
    return total


def sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` with its batch norms synchronised over processes; names and tensors stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch does not type it
    for name, module in model.named_children():
        if isinstance(module, _BatchNorm):
            setattr(model, name, _on_cpu(module))
        else:
            sync_batch_norm(module, device)
    return model


def _on_cpu(norm: _BatchNorm) -> CpuSyncBatchNorm:
    synced = CpuSyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    synced._parameters.update(norm._parameters)
    synced._buffers.update(norm._buffers)
    return synced.train(norm.training)
