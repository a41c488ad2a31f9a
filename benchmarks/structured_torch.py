"""The architectures of `benchmarks.structured` in PyTorch.

Written for the peer's comfort: widths are read off the tensors, so that pruned layers fit in again, and `num_heads`
says what a user of its attention pruning has to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F


def conv(inputs: int, features: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, features, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(features))


class Residual(nn.Module):
    """A body beside a shortcut, projected where the shape changes."""

    def __init__(self, body: nn.Module, inputs: int, features: int, stride: int):
        super().__init__()
        self.body = body
        same = inputs == features and stride == 1
        self.shortcut = nn.Identity() if same else conv(inputs, features, 1, stride)

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


def basic(inputs: int, features: int, stride: int) -> Residual:
    body = nn.Sequential(conv(inputs, features, 3, stride), nn.ReLU(), conv(features, features))
    return Residual(body, inputs, features, stride)


def bottleneck(inputs: int, features: int, stride: int) -> Residual:
    layers = conv(inputs, features, 1), nn.ReLU(), conv(features, features, 3, stride), nn.ReLU()
    return Residual(nn.Sequential(*layers, conv(features, 4 * features, 1)), inputs, 4 * features, stride)


class ConvNet(nn.Module):
    """A body, the mean over space, a head."""

    def __init__(self, body: nn.Module, features: int, classes: int = 10):
        super().__init__()
        self.body, self.head = body, nn.Linear(features, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def resnet20(width: int = 16) -> nn.Module:
    layers: list[nn.Module] = [conv(3, width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        for block in range(3):
            layers.append(basic(inputs, width * 2**stage, 2 if stage and not block else 1))
            inputs = width * 2**stage
    return ConvNet(nn.Sequential(*layers), inputs)


def resnet50(width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)) -> nn.Module:
    layers: list[nn.Module] = [conv(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(bottleneck(inputs, width * 2**stage, 2 if stage and not block else 1))
            inputs = 4 * width * 2**stage
    return ConvNet(nn.Sequential(*layers), inputs, 1000)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.scale, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, -1))


class ViT(nn.Module):
    def __init__(self, dim: int = 768, heads: int = 12, layers: int = 12, patch: int = 16, size: int = 224):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, dim) * 0.02)
        self.attentions = nn.ModuleList([Attention(dim, heads) for _ in range(layers)])
        self.mlps = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)) for _ in range(layers)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2 * layers + 1)])
        self.head = nn.Linear(dim, 1000)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x)[:, 0])

    def num_heads(self) -> dict[str, int]:
        return {f"attentions.{i}.{p}": a.heads for i, a in enumerate(self.attentions) for p in "qkv"}


def mobilenet(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = [conv(3, width), nn.ReLU()]
    inputs = width
    for factor, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (16, 1)):
        layers += [conv(inputs, inputs, 3, stride, inputs), nn.ReLU(), conv(inputs, factor * width, 1), nn.ReLU()]
        inputs = factor * width
    return ConvNet(nn.Sequential(*layers), inputs)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False))
        layers = nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.second = nn.Sequential(*layers)

    def forward(self, x):
        return torch.cat([x, self.second(self.first(x))], 1)


def densenet(growth: int = 12) -> nn.Module:
    inputs = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, inputs, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range(4):
            layers.append(DenseLayer(inputs, growth))
            inputs += growth
        if block < 2:
            transition = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(), transition, nn.AvgPool2d(2)]
            inputs //= 2
    return ConvNet(nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU()), inputs)


class LSTM(nn.Module):
    def __init__(self, width: int = 128):
        super().__init__()
        self.first, self.lstm, self.head = nn.Linear(32, 64), nn.LSTM(64, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.lstm(F.relu(self.first(x)))[0][:, -1])


class FusedGQA(nn.Module):
    def __init__(self, dim: int = 128, heads: int = 8, kv_heads: int = 2):
        super().__init__()
        self.heads, self.kv_heads, self.scale = heads, kv_heads, (dim // heads) ** -0.5
        self.embed, self.head = nn.Embedding(100, dim), nn.Linear(dim, 100)
        self.qkv = nn.Linear(dim, dim // heads * (heads + 2 * kv_heads), bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.gate, self.up, self.down = nn.Linear(dim, 256), nn.Linear(dim, 256), nn.Linear(256, dim)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3)])

    def forward(self, tokens):
        x = self.embed(tokens)
        batch, length, _ = x.shape
        fused = self.qkv(self.norms[0](x))
        width = fused.shape[-1] // (self.heads + 2 * self.kv_heads)
        sizes = [self.heads * width, self.kv_heads * width, self.kv_heads * width]
        q, k, v = (part.reshape(batch, length, -1, width).transpose(1, 2) for part in fused.split(sizes, -1))
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, 1) for part in (k, v))
        mixed = torch.softmax(q @ k.transpose(-2, -1) * self.scale, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        h = self.norms[1](x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(self.norms[2](x))

    def num_heads(self) -> dict[str, int]:
        """The same dims of every head: the only cut that the fused projection allows."""
        return {"qkv": self.heads + 2 * self.kv_heads}


class RawMatmul(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(16, 64)), nn.Parameter(torch.randn(64, 10))

    def forward(self, x):
        return F.relu(x @ self.a) @ self.b


class Flip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(16, 64), nn.Linear(64, 10)

    def forward(self, x):
        h = F.relu(self.first(x))
        return self.head(h + torch.flip(h, [-1]))


class ChannelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.depthwise, self.last = conv(3, 32, 1), conv(32, 32, groups=32), conv(32, 48, 1)
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        x = F.relu(self.first(x))
        batch, _, height, width = x.shape
        x = x.view(batch, 2, -1, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        return self.head(F.relu(self.last(self.depthwise(x))).mean((2, 3)))


# name -> (module whose analysis is timed, small module whose outputs are compared), as in `structured_flax`
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "resnet20": (resnet20, lambda: resnet20(8)),
    "resnet50": (resnet50, lambda: resnet50(8, (1, 1, 2, 1))),
    "vit-b/16": (ViT, lambda: ViT(24, 3, 2)),
    "mobilenet": (mobilenet, lambda: mobilenet(8)),
    "densenet": (densenet, lambda: densenet(4)),
    "lstm": (LSTM, lambda: LSTM(16)),
    "fused qkv gqa": (FusedGQA, FusedGQA),
    "raw matmul": (RawMatmul, RawMatmul),
    "x + flip(x)": (Flip, Flip),
    "channel shuffle": (ChannelShuffle, ChannelShuffle),
}
