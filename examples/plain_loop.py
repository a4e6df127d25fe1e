"""A student under a teacher in a plain PyTorch loop: your model, your data loader, your optimiser.

    python examples/plain_loop.py

Takes some 20 seconds on a laptop's CPU. Nothing here but `Distiller` belongs to understudy: the data are scikit-learn's
digits in an ordinary DataLoader, and both networks are ordinary modules.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import understudy as us


def convnet(width: int) -> nn.Sequential:
    """A network that understudy has never seen: the head and its input are found by themselves."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def train(distiller: us.Distiller, loader: DataLoader, epochs: int) -> nn.Module:
    """The loop. `distiller.backward` takes the place of `loss.backward()`: it merges the two gradients."""
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        distiller.train()
        for images, target in loader:
            out = distiller(images, target, epoch=epoch)
            optimizer.zero_grad()
            distiller.backward(out)
            optimizer.step()
    return distiller.deployable().eval()


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.3
    target = torch.tensor(digits.target)
    order = torch.randperm(len(target))
    test, rest = order[:500], order[500:]

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            return 100 * (network(images[test]).argmax(1) == target[test]).float().mean().item()

    example = images[:2]
    everything = DataLoader(TensorDataset(images[rest], target[rest]), batch_size=64, shuffle=True)
    teacher = train(us.Distiller(convnet(32), losses=[{"name": "ce"}], example=example), everything, epochs=8)
    print(f"teacher {accuracy(teacher):.1f}%")

    few = DataLoader(TensorDataset(images[rest[:150]], target[rest[:150]]), batch_size=32, shuffle=True)
    alone = train(us.Distiller(convnet(4), losses=[{"name": "ce"}], example=example), few, epochs=60)
    print(f"student alone {accuracy(alone):.1f}%")

    distiller = us.Distiller(
        convnet(4), teacher, [{"name": "ce"}, {"name": "dhkd"}], align="backbone", example=example
    )
    student = train(distiller, few, epochs=60)
    print(f"student under its teacher {accuracy(student):.1f}%")


if __name__ == "__main__":
    main()
