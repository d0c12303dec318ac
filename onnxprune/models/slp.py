"""The perceptron of the MNIST pruning studies."""

from torch import Tensor, nn
from torch.nn import functional as F


class SLP(nn.Module):
    """Flattened pixels, `hidden` rectified units, one logit a class; without hidden units a linear classifier."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden) if hidden else None
        self.classifier = nn.Linear(hidden or inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        features = images.flatten(1)
        if self.hidden is not None:
            features = F.relu(self.hidden(features))
        logits: Tensor = self.classifier(features)
        return logits


def build(input_shape: tuple[int, int, int], classes: int, hidden: int = 128) -> nn.Module:
    channels, height, width = input_shape
    return SLP(channels * height * width, hidden, classes)
