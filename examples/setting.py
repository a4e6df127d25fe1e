"""What the integrations share: digits, a distiller that begins the same every time, and a plain loop's first step."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import understudy as us

BATCH = 64


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Returns 1,000 training images with labels, and the test images and labels."""
    images, target = (torch.tensor(x) for x in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16 - 0.3
    return TensorDataset(images[:1000], target[:1000]), images[1000:], target[1000:]


def loader(train: TensorDataset) -> DataLoader:
    """Returns shuffled batches, in the same order for everybody who asks."""
    return DataLoader(train, BATCH, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0))


def new_distiller() -> us.Distiller:
    """Returns a small student under a larger teacher, two gradients merged; always with the same first weights."""
    torch.manual_seed(0)
    teacher, student = (us.create_model(name, 10, in_channels=1) for name in ("cnn_small", "cnn_tiny"))
    train, *_ = digits()
    images, target = train.tensors
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for part in torch.arange(1000).split(100) * 3:  # three epochs make a teacher
        optimizer.zero_grad()
        F.cross_entropy(teacher(images[part]), target[part]).backward()
        optimizer.step()
    terms = [{"name": "ce"}, {"name": "dhkd", "weight": 0.5}]
    return us.Distiller(student, teacher, terms, align="backbone", example=images[:2])


def new_optimizer(distiller: us.Distiller) -> torch.optim.Optimizer:
    return torch.optim.SGD(distiller.trainable_parameters(), lr=0.1, momentum=0.9)


def weights(distiller: us.Distiller) -> dict[str, Tensor]:
    """Returns a copy of what is trained: the student and the second head of DHKD."""
    return {name: copy.deepcopy(p.detach()) for name, p in distiller.named_parameters()}


def after_plain_step() -> dict[str, Tensor]:
    """Returns the weights after the first step of a plain PyTorch loop."""
    distiller = new_distiller()
    optimizer = new_optimizer(distiller)
    distiller.train()
    distiller.backward(distiller(*next(iter(loader(digits()[0])))))
    optimizer.step()
    return weights(distiller)


def check_first_step(theirs: dict[str, Tensor], *, tolerance: float = 0.0) -> None:
    """Refuses a first step that is not the plain loop's."""
    ours = after_plain_step()
    assert theirs.keys() == ours.keys()
    worst = max(float((theirs[name] - ours[name]).abs().max()) for name in ours)
    moved = max(float((ours[name] - value).abs().max()) for name, value in weights(new_distiller()).items())
    assert moved > 1e-3, "the step must move the weights"
    assert worst <= tolerance, f"the first step differs from the plain loop's by {worst:.2g}"
    print(f"first step: {'the bits of' if worst == 0 else f'{worst:.1g} from'} the plain loop's")


def accuracy(network: nn.Module) -> float:
    """Returns top-1 accuracy on the test images in percent."""
    _, images, target = digits()
    with torch.no_grad():
        return 100 * (network.eval()(images).argmax(1) == target).float().mean().item()
