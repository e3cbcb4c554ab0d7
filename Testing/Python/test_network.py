"""The DDSP ConNet: every variant, its start, its folding, and whether its printed figures are true."""

import dataclasses
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from DDSPSegmentationLib.engine import network as network_module
from DDSPSegmentationLib.engine.network import (
    BLOCKS,
    LONG_CONNECTIONS,
    ConvolutionLayer,
    DDSPConvNet,
    NetworkSettings,
    PoolingLayer,
    summarize,
)

VARIANTS = list(itertools.product(BLOCKS, LONG_CONNECTIONS))
SMALL = {"widths": (3, 4, 5), "growth": 2, "input_size": (8, 16, 12)}


def small_network(**settings):
    torch.manual_seed(0)
    return DDSPConvNet(NetworkSettings(**{**SMALL, **settings})).eval()


def trained_looking(network):
    """Weights, biases and running statistics that no initialization gives, so that each of them matters."""
    random = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5, generator=random)
            nn.init.normal_(module.bias, std=0.3, generator=random)
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=random)
            nn.init.uniform_(module.bias, -0.2, 0.8, generator=random)
            nn.init.normal_(module.running_mean, std=0.5, generator=random)
            nn.init.uniform_(module.running_var, 0.3, 3.0, generator=random)
    return network


def linear(network):
    """Positive weights and ReLUs that always pass, so that the gradient shows everything an output can see."""
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    return network.eval()


@pytest.mark.parametrize(("block", "long_connection"), VARIANTS)
def test_every_variant_gives_three_probability_maps_and_learns(block, long_connection):
    network = small_network(block=block, long_connection=long_connection).train()
    outputs = network(torch.randn(2, 1, 8, 16, 12))
    assert [tuple(output.shape) for output in outputs] == [(2, 1, 8, 16, 12)] * 3
    assert all(output.dtype == torch.float32 and 0 <= output.min() <= output.max() <= 1 for output in outputs)
    sum(output.mean() for output in outputs).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without, "these take no part in the outputs"


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 4, 20), (12, 24, 16)])
def test_any_size_divisible_by_4_runs(size):
    with torch.no_grad():
        outputs = small_network()(torch.randn(1, 1, *size))
    assert all(output.shape[2:] == size for output in outputs)


@pytest.mark.parametrize("size", [(6, 8, 8), (8, 9, 8), (8, 8, 15)])
def test_a_size_not_divisible_by_4_is_a_clear_error(size):
    with pytest.raises(ValueError, match="not divisible by 4; pad it first"):
        small_network()(torch.zeros(1, 1, *size))


def test_default_settings_are_those_of_the_paper():
    settings = NetworkSettings()
    assert settings.input_size == (48, 96, 96)
    assert (settings.dilations, settings.pooling_grids) == ((1, 2, 3, 4), (2, 4, 6))
    assert settings.supervision == (0.8, 0.15, 0.05) and settings.fusion == (1, 1, 1)
    assert settings.long_connection == "residual" and settings.block == "ddsp"


def test_dense_block_sees_the_input_and_every_earlier_layer():
    block = small_network().block
    channels = [layer.convolution if isinstance(layer, ConvolutionLayer) else layer.layer.convolution
                for layer in block.layers]  # fmt: skip
    assert [layer.in_channels for layer in channels] == [5, 7, 9, 11, 13, 15, 17]
    assert [layer.dilation[0] for layer in channels[:4]] == [1, 2, 3, 4]
    assert [layer.grid for layer in block.layers[4:]] == [2, 4, 6]
    assert block.reduction.convolution.in_channels == 5 + 7 * 2


def test_parallel_block_shows_every_layer_the_input_only():
    block = small_network(block="aspp").block
    sources = [(layer if isinstance(layer, ConvolutionLayer) else layer.layer).convolution for layer in block.layers]
    assert [layer.in_channels for layer in sources] == [5] * 7
    assert block.reduction.convolution.in_channels == 5 + 7 * 2


@pytest.mark.parametrize(("block", "layers", "pooling"), [("dilation", 4, 0), ("pooling", 3, 3), ("ddsp", 7, 3)])
def test_half_blocks_have_only_their_half(block, layers, pooling):
    found = small_network(block=block).block.layers
    assert len(found) == layers
    assert sum(isinstance(layer, PoolingLayer) for layer in found) == pooling


def test_residual_connection_adds_and_concatenation_doubles_the_channels():
    def channels(**settings):
        return small_network(**settings).decoder1.convolution.in_channels

    assert channels(long_connection="residual") == channels(long_connection="none") == 3
    assert channels(long_connection="concatenation") == 6
    network = small_network()
    decoded, encoded = torch.randn(2, 1, 3, 4, 4, 4)
    assert torch.equal(network._join(decoded, encoded), decoded + encoded)


def test_convolutions_start_from_the_normal_distribution_of_the_paper():
    for module in DDSPConvNet().modules():
        if isinstance(module, nn.Conv3d):
            assert (module.bias == 0).all()
            if module.weight.numel() > 5000:
                weight = module.weight.detach()
                assert float(weight.std()) == pytest.approx(0.01, rel=0.05)
                assert abs(float(weight.mean())) < 0.001


def test_deconvolutions_start_as_trilinear_upsampling_of_each_channel():
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (6, 8, 10)), indexing="ij")
    channels = torch.stack([2 * z - 3 * y + x, x, torch.ones_like(x), -z, y])[None]
    network = small_network()
    with torch.no_grad():
        found = network.up2.deconvolution(channels)
    assert found.shape == (1, 5, 12, 16, 20)
    expected = F.interpolate(channels, scale_factor=2, mode="trilinear", align_corners=False)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inner], expected[inner])
    along_x = found[0, 1, 5, 5, 1:-1].diff()  # a ramp of 1 a voxel is one of 1/2 a half voxel
    torch.testing.assert_close(along_x, torch.full_like(along_x, 0.5))


