"""Dead units: those that no image makes answer."""

import pytest
import torch
from networks import build, random_batches
from torch import nn
from torch.nn import functional as F

from onnxprune.bridge.activity import dead_units


def test_dead_units_by_hand() -> None:
    network = build("cnn").eval()
    with torch.no_grad():
        for layer, count in ((network.conv1, 3), (network.fc, 50)):
            layer.weight[:count] = 0
            layer.bias[:count] = -1
    before = dead_units(build("cnn").eval(), random_batches())
    assert dead_units(network, random_batches()) >= 53
    assert dead_units(network, random_batches()) <= 53 + before + 5


def test_a_unit_that_answers_to_one_image_of_many_is_alive() -> None:
    network = build("slp").eval()
    batches = random_batches(300)
    with torch.no_grad():
        images, _ = batches.take(torch.arange(300))
        answers = F.linear(images.flatten(1), network.hidden.weight[:1])[:, 0]
        network.hidden.bias[0] = -answers.sort().values[-2:].mean()  # below all but the largest
        network.hidden.weight[1], network.hidden.bias[1] = 0, 0  # never above zero
        others = dead_units(network, batches)
        network.hidden.bias[0] = -answers.max() - 1
    assert dead_units(network, batches) == others + 1
    assert others >= 1


def test_tokens_have_their_units_last_and_other_activations_none_that_are_dead() -> None:
    class Tokens(nn.Module):
        def __init__(self, activation: nn.Module) -> None:
            super().__init__()
            self.mix, self.activation, self.head = nn.Linear(2, 5), activation, nn.Linear(5, 4)
            nn.init.constant_(self.mix.bias, -100)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = images.flatten(1)[:, :6].view(len(images), 3, 2)
            return self.head(self.activation(self.mix(tokens))).mean(1)

    assert dead_units(Tokens(nn.ReLU()).eval(), random_batches()) == 5
    assert dead_units(Tokens(nn.GELU()).eval(), random_batches()) == 0


@pytest.mark.parametrize("layout", ["channels last", "one dimension", "tokens"])
def test_units_are_where_the_layer_before_has_them(layout: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(1, 5) if layout == "channels last" else nn.Conv1d(1, 5, 3)
            with torch.no_grad():
                self.mix.weight[:2] = 0
                self.mix.bias[:2] = -1
                self.mix.bias[2:] = 1

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if layout == "channels last":
                return torch.relu(self.mix(images.permute(0, 2, 3, 1))).mean((1, 2))
            answers = self.mix(images.flatten(2))
            return torch.relu(answers).mean(2) if layout == "one dimension" else answers.mT.relu().mean(1)

    assert dead_units(Net().eval(), random_batches()) == 2
