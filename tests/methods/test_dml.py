import pytest
import torch
from torch.nn import functional as F

import understudy as us


def kl(a, b):
    """KL(softmax(a) || softmax(b)), mean over the batch, written out."""
    p, q = a.detach().double().softmax(1), b.detach().double().softmax(1)
    return sum(float((p[i] * (p[i] / q[i]).log()).sum()) for i in range(len(p))) / len(p)


def test_each_network_learns_from_labels_and_from_the_mean_of_its_peers():
    torch.manual_seed(0)
    distiller = us.Distiller(
        us.create_model("cnn_tiny", 10), None, [{"name": "dml", "peers": ["same", "resnet8"]}]
    ).eval()
    images, target = torch.randn(6, 3, 16, 16), torch.arange(6)
    z = [distiller.student(images), *(p(images) for p in distiller.heads["dml"].values())]
    expected = (kl(z[1], z[0]) + kl(z[2], z[0])) / 2
    for i, others in ((1, (0, 2)), (2, (0, 1))):
        expected += float(F.cross_entropy(z[i], target).detach()) + sum(kl(z[k], z[i]) for k in others) / 2
    assert float(distiller(images, target).loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_both_networks_learn_and_a_peer_begins_elsewhere():
    torch.manual_seed(0)
    distiller = us.Distiller(us.create_model("cnn_tiny", 10), None, [{"name": "ce"}, {"name": "dml"}])
    peer = distiller.heads["dml"]["peer_0"]
    assert not torch.equal(peer.stem[0].weight, distiller.student.stem[0].weight)
    before = [p.clone() for p in distiller.parameters()]
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    distiller.backward(distiller(torch.randn(8, 3, 16, 16), torch.arange(8)))
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, distiller.parameters(), strict=True))
    plain = us.create_model("cnn_tiny", 10)
    assert sum(p.numel() for p in distiller.deployable().parameters()) == sum(
        p.numel() for p in plain.parameters()
    )


def test_dml_runs_and_resumes_without_a_teacher(digits_config):
    config = digits_config | {
        "teacher": None,
        "losses": [{"name": "ce"}, {"name": "dml", "peers": ["cnn_small"]}],
    }
    run = us.distill(config, quiet=True, **{"train.epochs": 1})
    assert run.metrics["verb"] == "distill"
    assert run.metrics["teacher"] is None


@pytest.mark.parametrize(
    ("peers", "message"), [([], "at least one network"), (["resnet9"], "Did you mean 'resnet")]
)
def test_wrong_peers_are_one_clear_error(peers, message):
    with pytest.raises(ValueError, match=message):
        us.Distiller(us.create_model("cnn_tiny", 10), None, [{"name": "dml", "peers": peers}])
