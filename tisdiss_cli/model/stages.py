"""The five stages of TISDiSS under the paper's names: Encoder, Separator, Splitter, Reconstructor, Decoder."""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tisdiss_cli.model.config import Config
from tisdiss_cli.model.cpu_kernels import convolve
from tisdiss_cli.model.locoformer import FRAME, FREQUENCY, SpeakerPath, SpectralPath


def conv2d(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolves over (T, F), channels last: (N, T, F, C) -> (N, T', F', C'); T' = T, F' = F at stride 1."""
    x = x.permute(0, 3, 1, 2)
    if conv.stride == (1, 1):
        y = convolve(x, conv.weight, conv.bias, _padding(conv))
    else:
        y = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    return y.permute(0, 2, 3, 1)


def deconv2d(x: Tensor, deconv: nn.ConvTranspose2d, size: tuple[int, int]) -> Tensor:
    """Computes the transposed `conv2d` of a grid of `size` (T, F): (N, T', F', C) -> (N, T, F, C')."""
    if deconv.stride == (1, 1) and all(kernel == 2 * pad + 1 for kernel, pad in _geometry(deconv)):
        # Equal to a convolution with the kernel reversed, which is faster channels last.
        weight = deconv.weight.flip(-1, -2).transpose(0, 1)
        y = convolve(x.permute(0, 3, 1, 2), weight, deconv.bias, _padding(deconv))
    else:
        # Several sizes have the same coarse grid: the missing rows and columns are added at the far ends.
        shape = zip(size, x.shape[1:3], deconv.stride, _geometry(deconv), strict=True)
        more = [n - ((m - 1) * stride - 2 * pad + kernel) for n, m, stride, (kernel, pad) in shape]
        y = F.conv_transpose2d(
            x.permute(0, 3, 1, 2), deconv.weight, deconv.bias, deconv.stride, _padding(deconv), tuple(more)
        )
    return y.permute(0, 2, 3, 1)


def _geometry(deconv: nn.ConvTranspose2d) -> list[tuple[int, int]]:
    """Returns (kernel, padding) over T and over F."""
    return list(zip(deconv.kernel_size, _padding(deconv), strict=True))


def _padding(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int]:
    """Returns the padding over T and over F, which torch also allows as a string."""
    return cast(tuple[int, int], conv.padding)


def spectral_kernel(config: Config) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Returns kernel, stride and padding of the Encoder's and the Decoder's convolution."""
    kernel = config.encoder_kernel
    return kernel, config.encoder_stride, (kernel[0] // 2, kernel[1] // 2)


class Encoder(nn.Module):
    """Encoder from spectrum to mixture features: Conv2d 2 -> D, GroupNorm over (D, T', F').

    At a stride above 1, which the paper does not have, the features' grid (T', F') is coarser than the spectrum's
    (T, F) up to the Decoder.
    """

    window: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_fft, self.hop_length = config.n_fft, config.hop_length
        self.conv = nn.Conv2d(2, config.channels, *spectral_kernel(config))
        self.norm = nn.GroupNorm(1, config.channels, eps=1e-5)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Transforms (B, L) -> (B, T, F, 2) with T = L // hop + 1; L must exceed n_fft / 2. Always float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            stft = torch.stft(waveform.float(), self.n_fft, self.hop_length, window=self.window, return_complex=True)
            return torch.view_as_real(stft.transpose(1, 2))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Encodes (B, T, F, 2) -> (B, T', F', D)."""
        x = conv2d(spectrum, self.conv)
        with torch.autocast(x.device.type, enabled=False):
            return self.norm(x.float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


class Reinjection(nn.Module):
    """Addition of the mixture features to a layer's input: PReLU(depthwise 1 x 1 convolution of the sum)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.channels, config.channels, 1, groups=config.channels)
        self.activation = nn.PReLU()

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Adds `features` (B, T, F, D), broadcast over the speakers, to `x` (..., T, F, D); keeps x's shape."""
        # A depthwise 1 x 1 convolution is one factor and one offset for each channel.
        return self.activation((features + x) * self.conv.weight.flatten() + cast(Tensor, self.conv.bias))


class SeparatorLayer(nn.Module):
    """Frequency and frame path, in the configured order."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.order = (FREQUENCY, FRAME) if config.path_order == "ft" else (FRAME, FREQUENCY)
        self.frequency = SpectralPath(config, FREQUENCY)
        self.frame = SpectralPath(config, FRAME)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, F, D) -> (N, T, F, D)."""
        for axis in self.order:
            x = getattr(self, axis)(x)
        return x


class SeparatorStage(nn.Module):
    """Stack of layers, repeated with the same parameters, on the mixture's features."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.reinjected = config.separator_reinjection
        self.layers = nn.ModuleList(SeparatorLayer(config) for _ in range(config.separator_layers))

    def forward(self, features: Tensor, repeats: int, reinjection: Reinjection | None) -> Iterator[Tensor]:
        """Yields the output (B, T, F, D) of every layer of every repeat, in order, from `features` (B, T, F, D)."""
        x = features
        for index in range(repeats * len(self.layers)):
            if self.reinjected and reinjection is not None and index > 0:
                x = reinjection(features, x)
            x = self.layers[index % len(self.layers)](x)
            yield x


class Splitter(nn.Module):
    """Splitter of one feature map into S: Conv2d D -> 2M with SwiGLU, ConvTranspose2d M -> D * S, M = 2 * D * S."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.speakers = config.speakers
        hidden = 2 * config.channels * config.speakers
        self.conv = nn.Conv2d(config.channels, 2 * hidden, 3, padding=1)
        self.deconv = nn.ConvTranspose2d(hidden, config.channels * config.speakers, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Splits (B, T, F, D) -> (B, S, T, F, D), float32 at any precision, as the paths add their outputs to it."""
        value, gate = conv2d(x, self.conv).chunk(2, dim=-1)
        y = deconv2d(value * F.silu(gate), self.deconv, (x.shape[1], x.shape[2]))
        return y.unflatten(-1, (self.speakers, -1)).permute(0, 3, 1, 2, 4).contiguous().float()


class ReconstructorLayer(nn.Module):
    """Frequency, frame and speaker path."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spectral = SeparatorLayer(config)
        self.speaker = SpeakerPath(config)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, S, T, F, D) -> (B, S, T, F, D)."""
        return self.speaker(self.spectral(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


class Reconstructor(nn.Module):
    """Stack of layers, repeated with the same parameters, on every speaker's features."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.reinjected = config.reconstructor_reinjection
        self.layers = nn.ModuleList(ReconstructorLayer(config) for _ in range(config.reconstructor_layers))

    def forward(self, features: Tensor, x: Tensor, repeats: int, reinjection: Reinjection | None) -> Iterator[Tensor]:
        """Yields, for `features` (B, T, F, D) and `x` (B, S, T, F, D), the output of every layer of every repeat."""
        for index in range(repeats * len(self.layers)):
            if self.reinjected and reinjection is not None:
                x = reinjection(features[:, None], x)
            x = self.layers[index % len(self.layers)](x)
            yield x


def inverse_stft(spectrum: Tensor, hop: int, window: Tensor, length: int) -> Tensor:
    """Inverts complex (N, T, F) -> (N, length), float32, by overlap-add of windowed frames over the windows' squares.

    Equals torch.istft of centred frames, which waits for the device to check that the sum of squares is above 0. For a
    Hann window and a hop of at most half its length it always is.
    """
    n_fft, frames = len(window), spectrum.shape[1]
    size = n_fft + hop * (frames - 1)
    parts = torch.fft.irfft(spectrum, n_fft) * window

    def overlapped(parts: Tensor) -> Tensor:
        whole: Tensor = torch.ops.aten.unfold_backward(parts, [len(parts), size], 1, n_fft, hop)
        return whole[:, n_fft // 2 : n_fft // 2 + length]

    y = overlapped(parts) / overlapped(window.square().expand(1, frames, n_fft))
    return F.pad(y, (0, length - y.shape[1]))  # for the samples after the last frame's middle


class Decoder(nn.Module):
    """Decoder from features to waveforms: ConvTranspose2d D -> 2 (real, imaginary), inverse STFT.

    The two channels are each speaker's spectrum, as in the paper, or with `output` "mask", which the paper does not
    have, a complex mask for the scaled mixture's spectrum.
    """

    window: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.hop_length, self.masks = config.hop_length, config.output == "mask"
        self.deconv = nn.ConvTranspose2d(config.channels, 2, *spectral_kernel(config))
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, x: Tensor, mixture: Tensor, length: int) -> Tensor:
        """Decodes (B, S, T', F', D) with the mixture's spectrum (B, T, F, 2) -> (B, S, length), float32."""
        spectra = self.spectra(x, mixture)
        with torch.autocast(x.device.type, enabled=False):
            whole = torch.view_as_complex(spectra.contiguous()).flatten(0, 1)
            return inverse_stft(whole, self.hop_length, self.window, length).unflatten(0, x.shape[:2])

    def spectra(self, x: Tensor, mixture: Tensor) -> Tensor:
        """Decodes as `forward` up to the voices' spectra (B, S, T, F, 2), float32."""
        y = deconv2d(x.flatten(0, 1), self.deconv, (mixture.shape[1], mixture.shape[2]))
        with torch.autocast(y.device.type, enabled=False):
            y = y.float().unflatten(0, x.shape[:2])
            return product(y, mixture[:, None]) if self.masks else y


def product(one: Tensor, other: Tensor) -> Tensor:
    """Multiplies complex numbers (..., 2), part by part in an exported model, which has no complex type."""
    if torch.compiler.is_exporting():
        (a, b), (c, d) = one.unbind(-1), other.unbind(-1)
        return torch.stack((a * c - b * d, a * d + b * c), dim=-1)
    return torch.view_as_real(torch.view_as_complex(one.contiguous()) * torch.view_as_complex(other.contiguous()))
