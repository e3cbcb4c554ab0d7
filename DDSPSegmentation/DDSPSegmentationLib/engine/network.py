"""The DDSP ConNet (Liu et al. 2018, section 2, figures 2 and 3) and the variants of its Tables 2, 3, 4 and 6.

Shapes are (batch, channel, z, y, x). The network sees 1x1x1.5 mm voxels; any size divisible by 4 runs, but the pooling
grids are relative to the input, so another size is, strictly, another network: tiles should have the training size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BLOCKS = ("none", "aspp", "ddsp", "dilation", "pooling")
LONG_CONNECTIONS = ("none", "residual", "concatenation")


@dataclass(frozen=True)
class NetworkSettings:
    """Everything that defines the architecture; saved beside the weights.

    Attributes:
        widths: channels of the three stages.
        block: what stands at the bottom: ``ddsp`` (dilated convolutions, then pooling layers, densely connected),
            ``aspp`` (the same layers in parallel), ``dilation`` or ``pooling`` (half of the dense block), ``none``.
        dilations: rates of the dilated convolutions; ``pooling_grids``: cells per axis of the pooling layers.
        growth: channels that each layer of the block adds.
        long_connection: how an encoder map joins the decoder map of its stage (Table 4).
        supervision: weights of the main, stage-2 and stage-3 losses (Table 5).
        fusion: which of the three outputs are averaged at test time (Table 6); an output whose supervision
            weight is 0 was never trained and is left out.
        input_size: training size (z, y, x) in voxels.
    """

    widths: tuple[int, int, int] = (16, 32, 64)
    block: str = "ddsp"
    dilations: tuple[int, ...] = (1, 2, 3, 4)
    pooling_grids: tuple[int, ...] = (2, 4, 6)
    growth: int = 32
    long_connection: str = "residual"
    supervision: tuple[float, float, float] = (0.8, 0.15, 0.05)
    fusion: tuple[int, int, int] = (1, 1, 1)
    input_size: tuple[int, int, int] = (48, 96, 96)

    def __post_init__(self) -> None:
        channels = (*self.widths, self.growth)
        if len(channels) != 4 or not all(isinstance(n, int) and 1 <= n <= 1024 for n in channels):
            raise ValueError(f"widths {self.widths} and growth {self.growth} are not numbers of channels up to 1024.")
        if len(self.input_size) != 3 or any(n % 4 or not 4 <= n <= 512 for n in self.input_size):
            raise ValueError(f"input size {self.input_size} is not three multiples of 4 up to 512.")
        if len(self.supervision) != 3 or len(self.fusion) != 3:
            raise ValueError("supervision and fusion need three values: main, stage 2, stage 3.")
        if self.block not in BLOCKS:
            raise ValueError(f"block '{self.block}' is unknown; use one of {', '.join(BLOCKS)}.")
        if self.long_connection not in LONG_CONNECTIONS:
            raise ValueError(
                f"long connection '{self.long_connection}' is unknown; use one of {', '.join(LONG_CONNECTIONS)}."
            )
        if not any(self.fused):
            raise ValueError("no output is both supervised and fused; give the main output a weight.")

    @property
    def fused(self) -> tuple[bool, ...]:
        """Which of the outputs (main, stage 2, stage 3) take part in the answer."""
        return tuple(bool(use) and weight > 0 for use, weight in zip(self.fusion, self.supervision, strict=True))

    def to_dict(self) -> dict:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkSettings:
        known = {field.name for field in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"network settings have unknown keys: {', '.join(sorted(unknown))}.")
        read: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**read)


class ConvolutionLayer(nn.Module):
    """Convolution, batch norm, ReLU; 'same' padding."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, dilation: int = 1):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.convolution = nn.Conv3d(channels_in, channels_out, kernel, padding=padding, dilation=dilation)
        self.norm: nn.BatchNorm3d | nn.Identity = nn.BatchNorm3d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x)), inplace=True)

    def fold(self) -> None:
        """Merge the batch norm into the convolution (inference only)."""
        if not isinstance(self.norm, nn.Identity):
            self.convolution = fuse_conv_bn_eval(self.convolution, self.norm)
            self.norm = nn.Identity()


