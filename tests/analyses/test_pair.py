"""What the analyses look at is the run itself, and looking changes nothing."""

import pytest
import torch
from torch.nn import functional as F

import understudy as us
from understudy.analyses.conflict import conflict
from understudy.analyses.pair import Options, Pair, config_of
from understudy.engine.checkpoint import load_checkpoint


def load(folder):
    return Pair.load(folder, torch.device("cpu"), config_of(folder, {"train.device": "cpu"}), Options())


def test_accuracies_are_those_of_the_run_and_of_evaluate(dual):
    fidelity = us.analyze(dual, ["fidelity"], quiet=True).findings["fidelity"].numbers
    measured = us.evaluate(dual, quiet=True)
    # the two ask in batches of different sizes, which changes the last bits of float32
    assert {k.replace("test/", "student/"): v for k, v in measured.items()} == pytest.approx(
        fidelity, rel=1e-5
    )


def test_every_head_makes_its_logits_of_its_feature(pair):
    seen = pair.see("test")
    made = {name: F.linear(h.feature, h.weight, h.bias) for name, h in seen.heads.items()}
    assert set(made) == {"student", "teacher", "auxiliary"}
    torch.testing.assert_close(made["student"], seen.student, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made["teacher"], seen.teacher, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made["auxiliary"], seen.auxiliary["auxiliary"], rtol=1e-4, atol=1e-4)


def test_a_replaced_classifier_is_the_one_that_is_looked_at(trained):
    folder = trained("ijckd", losses=[{"name": "ce"}, {"name": "ijckd"}])
    pair = load(folder)
    seen = pair.see("test")
    head = seen.heads["student"]
    torch.testing.assert_close(
        F.linear(head.feature, head.weight, head.bias), seen.student, rtol=1e-4, atol=1e-4
    )
    assert seen.student is seen.crossed
    assert head.weight.equal(seen.heads["teacher"].weight)
    pair.distiller.close()
    found = us.analyze(folder, ["bound"], quiet=True).findings["bound"].numbers
    assert found["delta1"] == 0.0
    assert found["teachers_classifier/acc1"] == us.evaluate(folder, quiet=True)["test/acc1"]


def test_kept_checkpoints_are_lent_and_taken_back(pair):
    assert [epoch for epoch, _ in pair.moments] == [1, 2]
    before = {name: tensor.clone() for name, tensor in pair.distiller.state_dict().items()}
    own = pair.see("test")
    for epoch, path in pair.moments:
        with pair.at(path):
            state = load_checkpoint(path)["model"]
            assert all(t.equal(state[n]) for n, t in pair.distiller.state_dict().items()), epoch
            assert not pair.see("test").student.equal(own.student)
    assert all(t.equal(before[n]) for n, t in pair.distiller.state_dict().items())
    assert pair.see("test") is own


def test_the_last_kept_checkpoint_is_what_is_deployed(pair, dual):
    state = load_checkpoint(dual / "checkpoints" / "epoch-00003.pt")["model"]
    assert all(t.equal(state[n]) for n, t in pair.distiller.state_dict().items())


def test_with_a_moving_average_it_is_what_is_looked_at(trained):
    folder = trained("ema", losses=[{"name": "ce"}, {"name": "kd"}], train={**TRAIN, "ema": 0.9})
    fidelity = us.analyze(folder, ["fidelity"], quiet=True).findings["fidelity"].numbers
    assert fidelity["student/acc1"] == us.evaluate(folder, quiet=True)["test/acc1"]


def test_gradients_in_training_mode_leave_weights_and_statistics_alone(pair):
    before = {name: tensor.clone() for name, tensor in pair.distiller.state_dict().items()}
    first = conflict(pair)
    assert all(t.equal(before[n]) for n, t in pair.distiller.state_dict().items())
    assert not pair.distiller.training
    assert conflict(pair).numbers == first.numbers


def test_all_training_images_are_looked_at_as_they_are(pair):
    seen = pair.see("train")
    assert len(seen.target) == 120
    assert seen.target.equal(pair.built.data.train.targets)


TRAIN = {"epochs": 2, "batch_size": 32, "device": "cpu", "threads": 1, "schedule": {"name": "constant"}}
