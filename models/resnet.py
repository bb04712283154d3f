"""ResNet (He et al. 2016), Wide ResNet (Zagoruyko & Komodakis 2016) and ResNeXt (Xie et al. 2017) for images.

Parameter names, their order and their shapes are torchvision's, so that its published weights load. Bottlenecks stride
in their 3×3 convolution ("version 1.5").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import tinyflow
from tinyflow import nn
from tinyflow.models import weights as published
from tinyflow.nn import fusion
from tinyflow.tensor import Tensor

Norm = Callable[[int], nn.Module]
Path = str | os.PathLike[str]


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the map's size at stride 1."""
    return nn.Conv2d(
        in_planes,
        out_planes,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        groups=groups,
        bias=False,
        dilation=dilation,
    )


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    """A 1×1 convolution."""
    return nn.Conv2d(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)


def _fused_end(
    x: Tensor, conv: nn.Module, bn: nn.Module, shortcut: Tensor, downsample: nn.Module | None, pool: nn.Module | None
) -> Tensor:
    if downsample is not None:
        return _pooled(fusion.conv_bn_joined(x, conv, bn, shortcut, downsample), pool)
    if pool is not None:
        return fusion.conv_bn_relu_mean(x, conv, bn, shortcut, pool)
    return fusion.conv_bn_act(x, conv, bn, shortcut)


def _pooled(y: Tensor, pool: nn.Module | None) -> Tensor:
    return y if pool is None else pool(y)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(f"BasicBlock only supports groups=1 and base_width=64, got {groups} and {base_width}")
        if dilation > 1:
            raise NotImplementedError(f"Dilation > 1 not supported in BasicBlock, got {dilation}")
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor, pool: nn.Module | None = None) -> Tensor:
        """The block's result; with ``pool`` what that makes of it, which may then be one operation."""
        if fusion.is_plain(self.relu):
            y, shortcut = fusion.conv_bn_relu_fork(x, self.conv1, self.bn1)
            return _fused_end(y, self.conv2, self.bn2, shortcut, self.downsample, pool)
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return _pooled(self.relu(y + shortcut), pool)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut; the last one widens to four times ``planes``."""

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor, pool: nn.Module | None = None) -> Tensor:
        """The block's result; with ``pool`` what that makes of it, which may then be one operation."""
        if fusion.is_plain(self.relu):
            y, shortcut = fusion.conv_bn_relu_fork(x, self.conv1, self.bn1)
            y = fusion.conv_bn_act(y, self.conv2, self.bn2)
            return _fused_end(y, self.conv3, self.bn3, shortcut, self.downsample, pool)
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return _pooled(self.relu(y + shortcut), pool)


class ResNet(nn.Module):
    """A stem, four layers of residual blocks, and a linear classifier on the mean of the last map.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        layers: number of blocks in each of the four layers.
        num_classes: size of the result.
        zero_init_residual: start each block's last normalisation at zero, so that every block begins as its shortcut.
        groups, width_per_group: of the bottlenecks' 3×3 convolutions.
        replace_stride_with_dilation: for layers 2 to 4, keep the map's size and dilate instead.
        norm_layer: makes a normalisation from its number of channels.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        dilate = replace_stride_with_dilation or (False, False, False)
        if len(dilate) != 3:
            raise ValueError(f"replace_stride_with_dilation should be None or a 3-element tuple, got {dilate}")
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self.groups = groups
        self.base_width = width_per_group
        with nn.init.without_random_values():  # convolutions get those of ``_initialise``
            self._make_features(block, layers, dilate)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        self._initialise(zero_init_residual)

    def _make_features(
        self, block: type[BasicBlock | Bottleneck], layers: Sequence[int], dilate: Sequence[bool]
    ) -> None:
        self.inplanes = 64
        self.dilation = 1
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm_layer(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._layer(block, 64, layers[0], stride=1, dilate=False)
        self.layer2 = self._layer(block, 128, layers[1], stride=2, dilate=dilate[0])
        self.layer3 = self._layer(block, 256, layers[2], stride=2, dilate=dilate[1])
        self.layer4 = self._layer(block, 512, layers[3], stride=2, dilate=dilate[2])

    def _layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int, dilate: bool
    ) -> nn.Sequential:
        first_dilation = self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        width = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != width:
            downsample = nn.Sequential(conv1x1(self.inplanes, width, stride), self._norm_layer(width))

        def made(inplanes: int, stride: int, downsample: nn.Module | None, dilation: int) -> nn.Module:
            return block(inplanes, planes, stride, downsample, self.groups, self.base_width, dilation, self._norm_layer)

        first = made(self.inplanes, stride, downsample, first_dilation)
        self.inplanes = width
        return nn.Sequential(first, *(made(width, 1, None, self.dilation) for _ in range(1, blocks)))

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (BasicBlock, Bottleneck)) and zero_init_residual:
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, num_classes) of images (N, 3, H, W)."""
        if fusion.is_plain(self.relu):
            x = fusion.conv_bn_relu_pool(x, self.conv1, self.bn1, self.maxpool)
        else:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        if not tinyflow.is_grad_enabled() or not self._last_map_is_for_pooling():
            return fusion.mean_linear(self.layer4(x), self.avgpool, self.fc)
        *blocks, last = self.layer4
        for block in blocks:
            x = block(x)
        return self.fc(last(x, self.avgpool).flatten(1))

    def _last_map_is_for_pooling(self) -> bool:
        """True if nobody but ``avgpool`` gets to see the last block's map, and that takes its mean."""
        features = self.layer4
        if type(features) is not nn.Sequential or fusion.has_hooks(features) or not fusion.takes_mean(self.avgpool):
            return False
        last = features[-1] if len(features) else features
        return type(last) in (BasicBlock, Bottleneck) and not fusion.has_hooks(last)


