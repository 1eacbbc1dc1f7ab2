"""The stages' convolutions of stride 1, with gradients that on a CPU are found by faster ways."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

FEWEST_CHANNELS = 64  # on both sides: with fewer, the products are too narrow to be the faster way


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """`F.conv2d` of stride 1: (N, C, T, F) -> (N, C', T', F'), best in memory with the channels last."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not weight.requires_grad:
        return F.conv2d(x, weight, bias, padding=padding)
    if not torch.is_autocast_enabled("cpu"):
        return cast(Tensor, _Convolution.apply(x, weight, bias, padding))
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return cast(Tensor, _Convolution.apply(x, weight, bias, padding))


class _Convolution(torch.autograd.Function):
    """On a CPU, where oneDNN (3.10) is slow at some gradients; that of the input keeps a convolution's pace.

    In float32 it takes two to three times as long over the gradient of wide weights as products do: so a training step
    of the released network takes 0.8 of the time; with 64 channels it is about the same. In bf16 the bias of a
    convolution along time more than doubles the time of all its gradients, where a sum takes a twentieth of it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if x.dtype == torch.float32 and min(weight.shape[:2]) >= FEWEST_CHANNELS:
            of_input = conv2d_input(x.shape, weight, gradient, padding=ctx.padding) if ctx.needs_input_grad[0] else None
            of_weight = weight_gradient(x, gradient, tuple(weight.shape[2:]), ctx.padding)
        else:
            wanted = [ctx.needs_input_grad[0], True, False]
            of_input, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, wanted
            )
        return of_input, of_weight, of_bias, None


def weight_gradient(x: Tensor, gradient: Tensor, kernel: tuple[int, ...], padding: tuple[int, int]) -> Tensor:
    """Of every tap of the kernel, the product of all the output's gradients with the inputs that the tap met.

    Args:
        x: the input, (N, C, T, F).
        gradient: the output's, (N, C', T', F').
        kernel: over (T, F).
        padding: over (T, F).

    Returns:
        (C', C, *kernel).
    """
    (over_t, over_f), (frames, bins) = padding, gradient.shape[2:]
    rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, over_f, over_f, over_t, over_t))
    taps = [
        rows.T @ padded[:, i : i + frames, j : j + bins].flatten(0, 2)
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return torch.stack(taps, dim=-1).unflatten(-1, kernel)
