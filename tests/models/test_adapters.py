"""Networks from elsewhere: torchvision, timm, and a function of the user's."""

import re
import sys
import types

import pytest
import torch
import torchvision
from torch import nn

from understudy.models import create_model


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked for the network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)


@pytest.fixture
def published(monkeypatch):
    """The weights that a download would bring, made here."""
    torch.manual_seed(5)
    state = torchvision.models.mobilenet_v3_small().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    return state


def test_torchvision_network_has_the_classes_asked_for_and_no_download(no_network):
    with torch.device("meta"):
        net = create_model("torchvision/resnet18", num_classes=7)
    assert isinstance(net, torchvision.models.ResNet)
    assert net.fc.out_features == 7


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_fpn", "lraspp_mobilenet_v3_large"])
def test_torchvision_detector_downloads_no_backbone(no_network, name):
    with torch.device("meta"):
        assert isinstance(create_model(f"torchvision/{name}", num_classes=5), nn.Module)


def test_torchvision_network_with_auxiliary_heads_gives_plain_logits_in_training():
    with torch.device("meta"):
        net = create_model("torchvision/googlenet", num_classes=5)
        assert net.train()(torch.empty(2, 3, 64, 64)).shape == (2, 5)


def test_torchvisions_older_networks_are_the_same_with_and_without_pretrained_weights(monkeypatch):
    fresh = torchvision.models.inception_v3(weights=None, init_weights=False).state_dict()
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: fresh)
    net = create_model("torchvision/inception_v3", num_classes=1000, pretrained=True)
    again = create_model("torchvision/inception_v3", num_classes=1000, init_weights=False)
    again.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 96, 96)
    assert net.eval()(images).equal(again.eval()(images))
    assert net.train()(images).shape == (2, 1000)


def test_torchvision_arguments_pass_through():
    with torch.device("meta"):
        net = create_model(
            "torchvision/resnet18", num_classes=5, replace_stride_with_dilation=None, width_per_group=64
        )
        assert net.fc.out_features == 5