@pytest.mark.parametrize(("block", "long_connection"), VARIANTS)
def test_folding_batch_norm_changes_nothing(block, long_connection):
    network = trained_looking(small_network(block=block, long_connection=long_connection))
    scan = torch.randn(1, 1, 8, 16, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = network(scan)
        after = network.fold_batch_norm()(scan)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    assert all(float(output.std()) > 0.01 for output in before), "a flat answer would show nothing"
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_folding_twice_is_folding_once():
    network = trained_looking(small_network()).fold_batch_norm()
    scan = torch.randn(1, 1, 8, 16, 12)
    with torch.no_grad():
        assert torch.equal(network(scan)[0], network.fold_batch_norm()(scan)[0])


@pytest.mark.parametrize(
    ("supervision", "fusion", "expected"),
    [
        ((0.8, 0.15, 0.05), (1, 1, 1), (True, True, True)),
        ((0.8, 0.2, 0.0), (1, 1, 1), (True, True, False)),  # stage 3 was never trained
        ((0.8, 0.15, 0.05), (1, 0, 1), (True, False, True)),
        ((1.0, 0.0, 0.0), (1, 1, 1), (True, False, False)),
    ],
)
def test_only_supervised_outputs_are_fused(supervision, fusion, expected):
    assert small_network(supervision=supervision, fusion=fusion).settings.fused == expected


@pytest.mark.parametrize("settings", [{}, SMALL, {"block": "aspp", "fusion": (1, 0, 0)}])
def test_settings_survive_a_dictionary_of_plain_json(settings):
    original = NetworkSettings(**settings)
    assert NetworkSettings.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 4}, "unknown keys: depth"),
        ({"block": "unet"}, "block 'unet' is unknown; use one of none, aspp"),
        ({"long_connection": "sum"}, "long connection 'sum' is unknown"),
        ({"supervision": [0, 0.5, 0.5], "fusion": [1, 0, 0]}, "no output is both supervised and fused"),
    ],
)
def test_settings_that_make_no_network_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        NetworkSettings.from_dict(values)


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NetworkSettings().block = "none"


def parameters_by_hand(settings):
    """Weights, biases, and two numbers per channel of each batch norm, layer after layer of the paper's figure 2."""

    def layer(channels_in, channels_out, kernel=3):
        return channels_in * channels_out * kernel**3 + 3 * channels_out

    first, second, third = settings.widths
    total = layer(1, first) + layer(first, first)
    total += layer(first, second) + layer(second, second)
    total += layer(second, third) + layer(third, third)
    growth, seen = settings.growth, third
    for kernel in (3, 3, 3, 3, 1, 1, 1):
        total += layer(seen, growth, kernel)
        seen += growth
    total += layer(seen, third, 1)
    for channels_in, channels_out in ((third, second), (second, first)):
        total += 64 * channels_in**2 + channels_in
        total += layer(channels_in, channels_out) + layer(channels_out, channels_out)
    return total + (first + 1) + (second + 1) + (third + 1)


def test_summary_counts_the_parameters_of_the_paper_network():
    settings = NetworkSettings()
    summary = summarize(settings)
    assert summary.parameters == parameters_by_hand(settings)
    assert summary.parameters == sum(p.numel() for p in DDSPConvNet(settings).parameters())
    assert f"{summary.parameters:,} parameters" in str(summary)


@pytest.mark.parametrize(("block", "long_connection"), [("ddsp", "residual"), ("aspp", "concatenation")])
def test_summary_counts_the_operations_that_torch_counts(block, long_connection):
    network = small_network(block=block, long_connection=long_connection)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, *SMALL["input_size"]))
    assert summarize(network.settings).gflop == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)


@pytest.mark.parametrize("block", ["none", "aspp", "dilation", "ddsp"])
def test_receptive_field_is_what_an_output_really_sees(monkeypatch, block):
    # Max pooling passes the gradient to one voxel in two, averaging to both.
    monkeypatch.setattr(network_module.F, "max_pool3d", F.avg_pool3d)
    settings = NetworkSettings(**{**SMALL, "block": block, "widths": (1, 1, 1), "growth": 1, "pooling_grids": ()})
    network = linear(DDSPConvNet(settings))
    seen = []
    for position in range(96, 100):  # where a voxel lies within its coarse voxel matters
        scan = torch.ones(1, 1, 4, 4, 200, requires_grad=True)
        logits = []
        network.head1.register_forward_hook(lambda module, inputs, output, kept=logits: kept.append(output))
        network(scan)
        logits[-1][0, 0, 1, 1, position].backward()
        reached = scan.grad[0, 0].abs().sum(dim=(0, 1)).nonzero().ravel()
        seen.append(int(reached[-1] - reached[0]) + 1)
    assert 0 < min(seen) and max(seen) < 199, "the scan is too short to measure on"
    assert max(seen) == summarize(settings).receptive_field


def test_pooling_layers_see_the_whole_input():
    settings = NetworkSettings(**{**SMALL, "block": "pooling", "widths": (1, 1, 1), "growth": 1})
    network = linear(DDSPConvNet(settings))
    scan = torch.rand(1, 1, 8, 8, 200, requires_grad=True)
    network(scan)[2][0, 0, 4, 4, 0].backward()
    assert scan.grad[0, 0, :, :, 190:].abs().sum() > 0