def _resnet(
    name: str,
    block: type[BasicBlock | Bottleneck],
    layers: Sequence[int],
    weights: Path | None,
    pretrained: bool,
    progress: bool,
    settings: dict[str, Any],
) -> ResNet:
    if pretrained and weights is None:
        weights = published.IMAGENET1K_V1
    if weights is None:
        return ResNet(block, layers, **settings)
    state = published.state_dict(name, weights, progress)
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else None
    if classes is not None and settings.setdefault("num_classes", classes) != classes:
        raise ValueError(
            f"{name}: num_classes={settings['num_classes']}, but the weights {weights} are for {classes} classes"
        )
    with nn.init.without_random_values():
        model = ResNet(block, layers, **settings)
    model.load_state_dict(state)
    return model


def resnet18(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet with 18 layers: 11.7 million parameters."""
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), weights, pretrained, progress, settings)


def resnet34(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet with 34 layers: 21.8 million parameters."""
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), weights, pretrained, progress, settings)


def resnet50(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet with 50 layers: 25.6 million parameters."""
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), weights, pretrained, progress, settings)


def resnet101(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet with 101 layers: 44.5 million parameters."""
    return _resnet("resnet101", Bottleneck, (3, 4, 23, 3), weights, pretrained, progress, settings)


def resnet152(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet with 152 layers: 60.2 million parameters."""
    return _resnet("resnet152", Bottleneck, (3, 8, 36, 3), weights, pretrained, progress, settings)


def resnext50_32x4d(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNeXt with 50 layers, 32 groups of width 4: 25.0 million parameters."""
    return _resnet(
        "resnext50_32x4d",
        Bottleneck,
        (3, 4, 6, 3),
        weights,
        pretrained,
        progress,
        {"groups": 32, "width_per_group": 4, **settings},
    )


def resnext101_32x8d(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNeXt with 101 layers, 32 groups of width 8: 88.8 million parameters."""
    return _resnet(
        "resnext101_32x8d",
        Bottleneck,
        (3, 4, 23, 3),
        weights,
        pretrained,
        progress,
        {"groups": 32, "width_per_group": 8, **settings},
    )


def resnext101_64x4d(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNeXt with 101 layers, 64 groups of width 4: 83.5 million parameters."""
    return _resnet(
        "resnext101_64x4d",
        Bottleneck,
        (3, 4, 23, 3),
        weights,
        pretrained,
        progress,
        {"groups": 64, "width_per_group": 4, **settings},
    )


def wide_resnet50_2(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet-50 with 3×3 convolutions twice as wide: 68.9 million parameters."""
    return _resnet(
        "wide_resnet50_2", Bottleneck, (3, 4, 6, 3), weights, pretrained, progress, {"width_per_group": 128, **settings}
    )


def wide_resnet101_2(
    weights: Path | None = None, *, pretrained: bool = False, progress: bool = True, **settings: Any
) -> ResNet:
    """ResNet-101 with 3×3 convolutions twice as wide: 126.9 million parameters."""
    return _resnet(
        "wide_resnet101_2",
        Bottleneck,
        (3, 4, 23, 3),
        weights,
        pretrained,
        progress,
        {"width_per_group": 128, **settings},
    )
