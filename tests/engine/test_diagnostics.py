"""What is looked at during training is right, costs nobody a number, and warns of a collapse."""

import json

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from understudy.engine.diagnostics import Diagnostics
from understudy.engine.meters import Meters

CPU = torch.device("cpu")


def pair(align="none", losses=({"name": "ce"}, {"name": "kd", "temperature": 2.0})):
    torch.manual_seed(0)
    student, teacher = (us.create_model(n, num_classes=4, in_channels=1) for n in ("cnn_tiny", "cnn_small"))
    return us.Distiller(student, teacher, losses, align=align, example=torch.zeros(2, 1, 8, 8))


def test_a_look_equals_an_independent_calculation_in_float64():
    distiller = pair()
    diagnostics = Diagnostics(1, 4, CPU)
    norms, cosines, agreements, predictions = [], [], [], []
    for seed in range(3):
        images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        target = torch.arange(16) % 4
        out = distiller(images, target)
        feature = out.feature.detach().double().requires_grad_()
        head = distiller.network.classifier
        logits = feature @ head.weight.detach().double().T + head.bias.detach().double()
        theirs = distiller.guides.predict(images).double()
        label = -logits.log_softmax(1).gather(1, target[:, None]).mean()
        p = (theirs / 2).softmax(1)
        guide = 4 * (p * (p.log() - (logits / 2).log_softmax(1))).sum(1).mean()
        a, b = (torch.autograd.grad(side, feature, retain_graph=True)[0].flatten() for side in (label, guide))
        cosines.append(float(a @ b / a.norm() / b.norm()))
        norms.append(float(feature.detach().norm(dim=1).mean()))
        agreements.append(float((logits.argmax(1) == theirs.argmax(1)).double().mean()) * 100)
        predictions += logits.argmax(1).tolist()
        diagnostics.look(out)
    summary = diagnostics.summary()
    top = max(map(predictions.count, range(4))) / len(predictions)
    # the look computes in float32 what is checked in float64
    assert summary["diagnose/feature_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)
    assert summary["diagnose/cosine"] == pytest.approx(sum(cosines) / 3, abs=1e-5)
    assert summary["diagnose/conflict"] == pytest.approx(100 * sum(c < 0 for c in cosines) / 3)
    assert summary["diagnose/agreement"] == pytest.approx(sum(agreements) / 3)
    assert summary["diagnose/top_class"] == pytest.approx(100 * top)


@pytest.mark.parametrize("align", ["none", "backbone", "feature"])
def test_a_look_changes_no_gradient(align):
    gradients = []
    for looks in (False, True):
        distiller = pair(align)
        torch.manual_seed(1)
        out = distiller(torch.rand(8, 1, 8, 8), torch.arange(8) % 4)
        if looks:
            Diagnostics(1, 4, CPU).look(out)
        distiller.backward(out)
        gradients.append([p.grad for p in distiller.trainable_parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("losses", "absent"),
    [
        ([{"name": "ce"}], {"diagnose/conflict", "diagnose/cosine", "diagnose/agreement"}),
        ([{"name": "kd"}], {"diagnose/conflict", "diagnose/cosine"}),
        ([{"name": "ce"}, {"name": "at"}], {"diagnose/agreement", "diagnose/conflict", "diagnose/cosine"}),
    ],
)
def test_what_a_run_does_not_have_is_left_out(losses, absent):
    distiller, diagnostics = pair(losses=losses), Diagnostics(1, 4, CPU)
    diagnostics.look(distiller(torch.rand(8, 1, 8, 8), torch.arange(8) % 4))
    everything = {f"diagnose/{n}" for n in ("feature_norm", "agreement", "conflict", "cosine", "top_class")}
    assert everything - diagnostics.summary().keys() == absent


def test_due_steps_are_every_nth_and_the_last():
    diagnostics = Diagnostics(4, 2, CPU)
    assert [step for step in range(10) if diagnostics.due(step, 10)] == [3, 7, 9]
    assert not any(Diagnostics(0, 2, CPU).due(step, 10) for step in range(10))


def test_sums_survive_a_checkpoint_within_an_epoch():
    distiller = pair()
    whole, first, second = (Meters(["ce", "kd"], CPU, 4, Diagnostics(1, 4, CPU)) for _ in range(3))
    for i in range(4):
        out = distiller(torch.rand(8, 1, 8, 8), torch.arange(8) % 4)
        for meters in (whole, first if i < 2 else second):
            if i == 2 and meters is second:
                second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
            meters.diagnostics.look(out)
    assert second.diagnostics.summary() == whole.diagnostics.summary()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_look_waits_for_nothing_on_a_gpu():
    device = torch.device("cuda")
    torch.manual_seed(0)
    student, teacher = (us.create_model(n, num_classes=4, in_channels=1) for n in ("cnn_tiny", "cnn_small"))
    losses, example = [{"name": "ce"}, {"name": "kd"}], torch.zeros(2, 1, 8, 8, device=device)
    distiller = us.Distiller(student.to(device), teacher.to(device), losses, example=example)
    diagnostics = Diagnostics(1, 4, device)
    images, target = torch.rand(8, 1, 8, 8, device=device), torch.arange(8, device=device) % 4
    diagnostics.look(distiller(images, target))
    out = distiller(images, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        diagnostics.look(out)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert diagnostics.summary()["diagnose/feature_norm"] > 0


def lines_of(config, **changes):
    run = us.distill(config, quiet=True, **changes)
    return run, [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_the_same_to_the_bit_with_and_without_looks(digits_config, tmp_path):
    one, lines = lines_of(digits_config, **{"train.diagnose_every": 1, "output": str(tmp_path / "one")})
    other, plain = lines_of(digits_config, **{"train.diagnose_every": 0, "output": str(tmp_path / "other")})
    weights = [load_file(r.path / "student.safetensors") for r in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert all(line["diagnose/feature_norm"] > 0 for line in lines)
    assert all(0 <= line["diagnose/agreement"] <= 100 for line in lines)
    assert not any(key.startswith("diagnose/") for line in plain for key in line)
