"""Convolutions and attention that are faster on a CPU than torch's own, in training and in bf16."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1024  # positions of a matrix product, whose operands then fit in the cache
FEWEST_CHANNELS = 64  # of input and output; with fewer, matrix products are not faster
MOST_SEQUENCES = 65_535  # that CUDA's attention kernels take at a time
# Positions up to which, on a CPU in bf16, two products and a softmax are faster than the fused kernel with its float32
# exponentials and backward pass: 1.4 to 2.4 times on an EPYC with AVX512-BF16, twice in training.
LONGEST_IN_PRODUCTS = 1024
MOST_WEIGHTS = 1_000_000  # attention weights of a slice, which then fits in the cache


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Convolves at stride 1 as `F.conv2d`: (N, C, T, F) -> (N, C', T', F'), fastest in the channels_last format."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not weight.requires_grad:
        return F.conv2d(x, weight, bias, padding=padding)
    if not torch.is_autocast_enabled("cpu"):
        return cast(Tensor, _Convolution.apply(x, weight, bias, padding))
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        return cast(Tensor, _Convolution.apply(x, weight, bias, padding))


class _Convolution(torch.autograd.Function):
    """Convolution on a CPU with faster gradients than oneDNN's (3.10).

    In float32, oneDNN takes about twice as long as a plain convolution for the gradient of the input, and two to three
    times as long as matrix products for that of wide weights. With these instead, a training step of `light` takes 0.77
    of the time (4 s, two repeats, two cores of an EPYC with AVX2). In bf16, the bias of a convolution along time more
    than doubles the time of all its gradients, of which a sum takes a twentieth.
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
            of_input = input_gradient(weight, gradient, ctx.padding) if ctx.needs_input_grad[0] else None
            of_weight = weight_gradient(x, gradient, tuple(weight.shape[2:]), ctx.padding)
        else:
            mask = [ctx.needs_input_grad[0], True, False]
            of_input, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, mask
            )
        return of_input, of_weight, of_bias, None


def input_gradient(weight: Tensor, gradient: Tensor, padding: tuple[int, int]) -> Tensor:
    """Returns the gradient (N, C, T, F) of a convolution's input: the convolution with the kernel reversed.

    Takes the weight (C', C, *kernel) and output gradients (N, C', T', F'); padding over (T, F) is below the kernel.
    """
    around = [size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True)]
    return F.conv2d(gradient, weight.flip(-1, -2).transpose(0, 1), padding=around)


def weight_gradient(x: Tensor, gradient: Tensor, kernel: tuple[int, ...], padding: tuple[int, int]) -> Tensor:
    """Returns the gradient (C', C, *kernel) of a convolution's weight, as matrix products of blocks of frames.

    Takes inputs (N, C, T, F) and output gradients (N, C', T', F'), with kernel and padding over (T, F), padding below
    the kernel. The narrower of the two is shifted by each tap.
    """
    if x.shape[1] <= gradient.shape[1]:
        return _shifted_products(x, gradient, kernel, padding).permute(3, 2, 0, 1)
    around = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    return _shifted_products(gradient, x, kernel, around).flip(0, 1).permute(2, 3, 0, 1)


def _shifted_products(narrow: Tensor, wide: Tensor, kernel: tuple[int, ...], padding: tuple[int, int]) -> Tensor:
    """Returns (*kernel, C, C'), the products of (N, C, T, F), padded and shifted by each tap, with (N, C', T', F')."""
    (over_t, over_f), (frames, bins) = padding, wide.shape[2:]
    padded = F.pad(narrow.permute(0, 2, 3, 1), (0, 0, over_f, over_f, over_t, over_t))
    wide = wide.permute(0, 2, 3, 1)
    total = narrow.new_zeros(kernel[0] * kernel[1] * narrow.shape[1], wide.shape[-1])
    rows = max(1, BLOCK // bins)
    for item, other in zip(padded, wide, strict=True):
        for begin in range(0, frames, rows):
            end = min(frames, begin + rows)
            taps = [item[begin + i : end + i, j : j + bins] for i in range(kernel[0]) for j in range(kernel[1])]
            total.addmm_(torch.cat(taps, dim=-1).flatten(0, 1).T, other[begin:end].flatten(0, 1))
    return total.unflatten(0, (*kernel, -1))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes softmax attention of any number of sequences, 3 x (N, heads, n, dim) -> (N, heads, n, dim)."""
    if in_products(q):
        return attend_in_products(q, k, v)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        q, k, v = q.float(), k.float(), v.float()  # in bf16 the fused kernel's backward pass is many times slower
    if torch.compiler.is_exporting() or q.shape[0] <= MOST_SEQUENCES:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(x.split(MOST_SEQUENCES) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


def in_products(q: Tensor) -> bool:
    """Returns True if `attend_in_products` is faster than the fused kernel."""
    # Not when compiling, which would make a graph for each number of slices.
    in_bf16 = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    return in_bf16 and q.shape[-2] <= LONGEST_IN_PRODUCTS


def attend_in_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes `attend` as two matrix products and a softmax, in slices along the larger of the first two axes."""
    axis = 0 if q.shape[0] >= q.shape[1] else 1
    width = max(1, MOST_WEIGHTS // (q.shape[1 - axis] * q.shape[2] * k.shape[2]))

    def of_slice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v

    return torch.cat([of_slice(*part) for part in zip(*(x.split(width, axis) for x in (q, k, v)), strict=True)], axis)
