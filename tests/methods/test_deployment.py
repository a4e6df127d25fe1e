import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import understudy as us
from understudy.heads import Transplanted
from understudy.methods import METHODS
from understudy.methods.deployment import deployed_model
from understudy.models import load_weights

REPLACING = [name for name, method in METHODS.items() if method.replaces_classifier]


@pytest.fixture(params=REPLACING)
def trained(request, bench):
    b = bench(request.param)
    b.step()
    return b


def test_it_answers_exactly_as_the_distiller_does(trained):
    net = trained.distiller.deployable()
    assert type(net) is Transplanted
    assert torch.equal(net.eval()(trained.images), trained.distiller.eval().predict(trained.images))


def test_copies_and_pickles_answer_alike_and_independently(trained):
    net = trained.distiller.deployable().eval()
    want = net(trained.images)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.deepcopy(copy.deepcopy(net))):
        assert torch.equal(copied(trained.images), want)
        with torch.no_grad():
            copied.connector[0].weight.zero_()
        assert not torch.equal(copied(trained.images), want)
        assert torch.equal(net(trained.images), want)


def test_it_is_a_copy_that_training_on_does_not_touch(trained):
    net = trained.distiller.deployable().eval()
    want = net(trained.images)
    trained.step(lr=1.0)
    assert torch.equal(net(trained.images), want)


def test_its_state_holds_backbone_connector_and_classifier_alone(trained):
    state = trained.distiller.deployable().state_dict()
    body = {f"backbone.{k}" for k in trained.distiller.student.state_dict() if not k.startswith("fc.")}
    added = {key for key in state if key not in body}
    assert body <= state.keys()
    assert {key.split(".")[0] for key in added} == {"connector", "classifier"}
    assert state["classifier.weight"].shape == (5, 64)


def test_finished_weights_load_into_a_model_built_without_training(trained, tmp_path):
    net = trained.distiller.deployable().eval()
    path = tmp_path / "student.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    assert load_file(path)["classifier.bias"].dtype == torch.float64
    student, teacher = (us.create_model(name, num_classes=5).double() for name in ("cnn_tiny", "cnn_small"))
    again = deployed_model(trained.method, student, teacher, torch.zeros(2, 3, 16, 16)).double()
    load_weights(again, path)
    assert torch.equal(again.eval()(trained.images), net(trained.images))
    assert all(p.requires_grad for p in teacher.parameters())
    assert not any(m._forward_hooks for m in student.modules())


def test_a_transformers_tokens_are_read_as_in_training(bench, vit):
    b = bench("ijckd", student=vit, teacher="cnn_small")
    b.step()
    net = pickle.loads(pickle.dumps(b.distiller.deployable().eval()))
    torch.testing.assert_close(net(b.images), b.distiller.eval().predict(b.images), rtol=0, atol=1e-12)


def test_channels_last_maps_are_read_as_in_training(bench):
    swin = pytest.importorskip("torchvision").models.swin_transformer.SwinTransformer
    torch.manual_seed(3)
    student = swin([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=5).double()
    b = bench("ijckd", student=student, teacher="cnn_small", size=32)
    b.step()
    assert b.distiller.network.channels_last
    net = b.distiller.deployable().eval()
    assert torch.equal(net(b.images), b.distiller.eval().predict(b.images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_exports_as_one_graph(bench):
    b = bench("simkd")
    net = b.distiller.deployable().eval()
    program = torch.export.export(net, (b.images,))
    torch.testing.assert_close(program.module()(b.images), net(b.images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_it_compiles_as_one_graph(bench):
    b = bench("simkd")
    net = b.distiller.deployable().eval()
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(b.images), net(b.images))


def test_a_method_that_replaces_nothing_deploys_the_student(bench):
    b = bench("at")
    student = b.distiller.student
    assert deployed_model(b.method, student, b.distiller.setup.guide.module, b.images) is student


WIDE = """
from torch import nn

def net(num_classes, in_channels, width=4):
    body = [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


def test_a_student_from_another_run_s_weights_is_rebuilt_with_their_options(
    digits_config, tmp_path, monkeypatch
):
    (tmp_path / "wide_networks.py").write_text(WIDE)
    monkeypatch.syspath_prepend(tmp_path)
    plain = digits_config | {"losses": [{"name": "ce"}], "gradients": {}, "teacher": None}
    plain["train"] = plain["train"] | {"epochs": 1}
    student = {"model": "wide_networks:net", "options": {"width": 12}}
    first = us.train(plain | {"student": student, "output": str(tmp_path / "first")}, quiet=True)
    given = {"model": "wide_networks:net", "weights": str(first.path / "student.safetensors")}
    second = us.distill(
        plain
        | {
            "student": given,
            "teacher": digits_config["teacher"],
            "losses": [{"name": "ijckd"}],
            "output": str(tmp_path / "second"),
        },
        quiet=True,
    )
    assert us.evaluate(second.path, quiet=True)["test/acc1"] == second.metrics["last"]["test/acc1"]
    us.export(second.path, ["safetensors"], quiet=True)
    (exported,) = (second.path / "export").glob("*.safetensors")
    with safe_open(exported, framework="pt") as file:
        assert json.loads(file.metadata()["options"]) == {"width": 12}
