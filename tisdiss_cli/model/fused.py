"""Two steps of every path as Triton kernels, for inference on CUDA: bias with SwiGLU, and the group norm's division.

What they compute is bound by memory, so each reads its input once and writes its output once. Importing this module
imports triton; `Separator.use_triton` alone does, and nothing else knows of it. The kernels have no gradients: where
these are enabled, the network goes its own way.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, library, nn

from tisdiss_cli.errors import UserError
from tisdiss_cli.model.locoformer import FeedForward, RMSGroupNorm

_TILE = 2048  # elements of the output that a program computes, about


def use(network: nn.Module) -> None:
    """Has all paths of the network, or of a part of it, run the kernels."""
    for module in network.modules():
        if isinstance(module, RMSGroupNorm):
            module.kernel = divided
        elif isinstance(module, FeedForward):
            module.kernel = gated


def make_ready(device: torch.device, dtype: torch.dtype) -> None:
    """Runs each kernel once, on next to nothing; UserError where Triton cannot make them for the device.

    `dtype`: of the linear maps.
    """
    try:
        little = torch.zeros(2, 4, device=device)
        _gated(little.to(dtype), little[0])
        _divided(little, 2, 1.0, dtype)
    except Exception as error:  # of many kinds: Triton calls a C compiler, an assembler and the driver
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--triton: its kernels cannot be made here ({reason}): leave it out") from error


def gated(y: Tensor, bias: Tensor) -> Tensor:
    """SwiGLU of `y` + `bias`, in float32: (..., 2H), (2H,) -> (value + b1) * silu(gate + b2), (..., H), in y's dtype.

    Passes over memory, in units of (..., H): it reads 2 and writes 1. Eager adds the bias (a convolution's on CUDA: a
    pass of its own that reads 2 and writes 2), computes silu (1 and 1) and multiplies (2 and 1).
    """
    return torch.ops.tisdiss.gated(y, bias) if torch.compiler.is_compiling() else _gated(y, bias)


def divided(x: Tensor, groups: int, eps: float, dtype: torch.dtype) -> Tensor:
    """Each of `groups` groups of channels by (its root mean square + eps), in float32: (..., D) -> (..., D) in `dtype`.

    It reads x once and writes the result once. Eager reads x and writes it as float32 if it is not, reads that for the
    norms and again to multiply, writes the product, and reads it once more to write it in the dtype that autocast
    wants for the linear map to come.
    """
    if torch.compiler.is_compiling():
        return torch.ops.tisdiss.divided(x, groups, eps, dtype)
    return _divided(x, groups, eps, dtype)


def _gated(y: Tensor, bias: Tensor) -> Tensor:
    out = y.new_empty(*y.shape[:-1], y.shape[-1] // 2)
    rows, width = _rows(y), out.shape[-1]
    if out.numel():
        columns = min(128, triton.next_power_of_2(width))
        height = _TILE // columns
        grid = (triton.cdiv(len(rows), height), triton.cdiv(width, columns))
        with torch.cuda.device_of(y):
            _gated_kernel[grid](rows, bias.contiguous(), out, len(rows), width, *rows.stride(), height, columns)
    return out


def _divided(x: Tensor, groups: int, eps: float, dtype: torch.dtype) -> Tensor:
    out = x.new_empty(x.shape, dtype=dtype)
    rows = _rows(x)
    if out.numel():
        lines, width = len(rows) * groups, x.shape[-1] // groups
        columns = triton.next_power_of_2(width)
        height = max(1, _TILE // columns)
        with torch.cuda.device_of(x):
            _divided_kernel[(triton.cdiv(lines, height),)](
                rows, out, lines, width, *rows.stride(), eps, groups, height, columns
            )
    return out


def _rows(x: Tensor) -> Tensor:
    """(..., C) -> (rows, C): a view of any strides, and a copy only where no matrix has those of x.

    A convolution's output, whose channels_last memory (N, C, T, F) was turned to (N, T, F, C), is such a view.
    """
    return x.reshape(-1, x.shape[-1])


# Rows are counted and addressed in 64 bits: an output may have more than 2**31 elements.


@triton.jit
def _gated_kernel(
    y: tl.tensor,  # (rows, 2 * width), of these strides
    bias: tl.tensor,  # (2 * width,)
    out: tl.tensor,  # (rows, width), contiguous
    rows: tl.tensor,
    width: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < width
    inside = (row < rows)[:, None] & known[None, :]
    start = y + row[:, None] * row_stride
    value = tl.load(start + column.to(tl.int64)[None, :] * column_stride, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(start + (column + width).to(tl.int64)[None, :] * column_stride, mask=inside, other=0.0)
    value += tl.load(bias + column, mask=known, other=0.0).to(tl.float32)[None, :]
    gate = gate.to(tl.float32) + tl.load(bias + width + column, mask=known, other=0.0).to(tl.float32)[None, :]
    result = value * gate * tl.sigmoid(gate)
    tl.store(out + row[:, None] * width + column[None, :], result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _divided_kernel(
    x: tl.tensor,  # (lines / GROUPS, GROUPS * width), of these strides; a line is a group of a row
    out: tl.tensor,  # likewise, contiguous
    lines: tl.tensor,
    width: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    eps: tl.tensor,
    GROUPS: tl.constexpr,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    line = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    column = tl.arange(0, COLUMNS)
    inside = (line < lines)[:, None] & (column < width)[None, :]
    channel = (line % GROUPS)[:, None] * width + column[None, :]
    values = tl.load(x + (line // GROUPS)[:, None] * row_stride + channel * column_stride, mask=inside, other=0.0)
    values = values.to(tl.float32)
    rms = tl.sqrt(tl.sum(values * values, axis=1) / width)
    result = values / (rms + eps)[:, None]
    tl.store(out + line[:, None] * width + column[None, :], result.to(out.dtype.element_ty), mask=inside)


# For torch.compile each is one opaque operation of a known shape, whatever the compiler's backend.
_gated_op = library.custom_op("tisdiss::gated", _gated, mutates_args=())
_divided_op = library.custom_op("tisdiss::divided", _divided, mutates_args=())


@_gated_op.register_fake
def _(y: Tensor, bias: Tensor) -> Tensor:
    return y.new_empty(*y.shape[:-1], y.shape[-1] // 2)


@_divided_op.register_fake
def _(x: Tensor, groups: int, eps: float, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)
