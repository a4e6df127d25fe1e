import pytest
import torch
from torch import nn
from torch.nn import functional as F


def energy(x):
    x = (x**2).mean(dim=1).flatten(1)
    return x / x.norm(dim=1, keepdim=True)


def factors(b, student, teacher, written_out):
    ours, theirs = student["stage_last"], teacher["stage_last"]
    layers = list(b.heads["translate"])
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        ours = F.leaky_relu(written_out.conv_bn(ours, conv, norm), 0.1)
    for conv in list(b.heads["paraphrase"].encoder)[::2]:
        theirs = F.leaky_relu(F.conv2d(theirs, conv.weight, conv.bias, padding=1), 0.1)
    return (energy(ours) - energy(theirs)).abs().mean()


def prepared(bench, **settings):
    b = bench("ft", paraphraser_epochs=1, **settings)
    torch.manual_seed(4)
    b.prepare()
    return b


def convolutions(module):
    return [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_the_layers_have_the_papers_widths(bench):
    heads = bench("ft").heads  # 24 channels under 64
    assert convolutions(heads["paraphrase"]) == [(64, 64), (64, 32), (32, 32)]
    assert convolutions(heads["translate"]) == [(24, 24), (24, 32), (32, 32)]


def test_the_loss_is_the_difference_of_the_factors_energy_maps(bench, written_out):
    b = prepared(bench)
    torch.testing.assert_close(b.term(), factors(b, *b.shown(), written_out))


def test_a_step_moves_student_and_translator_as_the_equation_does_and_the_paraphraser_not(bench, written_out):
    def loss(student, teacher):
        label = written_out.ce(student["logits"], by_hand.target)
        return label + 200 * factors(by_hand, student, teacher, written_out)

    by_engine, by_hand = prepared(bench, weight=200.0), prepared(bench, weight=200.0)
    frozen = [p.clone() for p in by_engine.heads["paraphrase"].parameters()]
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")
    now = by_engine.heads["paraphrase"].parameters()
    assert all(torch.equal(a, b) for a, b in zip(frozen, now, strict=True))


def test_the_paraphraser_learns_to_reconstruct_the_teachers_map(bench):
    b = bench("ft")
    last = b.shown()[1]["stage_last"]
    torch.manual_seed(4)
    errors = b.heads["paraphrase"].fit(lambda: [last[:3], last[3:]], num_epochs=30, learning_rate=0.1)
    assert len(errors) == 30
    assert errors[-1] < 0.7 * errors[0]


def test_preparing_trains_the_paraphraser_once_and_freezes_it(bench):
    b = bench("ft", paraphraser_epochs=2)
    passes = []
    b.distiller.guides.teachers["teacher"].module.register_forward_hook(lambda *args: passes.append(1))
    b.prepare()
    assert len(passes) == 2
    assert not b.distiller.needs_prepare
    assert all(not p.requires_grad and p.grad is None for p in b.heads["paraphrase"].parameters())
    own = {id(p) for p in b.heads["paraphrase"].parameters()}
    assert not own & {id(p) for p in b.distiller.trainable_parameters()}


def test_the_same_seed_gives_the_same_paraphraser_and_a_saved_run_keeps_it(bench):
    first, second, fresh = prepared(bench), prepared(bench), bench("ft")
    assert fresh.distiller.needs_prepare
    fresh.distiller.load_state_dict(second.distiller.state_dict())
    assert not fresh.distiller.needs_prepare
    for b in (second, fresh):
        pairs = zip(first.heads["paraphrase"].parameters(), b.heads["paraphrase"].parameters(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)


def test_transformers_and_other_sizes_fit(bench, vit):
    assert prepared(bench, teacher=vit).term() > 0
    assert prepared(bench, student=vit, teacher="cnn_small").term() > 0
    assert prepared(bench, teacher="vgg8", size=32).term() > 0


@pytest.mark.parametrize(
    ("settings", "maps", "message"),
    [
        ({"num_epochs": 2, "learning_rate": 0.1}, "once", "got none in epoch 2. Give batches that can be"),
        ({"num_epochs": 30, "learning_rate": 1e6}, "again", "must stay finite.*Lower paraphraser_lr"),
    ],
)
def test_a_paraphraser_that_cannot_learn_is_one_clear_error(bench, settings, maps, message):
    last = bench("ft").shown()[1]["stage_last"]
    paraphraser = bench("ft").heads["paraphrase"]
    stream = iter([last])
    with pytest.raises(ValueError, match=message) as error:
        paraphraser.fit(lambda: stream if maps == "once" else [last], **settings)
    assert "\n" not in str(error.value)


def test_an_untrained_paraphraser_is_refused(bench):
    with pytest.raises(ValueError, match="must have a trained paraphraser"):
        bench("ft").term()
