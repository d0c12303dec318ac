"""Networks whose layers are coupled, or which PyTorch cannot shrink: structures beyond the built-in models."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two stages of residual blocks with BatchNorm and GELU; a head by another name, after a BatchNorm1d."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, features: Tensor) -> Tensor:
            inner = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(features)))))
            return F.gelu(inner + self.shortcut(features))

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 32, 3, padding=1)
        self.stage1 = nn.Sequential(self.Block(32, 32, 1), self.Block(32, 32, 1))
        self.stage2 = nn.Sequential(self.Block(32, 48, 2), self.Block(48, 48, 1))
        self.fc = nn.Linear(48, 40)
        self.norm = nn.BatchNorm1d(40)
        self.head = nn.Linear(40, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage2(self.stage1(self.stem(images)))
        return self.head(F.relu(self.norm(self.fc(features.mean((2, 3))))))


class Separable(nn.Module):
    """Depthwise-separable convolutions with BatchNorm after each."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        for inputs, outputs in ((32, 48), (48, 64)):
            layers += [nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.BatchNorm2d(inputs)]
            layers += [nn.ReLU6(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.logits = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images).mean((2, 3)))


class Mixer(nn.Module):
    """MLP-Mixer: perceptrons over tokens and over channels in turn, each with LayerNorm and a residual."""

    class Block(nn.Module):
        def __init__(self, tokens: int, width: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.tokens = nn.Sequential(nn.Linear(tokens, 24), nn.GELU(), nn.Linear(24, tokens))
            self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

        def forward(self, features: Tensor) -> Tensor:
            features = features + self.tokens(self.norm1(features).transpose(1, 2)).transpose(1, 2)
            return features + self.channels(self.norm2(features))

    def __init__(self, channels: int, classes: int, size: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 32, patch, patch)
        self.blocks = nn.Sequential(*(self.Block((size // patch) ** 2, 32) for _ in range(2)))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(features)).mean(1))


class VisionTransformer(nn.Module):
    """Attention over patches, with a class token and learnt positions; the heads by `unflatten`."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
            self.joined = nn.Linear(width, width)
            self.expand, self.contract = nn.Linear(width, 64), nn.Linear(64, width)

        def forward(self, features: Tensor) -> Tensor:
            normed = self.norm1(features)
            query, key, value = (
                layer(normed).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            )
            weights = (query @ key.transpose(2, 3) * 0.35).softmax(-1)
            features = features + self.joined((weights @ value).transpose(1, 2).flatten(2))
            return features + self.contract(F.gelu(self.expand(self.norm2(features))))

    def __init__(self, channels: int, classes: int, size: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 32, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, 32) * 0.02)
        self.blocks = nn.Sequential(self.Block(32, 4), self.Block(32, 4))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        features = torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(features))[:, 0])


class Twice(nn.Module):
    """Two towers that are one, with a residual block that is passed twice."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 48, 3, padding=1)
        self.outer = nn.Conv2d(48, 32, 3, padding=1)
        self.head = nn.Linear(64, classes)

    def tower(self, images: Tensor) -> Tensor:
        features = F.relu(self.stem(images))
        for _ in range(2):
            features = F.relu(features + self.outer(F.relu(self.inner(features))))
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.cat([self.tower(images), self.tower(images.flip(3))], 1))


class Gated(nn.Module):
    """Two ways, each scored by the same layer of one output."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 32, 3), nn.Conv2d(channels, 32, 3)
        self.score = nn.Linear(32, 1)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        ways = [F.relu(layer(images)).mean((2, 3)) for layer in (self.first, self.second)]
        return self.head(torch.cat([way * torch.sigmoid(self.score(way)) for way in ways], 1))


def residual(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Residual(input_shape[0], classes)


def separable(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Separable(input_shape[0], classes)


def mixer(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Mixer(input_shape[0], classes, input_shape[1], input_shape[1] // 4)


def transformer(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return VisionTransformer(input_shape[0], classes, input_shape[1], input_shape[1] // 4)


def gated(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Gated(input_shape[0], classes)


def twice(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Twice(input_shape[0], classes)


STRUCTURES = {
    "residual": residual,
    "separable": separable,
    "mixer": mixer,
    "transformer": transformer,
    "twice": twice,
    "gated": gated,
}
