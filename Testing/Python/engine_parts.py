"""Scans and networks whose answer is known, for the engine's tests."""

import math

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from DDSPSegmentationLib.engine.confidence import FEATURES, Calibration
from DDSPSegmentationLib.engine.model import save_model
from DDSPSegmentationLib.engine.network import DDSPConvNet, NetworkSettings
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings

IDENTITY = np.eye(3)
# Normalized intensity from which the bright network says prostate, and how sharply: half way up to the phantom's gland.
BRIGHT, SHARPNESS = 2.8, 8.0
CROP = (32, 48, 48)


def rotation(degrees):
    """Rotation matrix about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = math.cos(angle)
        turn[one, other], turn[other, one] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def scan_of(array, spacing, direction=IDENTITY, origin=(0.0, 0.0, 0.0)):
    """Image of an array (z, y, x) with its spacing (x, y, z) in mm and its axes as columns."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(step) for step in spacing])
    image.SetDirection(np.asarray(direction, float).ravel().tolist())
    image.SetOrigin([float(value) for value in origin])
    return image


def middle_of(image):
    """World position (x, y, z) in mm of the middle of the field of view."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def world_coordinates(image):
    """World position in mm of every voxel, (3, z, y, x)."""
    x, y, z = image.GetSize()
    index = np.stack(np.meshgrid(np.arange(z), np.arange(y), np.arange(x), indexing="ij")[::-1])
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return np.einsum("wi,izyx->wzyx", axes, index) + np.array(image.GetOrigin())[:, None, None, None]


def ellipsoid(image, center, radii):
    """Bool array (z, y, x) of the voxels whose middle lies in an ellipsoid drawn in world mm."""
    offset = world_coordinates(image) - np.array(center)[:, None, None, None]
    return ((offset / np.array(radii)[:, None, None, None]) ** 2).sum(axis=0) <= 1


def centroid(mask):
    """Mean index (z, y, x) of a mask."""
    return np.argwhere(mask).mean(axis=0)


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def phantom(*offsets, radii=(17.0, 15.0, 14.0), size=(64, 64, 18), spacing=(1.5, 1.5, 3.0), **geometry):
    """A dark, grainy scan with a bright gland of 15 ml at each offset (x, y, z) in mm from the middle.

    Returns:
        The scan, and its glands as a bool array (z, y, x).
    """
    image = scan_of(np.zeros(size[::-1], np.float32), spacing, **geometry)
    glands = [ellipsoid(image, middle_of(image) + offset, radii) for offset in offsets or [(0.0, 0.0, 0.0)]]
    gland = np.any(glands, axis=0)
    noise = np.random.default_rng(0).normal(0, 10, gland.shape)
    image_of_gland = sitk.GetImageFromArray((200 + 300 * gland + noise).astype(np.float32))
    image_of_gland.CopyInformation(image)
    return image_of_gland, gland


def bright_network(bright=BRIGHT):
    """A real DDSPConvNet whose three outputs say prostate exactly where the scan is brighter than ``bright``."""
    settings = NetworkSettings(widths=(1, 1, 1), block="none", input_size=CROP, supervision=(1.0, 0.0, 0.0))
    network = DDSPConvNet(settings).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.zeros_(module.weight)
            middle = tuple(n // 2 for n in module.kernel_size)
            with torch.no_grad():
                module.weight[(0, 0, *middle)] = 1
    lift = 4.0  # keeps the darkest voxel above the ReLU
    with torch.no_grad():
        network.encoder1[0].convolution.bias.fill_(lift)
        network.up1.layer.convolution.weight.zero_()
        network.head1.weight.fill_(SHARPNESS)
        network.head1.bias.fill_(-SHARPNESS * (bright + lift))
    return network


def bright_model(folder, bright=BRIGHT, bias_field="off", **facts):
    """A bright network as a model version on disk, or several, one for each brightness."""
    networks = [bright_network(level) for level in np.atleast_1d(bright)]
    save_model(folder, networks, PreprocessingSettings(bias_field=bias_field).to_dict(), **facts)
    return folder


def a_calibration(**changes):
    """The more two members agree, the better; all features but the agreement count for nothing."""
    count = len(FEATURES)
    values = {
        "mode": "standard",
        "threshold": 0.5,
        "centers": (2.0,) * count,
        "scales": (1.0,) * count,
        "weights": (0.0, 0.5, *(0.0,) * (count - 2)),
        "intercept": 2.0,
        "reach": (-0.5, 0.4),
        "patients": 20,
    }
    return Calibration(**{**values, **changes})


def fail_once(network, error):
    """The next forward pass of the network raises ``error``."""

    def fail(module, inputs):
        handle.remove()
        raise error

    handle = network.register_forward_pre_hook(fail)