class PoolingLayer(nn.Module):
    """Average pooling to ``grid`` cells per axis, 1x1x1 layer, trilinear upsampling back to the input's size."""

    def __init__(self, channels_in: int, channels_out: int, grid: int):
        super().__init__()
        self.grid = grid
        self.layer = ConvolutionLayer(channels_in, channels_out, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool3d(x, self.grid)
        return F.interpolate(self.layer(pooled), size=x.shape[2:], mode="trilinear", align_corners=False)


class SpatialPoolingBlock(nn.Module):
    """Dilated convolutions and pooling layers (section 2.2); dense, or in parallel for the ASPP variant."""

    def __init__(self, settings: NetworkSettings):
        super().__init__()
        width, growth = settings.widths[2], settings.growth
        dilations = () if settings.block == "pooling" else settings.dilations
        grids = () if settings.block == "dilation" else settings.pooling_grids
        self.dense = settings.block != "aspp"
        layers: list[nn.Module] = []
        for rate in dilations:
            layers.append(ConvolutionLayer(width + self.dense * growth * len(layers), growth, dilation=rate))
        for grid in grids:
            layers.append(PoolingLayer(width + self.dense * growth * len(layers), growth, grid))
        self.layers = nn.ModuleList(layers)
        self.reduction = ConvolutionLayer(width + growth * len(layers), width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, dim=1) if self.dense else x))
        return self.reduction(torch.cat(maps, dim=1))


