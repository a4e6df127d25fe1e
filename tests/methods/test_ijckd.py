import pytest
import torch
from torch.nn import functional as F


def joint(b, student, teacher, written_out):
    """Logits of the teacher's classifier and the connected map, written out."""
    layers = list(b.heads["transplant"].connect)
    x = student["stage_last"]
    for conv, norm in zip(layers[::3], layers[1::3], strict=True):
        x = written_out.conv_bn(x, conv, norm).clamp(min=0)
    classifier = b.distiller.setup.guide.module.fc
    return x.mean(dim=(2, 3)) @ classifier.weight.T + classifier.bias, x


@pytest.mark.parametrize("connector", ["1x1", "1x1-1x1", "1x1-3x3-1x1"])
def test_the_loss_is_the_difference_of_logits_of_one_classifier(bench, written_out, connector):
    b = bench("ijckd", connector=connector)
    student, teacher = b.shown()
    logits, _ = joint(b, student, teacher, written_out)
    out = b.distiller(b.images, b.target)
    torch.testing.assert_close(out.terms["ijckd"], ((logits - teacher["logits"]) ** 2).mean())
    torch.testing.assert_close(out.terms["ce"], written_out.ce(logits, b.target))
    torch.testing.assert_close(out.logits, logits)


def test_maps_can_be_compared_too(bench, written_out):
    b = bench("ijckd", feature_weight=0.7)
    student, teacher = b.shown()
    logits, connected = joint(b, student, teacher, written_out)
    expected = ((logits - teacher["logits"]) ** 2).mean()
    expected = expected + 0.7 * ((connected - teacher["stage_last"]) ** 2).mean()
    torch.testing.assert_close(b.term(), expected)


@pytest.mark.parametrize("feature_weight", [0.0, 0.7])
def test_a_step_moves_student_and_connector_as_the_equation_does(bench, written_out, feature_weight):
    def loss(student, teacher):
        logits, connected = joint(by_hand, student, teacher, written_out)
        guide = ((logits - teacher["logits"]) ** 2).mean()
        guide = guide + feature_weight * ((connected - teacher["stage_last"]) ** 2).mean()
        return written_out.ce(logits, by_hand.target) + guide

    by_engine, by_hand = (bench("ijckd", feature_weight=feature_weight) for _ in range(2))
    got, want = by_engine.step(), by_hand.step_by_hand(loss)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("feature_weight", [0.0, 0.7])
def test_a_batch_counts_once_in_the_connectors_running_statistics(bench, feature_weight):
    b = bench("ijckd", feature_weight=feature_weight)
    b.step()
    norm = b.heads["transplant"].connect[1]
    assert int(norm.num_batches_tracked) == 1


def test_the_students_own_head_is_neither_trained_nor_deployed(bench):
    b = bench("ijckd")
    head = [p.clone() for p in b.distiller.student.fc.parameters()]
    b.step()
    assert all(torch.equal(x, y) for x, y in zip(head, b.distiller.student.fc.parameters(), strict=True))
    own = {id(p) for p in b.distiller.student.fc.parameters()}
    assert not own & {id(p) for p in b.distiller.trainable_parameters()}
    assert not any(".fc." in name for name in b.distiller.deployable().state_dict())


def test_a_smaller_teacher_map_is_met_by_pooling(bench):
    b = bench("ijckd", teacher="vgg8", size=32, feature_weight=1.0)
    student, teacher = b.shown()
    connected = b.heads["transplant"].connect(student["stage_last"])
    pooled = F.avg_pool2d(connected, connected.shape[2] // teacher["stage_last"].shape[2])
    expected = ((pooled - teacher["stage_last"]) ** 2).mean()
    without = bench("ijckd", teacher="vgg8", size=32).term()
    torch.testing.assert_close(b.term() - without, expected)
