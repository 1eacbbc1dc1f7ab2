"""The network again, naive and obviously right: the oracle of the tests, and what scripts/against-naive compares with.

Written from the paper's equations with torch's own modules in their usual layout, channels first,
every operation where the equations have it: convolutions run on the padded sequences, the speaker
path's too, attention is spelt out, every stage is float32. It reads the parameters of a `TISDiSS`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tisdiss_cli.model.locoformer import Attention, FeedForward, RMSGroupNorm, SpeakerPath, SpectralPath
from tisdiss_cli.model.network import TISDiSS
from tisdiss_cli.model.stages import ReconstructorLayer, SeparatorLayer


def norm(module: RMSGroupNorm, x: Tensor) -> Tensor:
    """(N, n, D) -> (N, n, D)."""
    groups = [group / (group.pow(2).mean(-1, keepdim=True).sqrt() + module.eps) for group in x.chunk(module.groups, -1)]
    return torch.cat(groups, -1) * module.gamma


def feed_forward(module: FeedForward, x: Tensor) -> Tensor:
    """(N, n, D) -> (N, n, D), each sequence padded and the result cropped."""
    pad = module.conv.kernel_size[0] - 1
    y = F.pad(x.transpose(1, 2), (pad, pad))
    value, gate = F.conv1d(y, module.conv.weight, module.conv.bias).chunk(2, dim=1)
    y = F.conv_transpose1d(value * F.silu(gate), module.deconv.weight, module.deconv.bias)
    return y[..., pad : pad + x.shape[1]].transpose(1, 2)


def attention(module: Attention, x: Tensor) -> Tensor:
    """(N, n, D) -> (N, n, D)."""
    n, length, _ = x.shape
    q, k, v = (x @ module.qkv.weight.T).reshape(n, length, 3, module.heads, -1).permute(2, 0, 3, 1, 4)
    dim = q.shape[-1]
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    turn = torch.polar(torch.ones_like(angles), angles).to(x.device)

    def rotary(z: Tensor) -> Tensor:
        pairs = torch.view_as_complex(z.reshape(*z.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    weights = (rotary(q) @ rotary(k).transpose(-1, -2) / dim**0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(n, length, -1) @ module.out.weight.T


def path(module: SpectralPath | SpeakerPath, x: Tensor) -> Tensor:
    """One path on sequences (N, n, D); the speaker path is the one without a pre-feed-forward."""
    if isinstance(module, SpectralPath):
        x = x + feed_forward(module.ffn_pre, norm(module.ffn_pre_norm, x))
    x = x + attention(module.attention, norm(module.attention_norm, x))
    return x + feed_forward(module.ffn_post, norm(module.ffn_post_norm, x))


def spectral(module: SeparatorLayer, x: Tensor) -> Tensor:
    """Frequency and frame path on (N, D, T, F)."""
    for axis in module.order:
        # (N, D, T, F) -> (N, T, F, D) or (N, F, T, D), all but the last two axes batch.
        y = x.permute(0, 2, 3, 1) if axis == "frequency" else x.permute(0, 3, 2, 1)
        y = path(getattr(module, axis), y.flatten(0, 1)).unflatten(0, y.shape[:2])
        x = y.permute(0, 3, 1, 2) if axis == "frequency" else y.permute(0, 3, 2, 1)
    return x


def estimates(
    network: TISDiSS, mixture: Tensor, repeats: int | None = None, separator_repeats: int | None = None
) -> list[Tensor]:
    """(B, L) -> the Splitter's estimate (B, S, L), then every Reconstructor layer's."""
    with torch.no_grad():
        return [decode() for decode in exits(network, mixture, repeats, separator_repeats)]


def separate(network: TISDiSS, mixture: Tensor, repeats: int | None = None) -> Tensor:
    """(B, L) -> the last estimate (B, S, L); the others are not decoded."""
    with torch.no_grad():
        *_, decode = exits(network, mixture, repeats)
        return decode()


def exits(
    network: TISDiSS, mixture: Tensor, repeats: int | None = None, separator_repeats: int | None = None
) -> Iterator[Callable[[], Tensor]]:
    """Yields what decodes the Splitter's output, then every Reconstructor layer's: () -> (B, S, L)."""
    config, length = network.config, mixture.shape[1]
    scale = mixture.std(-1, keepdim=True)
    window = torch.hann_window(config.n_fft, device=mixture.device)
    stft = torch.stft(mixture / scale, config.n_fft, config.hop_length, window=window, return_complex=True)
    x = torch.stack((stft.real, stft.imag), 1).transpose(2, 3)  # (B, 2, T, F)
    features = network.encoder.norm(network.encoder.conv(x))

    def reinject(x: Tensor) -> Tensor:
        assert network.reinjection is not None
        mixture_features = features.repeat(len(x) // len(features), 1, 1, 1)
        return network.reinjection.activation(network.reinjection.conv(mixture_features + x))

    def decode(x: Tensor) -> Tensor:
        """(B * S, D, T, F) -> (B, S, L)."""
        real, imaginary = network.decoder.deconv(x, output_size=stft.shape[:0:-1]).transpose(2, 3).unbind(1)
        spectrum = torch.complex(real.contiguous(), imaginary.contiguous())
        if config.output == "mask":
            spectrum = spectrum * stft.repeat_interleave(config.speakers, 0)
        waveform = torch.istft(spectrum, config.n_fft, config.hop_length, window=window, length=length)
        return waveform.unflatten(0, (-1, config.speakers)) * scale[:, None]

    x = features
    for index in range((separator_repeats or config.separator_repeats) * config.separator_layers):
        if config.separator_reinjection and index > 0:
            x = reinject(x)
        x = spectral(cast(SeparatorLayer, network.separator.layers[index % config.separator_layers]), x)

    value, gate = network.splitter.conv(x).chunk(2, dim=1)
    x = network.splitter.deconv(value * F.silu(gate)).unflatten(1, (config.speakers, -1)).flatten(0, 1)
    yield partial(decode, x)
    repeats = config.reconstructor_repeats if repeats is None else repeats
    for index in range(repeats * config.reconstructor_layers):
        if config.reconstructor_reinjection:
            batch = x.unflatten(0, (-1, config.speakers)).transpose(0, 1).flatten(0, 1)  # speakers outermost
            x = reinject(batch).unflatten(0, (config.speakers, -1)).transpose(0, 1).flatten(0, 1)
        layer = cast(ReconstructorLayer, network.reconstructor.layers[index % config.reconstructor_layers])
        x = spectral(layer.spectral, x)
        y = x.unflatten(0, (-1, config.speakers)).permute(0, 3, 4, 1, 2)  # (B, T, F, S, D)
        y = path(layer.speaker, y.flatten(0, 2)).unflatten(0, y.shape[:3])
        x = y.permute(0, 3, 4, 1, 2).flatten(0, 1)
        yield partial(decode, x)