def test_pretrained_torchvision_network_has_the_published_weights(published):
    net = create_model("torchvision/mobilenet_v3_small", num_classes=1000, pretrained=True)
    assert all(torch.equal(value, published[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("version", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_pretrained_torchvision_network_is_of_the_version_asked_for(monkeypatch, version):
    class AskedError(Exception):
        pass

    def download(url, **_):
        raise AskedError(url)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    url = torchvision.models.ResNet50_Weights[version].url
    with pytest.raises(AskedError, match=re.escape(url)):
        create_model("torchvision/resnet50", num_classes=1000, pretrained=True, version=version)
    with pytest.raises(
        ValueError, match=r"options\.version must be one of torchvision's for resnet50, got 'V3'"
    ):
        create_model("torchvision/resnet50", num_classes=1000, pretrained=True, version="V3")


def test_pretrained_torchvision_network_gets_a_new_head_for_other_classes(published):
    net = create_model("torchvision/mobilenet_v3_small", num_classes=12, pretrained=True)
    changed = [key for key, value in net.state_dict().items() if not torch.equal(value, published[key])]
    assert changed == ["classifier.3.weight", "classifier.3.bias"]
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 12)


def test_pretrained_torchvision_network_without_linear_head_keeps_its_classes(monkeypatch):
    state = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    with pytest.raises(ValueError, match=r"must end in a linear layer of 1000 classes.*got num_classes 12"):
        create_model("torchvision/squeezenet1_1", num_classes=12, pretrained=True)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("torchvision/resnet19", {}, "got 'resnet19'. Did you mean 'resnet1"),
        ("torchvision/resnet18", {"in_channels": 1}, "must get images with 3 channels, got in_channels 1"),
        ("torchvision/resnet18", {"depth": 3}, "unexpected keyword argument 'depth'"),
        ("torchvision/", {}, "model must be in the zoo"),
    ],
)
def test_torchvision_mistakes_are_named(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=5, **kwargs)


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[timm\]'"):
        create_model("timm/resnet18", num_classes=5)


@pytest.fixture
def fake_timm(monkeypatch):
    timm = types.ModuleType("timm")
    timm.calls = []
    timm.is_model = lambda name: name == "levit_128"
    timm.list_models = lambda: ["levit_128", "resnet18"]
    timm.create_model = lambda name, **kwargs: (timm.calls.append((name, kwargs)), nn.Linear(1, 1))[1]
    monkeypatch.setitem(sys.modules, "timm", timm)
    return timm


def test_timm_is_asked_in_its_own_words(fake_timm):
    create_model("timm/levit_128", num_classes=5, in_channels=1, drop_rate=0.1)
    asked = {"pretrained": False, "num_classes": 5, "in_chans": 1, "drop_rate": 0.1}
    assert fake_timm.calls == [("levit_128", asked)]


def test_unknown_timm_name_is_answered_with_the_nearest(fake_timm):
    with pytest.raises(ValueError, match="Did you mean 'levit_128'"):
        create_model("timm/levit128", num_classes=5)
    assert fake_timm.calls == []


@pytest.mark.parametrize("name", ["resnet18", "levit_128"])
def test_real_timm_network_has_the_classes_asked_for(name):
    pytest.importorskip("timm")
    with torch.device("meta"):
        net = create_model(f"timm/{name}", num_classes=5)
    assert net.num_classes == 5


class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.fc = nn.Linear(in_channels, num_classes)


def make_fixed():
    return nn.Linear(3, 3)


def make_open(**kwargs):
    return Net(**kwargs)


def make_positional(num_classes, width):
    return nn.Linear(width, num_classes)


@pytest.fixture
def user(monkeypatch):
    module = types.ModuleType("users_nets")
    for value in (Net, make_fixed, make_open, make_positional):
        setattr(module, value.__name__, value)
    module.holder = types.SimpleNamespace(make=make_fixed)
    module.number = 3
    module.make_none = lambda: None
    monkeypatch.setitem(sys.modules, "users_nets", module)
    return module


@pytest.mark.parametrize(
    ("factory", "kwargs", "shape"),
    [
        ("Net", {}, (5, 3)),
        ("Net", {"in_channels": 1}, (5, 1)),
        ("make_open", {"in_channels": 2}, (5, 2)),
        ("make_open", {}, (5, 3)),
        ("make_fixed", {}, (3, 3)),
        ("holder.make", {}, (3, 3)),
        ("make_positional", {"width": 8}, (5, 8)),
    ],
)
def test_users_function_gets_what_it_takes(user, factory, kwargs, shape):
    net = create_model(f"users_nets:{factory}", num_classes=5, **kwargs)
    assert next(net.parameters()).shape == shape


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("no_such_package.nets:make", {}, "must be importable, got: No module named 'no_such_package'"),
        (":make", {}, "must be importable, got: Empty module name"),
        ("users_nets:make_fixd", {}, "got no 'make_fixd' in it. Did you mean 'make_fixed'"),
        ("users_nets:holder.mak", {}, "got no 'mak' in it. Did you mean 'make'"),
        ("users_nets:number", {}, "must be a function or class, got int"),
        ("users_nets:make_none", {}, "must return a torch.nn.Module, got NoneType"),
        ("users_nets:make_fixed", {"in_channels": 1}, "must take in_channels to be given 1"),
        ("users_nets:Net", {"pretrained": True}, "must take pretrained to be given True"),
        ("users_nets:Net", {"widht": 3}, "unexpected keyword argument 'widht'"),
        ("users_nets:make_positional", {}, "missing 1 required positional argument: 'width'"),
    ],
)
def test_users_mistakes_are_named(user, name, kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_model(name, num_classes=5, **kwargs)
    assert "\n" not in str(caught.value)


def test_weights_load_into_foreign_networks(user, tmp_path):
    torch.save({"fc.weight": torch.full((5, 3), 2.0), "fc.bias": torch.zeros(5)}, tmp_path / "a.pt")
    net = create_model("users_nets:Net", num_classes=5, weights=tmp_path / "a.pt")
    assert net.fc.weight.unique().tolist() == [2.0]