class Upsampling(nn.Module):
    """Deconvolution that starts as trilinear upsampling by 2, then a 3x3x3 layer to the next width."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.deconvolution = nn.ConvTranspose3d(channels_in, channels_in, kernel_size=4, stride=2, padding=1)
        self.layer = ConvolutionLayer(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.deconvolution(x))


class DDSPConvNet(nn.Module):
    """Encoder-decoder of three stages with a DDSP block at the bottom and long connections.

    ``forward`` gives three probability maps (batch, 1, z, y, x) at the input's size: main, stage 2, stage 3
    (multi-supervision, section 2.1). ``fuse`` averages them for the answer (multi-fusion, Table 6).
    """

    def __init__(self, settings: NetworkSettings | None = None):
        super().__init__()
        self.settings = settings or NetworkSettings()
        first, second, third = self.settings.widths
        joined = 2 if self.settings.long_connection == "concatenation" else 1
        self.encoder1 = nn.Sequential(ConvolutionLayer(1, first), ConvolutionLayer(first, first))
        self.encoder2 = nn.Sequential(ConvolutionLayer(first, second), ConvolutionLayer(second, second))
        self.encoder3 = nn.Sequential(ConvolutionLayer(second, third), ConvolutionLayer(third, third))
        self.block = nn.Identity() if self.settings.block == "none" else SpatialPoolingBlock(self.settings)
        self.up2 = Upsampling(third, second)
        self.decoder2 = ConvolutionLayer(joined * second, second)
        self.up1 = Upsampling(second, first)
        self.decoder1 = ConvolutionLayer(joined * first, first)
        self.head1 = nn.Conv3d(first, 1, 1)
        self.head2 = nn.Conv3d(joined * second, 1, 1)
        self.head3 = nn.Conv3d(third, 1, 1)
        self.initialize()

    def initialize(self) -> None:
        """N(0, 0.01) for convolutions, bias 0, trilinear weights for deconvolutions (section 4)."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)
            elif isinstance(module, nn.ConvTranspose3d):
                with torch.no_grad():
                    module.weight.copy_(trilinear_kernel(module.in_channels))
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three probability maps of shape (batch, 1, z, y, x); z, y and x of the input must be divisible by 4."""
        if any(size % 4 for size in x.shape[2:]):
            raise ValueError(f"input size {tuple(x.shape[2:])} is not divisible by 4; pad it first.")
        size = x.shape[2:]
        encoded1 = self.encoder1(x)
        encoded2 = self.encoder2(F.max_pool3d(encoded1, 2))
        bottom = self.block(self.encoder3(F.max_pool3d(encoded2, 2)))
        joined2 = self._join(self.up2(bottom), encoded2)
        joined1 = self._join(self.up1(self.decoder2(joined2)), encoded1)
        main = torch.sigmoid(self.head1(self.decoder1(joined1)).float())
        return main, _probability(self.head2(joined2), size), _probability(self.head3(bottom), size)

    def fold_batch_norm(self) -> DDSPConvNet:
        """Merge every batch norm into its convolution; call in float32, in eval mode, before casting."""
        for module in self.modules():
            if isinstance(module, ConvolutionLayer):
                module.fold()
        return self

    def place(self, device: torch.device, dtype: torch.dtype | None = None) -> DDSPConvNet:
        """Move to a device and a type, channels last, the order in which convolutions are fastest."""
        self.to(device, dtype)
        return self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it

    def _join(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        if self.settings.long_connection == "none":
            return decoded
        if self.settings.long_connection == "residual":
            return decoded + encoded
        return torch.cat((decoded, encoded), dim=1)


def _probability(logits: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(torch.sigmoid(logits.float()), size=size, mode="trilinear", align_corners=False)


def trilinear_kernel(channels: int) -> Tensor:
    """Weights (channels, channels, 4, 4, 4) of a deconvolution, stride 2, padding 1, that upsamples trilinearly."""
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    kernel = torch.einsum("i,j,k->ijk", ramp, ramp, ramp)
    weight = torch.zeros(channels, channels, 4, 4, 4)
    weight[range(channels), range(channels)] = kernel
    return weight


@dataclass(frozen=True)
class NetworkSummary:
    """Size of a network: parameters, GFLOP of one forward pass, receptive field of the main output in voxels.

    The receptive field is that of the convolutions and the max pooling; the pooling layers of the block see everything.
    """

    parameters: int
    gflop: float
    receptive_field: int
    text: str

    def __str__(self) -> str:
        return self.text


def summarize(settings: NetworkSettings) -> NetworkSummary:
    """Count parameters and operations (2 per multiply-add) of one forward pass at ``settings.input_size``."""
    with torch.device("meta"):
        network = DDSPConvNet(settings).eval()
    rows: list[tuple[str, tuple[int, ...], int, float]] = []

    def count(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            positions = (inputs[0] if isinstance(module, nn.ConvTranspose3d) else output)[0, 0].numel()
            numbers = {part: parameter.numel() for part, parameter in module.named_parameters()}
            operations = 2 * positions * numbers["weight"]
            rows.append((name, tuple(output.shape[1:]), sum(numbers.values()), operations / 1e9))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.register_forward_hook(count(name))
    network(torch.empty(1, 1, *settings.input_size, device="meta"))
    parameters = sum(p.numel() for p in network.parameters())
    gflop = sum(row[3] for row in rows)
    field = receptive_field(settings)
    lines = [f"{'layer':34s}{'output (channel, z, y, x)':>28s}{'parameters':>12s}{'GFLOP':>9s}"]
    lines += [f"{name:34s}{str(shape):>28s}{number:12,d}{work:9.2f}" for name, shape, number, work in rows]
    lines.append(f"{parameters:,} parameters, {gflop:.1f} GFLOP, receptive field {field} voxels per axis")
    return NetworkSummary(parameters, gflop, field, "\n".join(lines))


def receptive_field(settings: NetworkSettings) -> int:
    """Voxels per axis that reach one voxel of the main output through convolutions and max pooling, at most.

    Counted from the output back to the input. It depends a little on where the voxel lies relative to the coarser
    grids; this is the largest.
    """
    field = 1
    for _ in range(2):  # decoder layer, 3x3x3 layer, then the deconvolution: n fine voxels need n // 2 + 2 coarse ones
        field = (field + 4) // 2 + 2
    if settings.block in ("ddsp", "dilation"):
        field += 2 * sum(settings.dilations)
    elif settings.block == "aspp":
        field += 2 * max(settings.dilations)
    for _ in range(2):  # two layers, then the pooling before them
        field = 2 * (field + 4)
    return field + 4
