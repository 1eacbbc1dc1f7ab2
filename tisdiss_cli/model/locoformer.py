"""Paths of TF-Locoformer (Saijo et al. 2024), the block that TISDiSS repeats.

Features are channels last, (N, T, F, D), so that every linear map is a plain matrix product and every convolution runs
on the `channels_last` view (N, D, T, F) of the same memory. Sequences run along one axis, F in the frequency path, T
in the frame path, S in the speaker path; all other axes are batch. Parameters keep the published shapes.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.cpu_kernels import attend, convolve

FREQUENCY, FRAME = "frequency", "frame"
MOST_ELEMENTS = 2_000_000_000  # of a tensor: most CUDA kernels count in 32 bits
# Above 32 MiB on a CPU, the C library takes every tensor from the system and gives it back, page by page.
MOST_ELEMENTS_ON_CPU = 8_000_000


def compute_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype of a linear map of x: autocast's, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def sliced(function: Callable[[Tensor], Tensor], x: Tensor, axis: int, elements: int) -> Tensor:
    """Applies `function` to x, in slices along its batch `axis` where tensors would be too large.

    `elements`: size of the largest tensor that `function` makes from all of x.
    """
    # Not for training, which keeps the tensors, nor when compiling, which would make a graph for each number of slices.
    small = x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    most = min(MOST_ELEMENTS_ON_CPU, MOST_ELEMENTS) if small else MOST_ELEMENTS
    if torch.compiler.is_exporting() or elements <= most:  # a bound would be the exported model's longest input
        return function(x)
    return torch.cat([function(part) for part in x.chunk(-(-elements // most), axis)], axis)


class RMSGroupNorm(nn.Module):
    """Division of each of `groups` groups of channels by (root mean square + eps), with the scale gamma (D,).

    The next linear map multiplies gamma into its weights, which saves a pass over the features.
    """

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (..., D) by float32 statistics, without gamma, to the dtype of the next linear map."""
        grouped = x.float().unflatten(-1, (self.groups, -1))  # (..., G, D / G)
        rms = torch.linalg.vector_norm(grouped, dim=-1, keepdim=True) * grouped.shape[-1] ** -0.5
        return (grouped * (rms + self.eps).reciprocal()).flatten(-2).to(compute_dtype(x))


class FeedForward(nn.Module):
    """Norm and convolutional SwiGLU: Conv1d D -> 2H, gate, ConvTranspose1d H -> D, along one axis.

    Both ends are padded with kernel - 1 zeros, and the transposed convolution drops its kernel - 1 outermost positions,
    so that the length stays. Cropped like this it equals a plain convolution with the kernel reversed, and runs as one.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        d, h, k = config.channels, config.ffn_hidden, config.kernel_size
        self.conv = nn.Conv1d(d, 2 * h, k)
        self.deconv = nn.ConvTranspose1d(h, d, k)

    def forward(self, x: Tensor, norm: RMSGroupNorm, axis: str) -> Tensor:
        """Maps (N, T, F, D) -> (N, T, F, D), along `axis`: "frequency" or "frame"."""
        pad = self.conv.kernel_size[0] - 1
        kernel_axis, padding = (2, (0, pad)) if axis == FREQUENCY else (3, (pad, 0))
        conv_weight = (self.conv.weight * norm.gamma[:, None]).unsqueeze(kernel_axis)
        deconv_weight = self.deconv.weight.flip(-1).transpose(0, 1).unsqueeze(kernel_axis)
        y = convolve(norm(x).permute(0, 3, 1, 2), conv_weight, self.conv.bias, padding)
        y = self.gated(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (N, H, T, F + pad) or (N, H, T + pad, F)
        return convolve(y, deconv_weight, self.deconv.bias).permute(0, 2, 3, 1)

    def gated(self, y: Tensor) -> Tensor:
        """Applies SwiGLU, (..., 2H) -> (..., H)."""
        value, gate = y.chunk(2, dim=-1)
        return value * F.silu(gate)

    def dense_maps(self, length: int, norm: RMSGroupNorm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns `forward` without the norm's division as two matrices and biases, for sequences of `length` S.

        With P = S + kernel - 1 positions between the convolutions: (P*2H, S*D), (P*2H,), (S*D, P*H), (S*D,). At two
        speakers most of the kernel falls on padding, which these products skip.
        """
        kernel = self.conv.kernel_size[0]
        positions = length + kernel - 1
        device = self.conv.weight.device
        # Position p of the first convolution reads input s through tap s - p + kernel - 1, and position s of the
        # transposed one reads p through the same tap. Taps outside the kernel are zeros.
        tap = torch.arange(length, device=device)[None] - torch.arange(positions, device=device)[:, None] + kernel - 1
        inside = ((tap >= 0) & (tap < kernel)).to(self.conv.weight.dtype)
        tap = tap.clamp(0, kernel - 1)
        first = (self.conv.weight * norm.gamma[:, None])[:, :, tap] * inside  # (2H, D, P, S)
        second = self.deconv.weight[:, :, tap] * inside  # (H, D, P, S)
        return (
            first.permute(2, 0, 3, 1).flatten(2).flatten(0, 1),
            cast(Tensor, self.conv.bias).repeat(positions),
            second.permute(3, 1, 2, 0).flatten(2).flatten(0, 1),
            cast(Tensor, self.deconv.bias).repeat(length),
        )


