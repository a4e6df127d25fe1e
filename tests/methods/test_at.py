import pytest
import torch


def test_the_loss_is_the_difference_of_unit_attention_maps(bench):
    b = bench("at")
    student, teacher = b.shown()
    expected = 0.0
    for k in (1, 2, 3):
        maps = [(side[f"stage_{k}"] ** 2).mean(dim=1).flatten(1) for side in (student, teacher)]
        ours, theirs = (m / m.norm(dim=1, keepdim=True) for m in maps)
        expected = expected + ((ours - theirs) ** 2).mean()
    torch.testing.assert_close(b.term(), expected)


def test_stages_and_power_can_be_chosen(bench):
    b = bench("at", stages=((1, 2),), p=1.0)
    student, teacher = b.shown()
    ours = student["stage_1"].abs().mean(dim=1)
    ours = torch.nn.functional.avg_pool2d(ours, 2).flatten(1)  # the larger map is pooled
    theirs = teacher["stage_2"].abs().mean(dim=1).flatten(1)
    ours, theirs = (m / m.norm(dim=1, keepdim=True) for m in (ours, theirs))
    torch.testing.assert_close(b.term(), ((ours - theirs) ** 2).mean())


def test_a_transformer_teaches_a_convolutional_network(bench, vit):
    b = bench("at", teacher=vit)
    assert b.method.stages == ((1, 2), (2, 3), (3, 4))
    assert b.term() > 0


def test_a_power_below_one_is_refused(bench):
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        bench("at", p=0.5)
