import pytest

from understudy.config import build_config
from understudy.methods import METHODS
from understudy.methods.presets import PRESETS, preset
from understudy.methods.term import build_terms


def terms(*args):
    return {t["name"]: t for t in preset(*args).losses}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dataset", ["cifar100", "imagenet"])
def test_every_preset_builds(name, dataset):
    assert build_terms(preset(name, dataset).losses)


def test_a_tag_of_timm_s_weights_is_no_part_of_a_network_s_name():
    tagged = preset(
        "kd++", "imagenet", "timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "torchvision/resnet18"
    )
    assert tagged.pair == "vit_base_patch16_224 to resnet18"


def test_every_pair_of_every_preset_builds():
    from understudy.methods.presets import _PUBLISHED

    pairs = [
        (name, dataset, pair)
        for name, entry in _PUBLISHED.items()
        for dataset in ("cifar100", "imagenet", "coco")
        for pair in entry.get(dataset, {}).get("pairs", ())
    ]
    assert len(pairs) > 50
    for name, dataset, pair in pairs:
        chosen = preset(name, dataset, pair["teacher"], pair.get("student", "resnet8"))
        assert chosen.pair is not None
        names = {t["name"] for t in chosen.losses}
        assert set(pair) - {"teacher", "student"} <= names, (name, pair)
        build_terms(chosen.losses)


def test_every_method_of_a_paper_has_a_preset():
    parts = {t["name"] for p in PRESETS.values() for t in p.losses}
    only_on_top = {"cosine", "feature_l2", "infonce", "sifn"}  # published on top of KD, weights unpublished
    of_no_paper = {"bce"}  # the label's term of images of several classes
    assert set(METHODS) - parts == only_on_top | of_no_paper


def test_published_settings_follow_data_and_pair():
    assert (
        terms("dkd", "cifar100", "wrn_40_2", "shufflenet_v1")["dkd"]["beta"] == 6.0
    )  # the paper's, not the code's 8
    assert terms("dkd", "imagenet", "torchvision/resnet50", "mobilenet_v1")["dkd"]["beta"] == 2.0
    assert terms("dkd++", "cifar100", "resnet56", "resnet20")["dkd"]["alpha"] == 2.5
    kd = terms("kd++", "cifar100", "resnet32x4", "resnet8x4")["kd"]
    assert kd["weight"] == {"value": 3.5, "warmup_epochs": 20, "warmup_start": 0}
    assert terms("dhkd", "cifar100", "resnet56", "resnet20")["dhkd"]["weight"] == 0.1
    assert preset("dhkd", "imagenet").align == "none"
    assert preset("dhkd", "tin32").align == "released"


def test_a_pair_that_no_paper_has_gets_its_data_set_s_settings():
    dkd = terms("dkd++", "imagenet", "resnet50", "mobilenet_v2")["dkd"]
    assert (dkd["alpha"], dkd["beta"]) == (0.8, 0.5)  # not CIFAR-100's 8


@pytest.mark.parametrize("dataset", ["camvid", "cityscapes", "maskfolder", "voc"])
def test_masks_have_settings_of_their_own(dataset):
    assert terms("kd", dataset)["kd"] == {"name": "kd", "temperature": 1.0}
    assert terms("dkd", dataset)["dkd"] == {"name": "dkd", "alpha": 1.0, "beta": 0.25, "temperature": 1.0}
    assert terms("dhkd", dataset)["dhkd"]["weight"] == 0.1
    assert terms("at", dataset) == terms("at", "cifar100")  # which have none


def test_a_config_takes_the_settings_of_its_pair():
    config = build_config(
        {
            "data": {"name": "cifar100"},
            "teacher": {"model": "resnet32x4"},
            "student": {"model": "resnet8x4"},
            "method": "kd++",
        },
        {},
    )
    assert config.losses[1]["weight"]["value"] == 3.5
    assert config.losses[2]["weight"] == 2.0
