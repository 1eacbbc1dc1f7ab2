"""Softmax attention of many sequences at a time, and which of its kernels computes it where."""

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SEQUENCES = 65_535  # that CUDA's attention kernels take at a time
# On a CPU in bf16, up to so many positions two products and a softmax are faster than the fused kernel, which computes
# its exponentials and its backward pass in float32: 1.4 to 2.4 times on an EPYC with AVX512-BF16, twice in training.
LONGEST_IN_PRODUCTS = 1024
MOST_WEIGHTS = 1_000_000  # of a slice of these sequences, so that they stay in the cache


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of any number of sequences, 3 x (N, heads, n, dim) -> (N, heads, n, dim)."""
    if in_products(q):
        return attend_in_products(q, k, v)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        q, k, v = q.float(), k.float(), v.float()  # the fused kernel's backward pass takes many times as long in bf16
    if len(q) <= MOST_SEQUENCES:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(x.split(MOST_SEQUENCES) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


def in_products(q: Tensor) -> bool:
    """Whether `attend_in_products` is the faster way; a compiler would make a graph for each number of slices."""
    short = q.shape[-2] <= LONGEST_IN_PRODUCTS
    return short and q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling()


def attend_in_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` as two matrix products and a softmax, in slices along the larger of the first two axes."""
    axis = 0 if q.shape[0] >= q.shape[1] else 1
    width = max(1, MOST_WEIGHTS // (q.shape[1 - axis] * q.shape[2] * k.shape[2]))

    def of_slice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v

    return torch.cat([of_slice(*part) for part in zip(*(x.split(width, axis) for x in (q, k, v)), strict=True)], axis)