def rotary_angles(length: int, head_dim: int, device: torch.device) -> Tensor:
    """Returns the rotary embedding's angles, position times frequency, (length, head_dim / 2), base 10000."""
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    return torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates interleaved pairs, (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin), in float32.

    Complex numbers take one pass over memory instead of several. torch.compile does not support them, but fuses the
    real form into one pass.
    """
    if torch.compiler.is_compiling():
        return rotate_in_parts(x, angles)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def rotate_in_parts(x: Tensor, angles: Tensor) -> Tensor:
    """Computes `rotate` without complex numbers."""
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Norm and multi-head self-attention with rotary positions, without biases."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.channels, 3 * config.attention_channels, bias=False)
        self.out = nn.Linear(config.attention_channels, config.channels, bias=False)

    def projected(self, x: Tensor, norm: RMSGroupNorm, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries and keys, rotated by position along `axis`, and values: (..., D) -> 3 x (..., heads, dim)."""
        qkv = F.linear(norm(x), self.qkv.weight * norm.gamma).unflatten(-1, (3, self.heads, -1))
        qk, v = qkv.split((2, 1), dim=-3)
        angles = rotary_angles(x.shape[axis], v.shape[-1], x.device)
        q, k = rotate(qk, angles.view(angles.shape[0], *[1] * (qk.dim() - axis - 2), -1)).unbind(-3)
        return q, k, v.squeeze(-3)

    def forward(self, x: Tensor, norm: RMSGroupNorm, axis: str) -> Tensor:
        """Maps (N, T, F, D) -> (N, T, F, D), along `axis`: "frequency" or "frame"."""
        q, k, v = self.projected(x, norm, 2 if axis == FREQUENCY else 1)
        # (N * T, F, heads, dim) or (N, T, F * heads, dim), a view of the same memory: all but the sequence is batch.
        q, k, v = (part.to(v.dtype).flatten(*((0, 1) if axis == FREQUENCY else (2, 3))) for part in (q, k, v))
        with torch.autocast(x.device.type, enabled=False):
            y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(y.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())

    def across(self, x: Tensor, norm: RMSGroupNorm) -> Tensor:
        """Maps (B, S, T, F, D) -> (B, S, T, F, D) along S, a very short sequence, in closed form."""
        q, k, v = self.projected(x, norm, 1)  # (B, S, T, F, heads, dim)
        scale = q.shape[-1] ** -0.5
        if x.shape[1] == 2:  # the softmax of two scores is the sigmoid of their difference
            difference = (q * (k[:, 1:] - k[:, :1])).sum(-1, keepdim=True) * scale  # (B, 2, T, F, heads, 1)
            first, second = v.split(1, dim=1)
            y = first + difference.sigmoid().to(v.dtype) * (second - first)
        else:
            scores = (q[:, :, None] * k[:, None]).sum(-1, keepdim=True) * scale  # (B, S, S, T, F, heads, 1)
            y = (scores.softmax(dim=2).to(v.dtype) * v[:, None]).sum(2)
        return self.out(y.flatten(-2).contiguous())


class SpectralPath(nn.Module):
    """Frequency or frame path: feed-forward, attention, feed-forward, each added to its input."""

    def __init__(self, config: Config, axis: str) -> None:
        super().__init__()
        self.axis = axis

        def norm() -> RMSGroupNorm:
            return RMSGroupNorm(config.channels, config.norm_groups, config.eps)

        self.ffn_pre_norm, self.ffn_pre = norm(), FeedForward(config)
        self.attention_norm, self.attention = norm(), Attention(config)
        self.ffn_post_norm, self.ffn_post = norm(), FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, F, D) -> (N, T, F, D)."""
        sequence, batch = (2, 1) if self.axis == FREQUENCY else (1, 2)
        conv = self.ffn_pre.conv
        hidden = conv.out_channels * (x.shape[sequence] + conv.kernel_size[0] - 1)
        return sliced(self.of_slice, x, batch, x.shape[0] * x.shape[batch] * hidden)

    def of_slice(self, x: Tensor) -> Tensor:
        """Maps a slice of the sequences; `Separator.compile` compiles this."""
        x = x + self.ffn_pre(x, self.ffn_pre_norm, self.axis)
        x = x + self.attention(x, self.attention_norm, self.axis)
        return x + self.ffn_post(x, self.ffn_post_norm, self.axis)


class SpeakerPath(nn.Module):
    """Attention and feed-forward across the speakers of each time-frequency bin."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSGroupNorm(config.channels, config.norm_groups, config.eps)
        self.attention = Attention(config)
        self.ffn_post_norm = RMSGroupNorm(config.channels, config.norm_groups, config.eps)
        self.ffn_post = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, S, T, F, D) -> (B, S, T, F, D)."""
        conv = self.ffn_post.conv
        hidden = conv.out_channels * (x.shape[1] + conv.kernel_size[0] - 1)
        return sliced(self.of_slice, x, 2, x.shape[0] * x.shape[2] * x.shape[3] * hidden)

    def of_slice(self, x: Tensor) -> Tensor:
        """Maps a slice of the frames; `Separator.compile` compiles this."""
        x = x + self.attention.across(x, self.attention_norm)
        conv = self.ffn_post.conv
        first, first_bias, second, second_bias = self.ffn_post.dense_maps(x.shape[1], self.ffn_post_norm)
        y = self.ffn_post_norm(x).permute(0, 2, 3, 1, 4).flatten(3)  # (B, T, F, S * D)
        y = F.linear(y, first, first_bias).unflatten(-1, (-1, conv.out_channels))
        y = F.linear(self.ffn_post.gated(y).flatten(3), second, second_bias)
        return x + y.unflatten(-1, (x.shape[1], -1)).permute(0, 3, 1, 2, 4)
