import copy
import pickle

import pytest
import torch
from torch import nn

import understudy as us
from understudy.engine.distiller import Distiller

ALIGNS = ["none", "released", "backbone", "paper", "feature"]


def pair(classes=10, teacher="cnn_small"):
    torch.manual_seed(0)
    return us.create_model("cnn_tiny", classes), us.create_model(teacher, classes)


def batch(n=12, classes=10, size=16, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=g), torch.randint(classes, (n,), generator=g)


def prepared(losses, align="none", **kwargs):
    student, teacher = pair()
    means = torch.randn(10, 64, generator=torch.Generator().manual_seed(2))
    return Distiller(student, teacher, losses, align=align, class_means=means, **kwargs)


LOSSES = {
    "kd": [{"name": "ce", "weight": 0.1}, {"name": "kd", "weight": 0.9}],
    "dkd": [{"name": "ce"}, {"name": "dkd"}],
    "dhkd": [{"name": "ce"}, {"name": "dhkd"}],
    "dhkd_mlp": [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}],
    "dhkd++": [{"name": "ce"}, {"name": "dhkd"}, {"name": "dino"}],
    "dual_head_kd": [{"name": "ce"}, {"name": "dual_head_kd"}],
    "figure 2, two on one head": [{"name": "ce"}, {"name": "binary_kl"}],
    "logits only": [{"name": "binary_kl"}],
    "mse": [{"name": "ce"}, {"name": "logit_mse"}, {"name": "tckd"}, {"name": "nckd"}],
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES.keys())
def test_every_trainable_parameter_receives_a_gradient(losses):
    distiller = prepared(losses)
    images, target = batch()
    distiller.backward(distiller(images, target))
    missing = [n for n, p in distiller.named_parameters() if p.grad is None]
    assert missing == []
    assert len(distiller.trainable_parameters()) == len(list(distiller.parameters()))


def test_without_alignment_the_gradient_is_that_of_the_summed_loss():
    distiller = prepared(LOSSES["dhkd++"])
    images, target = batch()
    distiller.eval()  # no dropout, no batch statistics: two passes must agree
    out = distiller(images, target)
    expected = torch.autograd.grad(out.loss, distiller.trainable_parameters())
    distiller.backward(distiller(images, target))
    for parameter, gradient in zip(distiller.trainable_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("align", ["released", "backbone"])
def test_alignment_is_a_reweighted_cross_entropy_on_the_backbone(align):
    """The identity of METHODS section 8, on a distiller: merged = (1+λ)·∂L_1 + ∂L_2 with λ from the definitions."""
    distiller = (
        prepared([{"name": "ce"}, {"name": "dhkd", "weight": 3.0, "head": "linear"}], align).double().eval()
    )
    distiller.setup.teacher.module.double()
    images, target = batch()
    out = distiller(images.double(), target)
    named = dict(distiller.named_parameters())
    a = torch.autograd.grad(out.label_loss, named.values(), retain_graph=True, allow_unused=True)
    b = torch.autograd.grad(out.guide_loss, named.values(), allow_unused=True)
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    d = sum((x * y).sum() for x, y in both)
    n = sum((x * x).sum() for x, _ in both)
    if align == "released":
        n = n + sum((x * x).sum() for x, y in zip(a, b, strict=True) if x is not None and y is None)
    strength = max(0.0, float(-d / n))
    distiller.backward(distiller(images.double(), target))
    assert float(distiller.alignment["lambda"]) == pytest.approx(strength, rel=1e-9)
    for parameter, x, y in zip(named.values(), a, b, strict=True):
        if x is not None and y is None:
            factor = 1 + strength if align == "released" else 1.0
            torch.testing.assert_close(parameter.grad, factor * x)
        elif x is not None:
            torch.testing.assert_close(parameter.grad, (1 + strength) * x + y)
        else:
            torch.testing.assert_close(parameter.grad, y)


class Opposed(nn.Module):
    """A network on which labels and teacher pull apart: its teacher answers the opposite of the labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.body(x))


@pytest.mark.parametrize("align", ["released", "backbone", "feature"])
def test_opposed_gradients_give_a_positive_strength(align):
    torch.manual_seed(0)
    student, teacher = Opposed(), Opposed()
    teacher.load_state_dict(student.state_dict())
    with torch.no_grad():
        teacher.fc.weight.neg_()
        teacher.fc.weight.mul_(50)
    distiller = Distiller(
        student,
        teacher,
        [{"name": "ce"}, {"name": "dual_head_kd", "head": "linear", "temperature": 1}],
        align=align,
        example=torch.zeros(2, 3, 8, 8),
    ).double()
    teacher.double()
    distiller.heads["dual_head_kd"]["aux"].load_state_dict(student.fc.state_dict())
    images = torch.randn(16, 3, 8, 8, dtype=torch.float64)
    target = student(images).argmax(dim=1)
    distiller.backward(distiller(images, target))
    assert float(distiller.alignment["lambda"]) > 0
    assert float(distiller.alignment["dot"]) < 0


def test_feature_alignment_is_one_backward_of_the_merged_feature_gradient():
    distiller = prepared(LOSSES["dhkd"], "feature").double().eval()
    distiller.setup.teacher.module.double()
    images, target = batch()
    images = images.double()
    out = distiller(images, target)
    (a,) = torch.autograd.grad(out.label_loss, out.feature, retain_graph=True)
    (b,) = torch.autograd.grad(out.guide_loss, out.feature, retain_graph=True)
    strength = torch.clamp(-(a * b).sum() / (a * a).sum(), min=0)
    body = [p for n, p in distiller.student.named_parameters() if not n.startswith(distiller.network.head)]
    expected = torch.autograd.grad(out.feature, body, grad_outputs=(1 + strength) * a + b)
    distiller.backward(distiller(images, target))
    for parameter, gradient in zip(body, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("align", ["none", "released", "backbone", "paper"])
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(align):
    losses = [{"name": "ce"}, {"name": "dhkd", "head": "linear"}]
    whole = prepared(losses, align).double().eval()
    whole.setup.teacher.module.double()
    images, target = batch(12)
    images = images.double()
    whole.backward(whole(images, target))
    expected = [p.grad.clone() for p in whole.parameters()]
    whole.zero_grad()
    for part, last in ((slice(0, 5), False), (slice(5, 12), True)):
        out = whole(images[part], target[part])
        whole.backward(out, last=last, scale=len(target[part]) / 12)
        if not last:
            assert all(p.grad is None for p in whole.parameters())
    for parameter, gradient in zip(whole.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_teacher_is_frozen_and_no_part_of_the_module():
    student, teacher = pair()
    before = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(student, teacher, LOSSES["dhkd"])
    distiller.train()
    images, target = batch()
    distiller.backward(distiller(images, target))
    assert not teacher.training
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    assert not any("teacher" in name for name in distiller.state_dict())
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_teacher_nobody_reads_is_not_run():
    distiller = prepared([{"name": "ce"}, {"name": "kd", "weight": {"until_epoch": 1}}])
    calls = []
    distiller.guides.teachers["teacher"].module.register_forward_hook(lambda *a: calls.append(1))
    images, target = batch()
    assert set(distiller(images, target, epoch=0).terms) == {"ce", "kd"}
    assert len(calls) == 1
    out = distiller(images, target, epoch=1)
    assert set(out.terms) == {"ce"}
    assert len(calls) == 1
    distiller.backward(out)


def test_the_deployed_student_is_exactly_the_plain_student():
    distiller = prepared(LOSSES["dhkd++"], "backbone")
    images, target = batch()
    distiller.backward(distiller(images, target))
    net = distiller.deployable()
    plain = us.create_model("cnn_tiny", 10)
    assert type(net) is type(plain)
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert torch.equal(net.eval()(images), distiller.eval().predict(images))
    pickle.loads(pickle.dumps(net))


def test_it_trains_in_a_plain_loop():
    """DESIGN section 4: a plain PyTorch loop with any optimiser; the loss on one batch falls."""
    distiller = prepared(LOSSES["dhkd"], "backbone")
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.05, momentum=0.9)
    images, target = batch(32)
    losses = []
    for _ in range(30):
        out = distiller(images, target)
        optimizer.zero_grad()
        distiller.backward(out)
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_class_means_come_from_one_pass_over_the_training_images():
    student, teacher = pair()
    distiller = Distiller(student, teacher, [{"name": "ce"}, {"name": "dino"}])
    images, target = batch(40)
    with pytest.raises(ValueError, match="class means"):
        distiller(images, target)
    assert distiller.needs_prepare
    distiller.prepare([(images[:15], target[:15]), (images[15:], target[15:])])
    assert not distiller.needs_prepare
    with us.Taps(us.describe(teacher, images[:2]), ["feature"]) as taps, torch.no_grad():
        feature = taps.collect(teacher.eval()(images))["feature"]
    for k in range(10):
        rows = feature[target == k]
        expected = rows.mean(dim=0) if len(rows) else torch.zeros(feature.shape[1])
        torch.testing.assert_close(distiller.heads["dino"]["means"]()[k], expected)
    fresh = Distiller(*pair(), [{"name": "ce"}, {"name": "dino"}])
    fresh.load_state_dict(distiller.state_dict())
    assert not fresh.needs_prepare


def test_bf16_keeps_heads_and_losses_in_float32():
    distiller = prepared(LOSSES["dhkd"], precision="bf16")
    images, target = batch()
    out = distiller(images, target)
    assert out.logits.dtype == out.loss.dtype == torch.float32
    distiller.backward(out)
    assert all(p.grad.dtype == torch.float32 for p in distiller.parameters())
    exact = prepared(LOSSES["dhkd"])
    assert float(out.loss.detach()) == pytest.approx(float(exact(images, target).loss.detach()), rel=0.05)


def test_bf16_aligns_at_the_feature_as_float32_does():
    images, target = batch()
    found = []
    for precision in ("bf16", "fp32"):
        distiller = prepared([{"name": "ce"}, {"name": "binary_kl"}], align="feature", precision=precision)
        distiller.backward(distiller(images, target))
        found.append(distiller.alignment)
    low, exact = found
    assert float(low["cosine"]) == pytest.approx(float(exact["cosine"]), abs=0.02)
    assert float(low["lambda"]) == pytest.approx(
        float(exact["lambda"]), abs=0.05 * float(exact["lambda"]) + 0.02
    )


@pytest.mark.parametrize("align", ["none", "released"])
def test_a_compiled_student_has_the_gradients_of_the_plain_one(align):
    losses = [{"name": "ce"}, {"name": "dhkd", "weight": {"from_epoch": 2}}]
    distiller, plain = (prepared(losses, align=align) for _ in range(2))
    plain.load_state_dict(distiller.state_dict())
    distiller.compile_student("aot_eager")
    images, target = batch()
    for epoch in (0, 1):  # labels alone first: a graph that is differentiated once, and then twice
        for one in (distiller, plain):
            one.zero_grad()
            one.backward(one(images, target, epoch=epoch))
        for a, b in zip(distiller.trainable_parameters(), plain.trainable_parameters(), strict=True):
            assert a.grad is None if b.grad is None else torch.allclose(a.grad, b.grad, atol=1e-5)
    assert distiller.alignment.keys() == plain.alignment.keys()
    torch.compiler.reset()


def test_compiled_students_of_one_class_have_taps_of_their_own():
    """Without a reset between them: the second one's graph must have its hooks."""
    images, target = batch()
    for losses in ([{"name": "ce"}], [{"name": "ce"}, {"name": "at"}], [{"name": "ce"}, {"name": "kd"}]):
        distiller = prepared(losses)
        distiller.compile_student("aot_eager")
        out = distiller(images, target)
        distiller.backward(out)
        assert out.terms.keys() == {term["name"] for term in losses}
    torch.compiler.reset()


def test_a_compiled_student_is_not_trained_where_weights_would_only_decay():
    distiller = prepared(
        [{"name": "fitnet", "weight": {"until_epoch": 2}}, {"name": "ce", "weight": {"from_epoch": 2}}]
    )
    distiller.compile_student("aot_eager")
    with pytest.raises(
        ValueError, match=r"no term reads the student's logits, got 'fitnet' alone in epoch 1"
    ):
        distiller(*batch())
    distiller(*batch(), epoch=2)
    torch.compiler.reset()


def test_parameters_may_be_freed_frozen_and_added_between_two_batches():
    distiller = prepared([{"name": "ce"}, {"name": "dhkd"}], align="backbone")
    images, target = batch()

    def reached():
        distiller.zero_grad()
        distiller.backward(distiller(images, target))
        return {name for name, p in distiller.named_parameters() if p.grad is not None}

    everything = reached()
    for p in distiller.student.parameters():
        p.requires_grad_(False)
    assert {name.partition(".")[0] for name in reached()} == {"heads"}
    for p in distiller.student.parameters():
        p.requires_grad_(True)
    assert reached() == everything == set(distiller.trainable_names())
    distiller.backward(distiller(images, target), last=False, scale=0.5)
    next(distiller.student.parameters()).requires_grad_(False)
    with pytest.raises(ValueError, match="must stay the same within a batch"):
        distiller.backward(distiller(images, target), scale=0.5)


@pytest.mark.parametrize("align", ["none", "released", "backbone", "feature"])
def test_a_frozen_backbone_leaves_nothing_to_align(align):
    distiller = prepared([{"name": "ce"}, {"name": "dhkd"}], align=align)
    head = {id(p) for p in distiller.network.classifier.parameters()}
    for p in distiller.student.parameters():
        p.requires_grad_(id(p) in head)
    images, target = batch()
    distiller.backward(distiller(images, target))
    assert all(p.grad is not None for p in distiller.trainable_parameters())


def test_a_term_on_frozen_stages_has_no_gradient_to_align():
    distiller = prepared([{"name": "ce"}, {"name": "at", "stages": [[1, 1]]}], align="backbone")
    for name, p in distiller.student.named_parameters():
        p.requires_grad_(not name.startswith(("stem", "stage1")))
    distiller.backward(distiller(*batch()))
    assert all(p.grad is not None for p in distiller.trainable_parameters())


def test_numbers_of_an_alignment_that_was_not_made_are_none():
    distiller = prepared([{"name": "ce"}, {"name": "at", "stages": [[1, 1]]}], align="backbone")
    distiller.backward(distiller(*batch()))
    assert distiller.alignment
    for name, p in distiller.student.named_parameters():
        p.requires_grad_(not name.startswith(("stem", "stage1")))
    distiller.backward(distiller(*batch()))
    assert not distiller.alignment


def test_sparse_gradients_are_left_as_they_are():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(9, 4, sparse=True)
            self.fc = nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(x.mean((2, 3))[:, :1] * self.places(torch.arange(len(x))))

    distiller = Distiller(Places(), None, [{"name": "ce"}], example=torch.zeros(2, 3, 8, 8))
    distiller.backward(distiller(torch.randn(4, 3, 8, 8), torch.arange(4)))
    assert distiller.student.places.weight.grad.is_sparse


class Summed(nn.Module):
    """A network with a weight that is a sum of two."""

    def __init__(self):
        super().__init__()
        self.base, self.delta = (nn.Parameter(torch.randn(4, 3, 3, 3)) for _ in range(2))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(nn.functional.conv2d(x, self.base + self.delta).relu().mean((2, 3)))


def test_parameters_that_are_added_up_have_gradients_of_their_own():
    student = Summed()
    distiller = Distiller(student, None, [{"name": "ce"}], example=torch.zeros(2, 3, 8, 8))
    distiller.backward(distiller(torch.randn(4, 3, 8, 8), torch.arange(4)))
    assert student.base.grad.equal(student.delta.grad)
    assert student.base.grad.data_ptr() != student.delta.grad.data_ptr()


@pytest.mark.parametrize("losses", [[{"name": "ce"}, {"name": "at"}], [{"name": "ce"}, {"name": "ijckd"}]])
def test_alignment_at_the_feature_needs_a_loss_that_passes_it(losses):
    with pytest.raises(ValueError, match=r"must not be feature where .*Use backbone"):
        prepared(losses, align="feature")


@pytest.mark.parametrize(
    "losses",
    [
        [{"name": "ce"}, {"name": "kd"}],
        [{"name": "ce"}, {"name": "dhkd", "head": "mlp"}],
        [{"name": "ce"}, {"name": "dhkd", "head": "linear"}, {"name": "dino"}],
        [{"name": "ce"}, {"name": "dhkd", "head": "linear"}, {"name": "kd"}],
    ],
)
def test_alignment_of_rows_needs_one_pair_of_classifiers(losses):
    student, teacher = (us.create_model(name, 4) for name in ("cnn_tiny", "cnn_small"))
    with pytest.raises(ValueError, match="align must not be paper without one linear second head"):
        Distiller(student, teacher, losses, align="paper")


def test_class_means_are_of_one_teacher():
    student, *teachers = (us.create_model("cnn_tiny", 4) for _ in range(3))
    losses = [{"name": "dino", "label": f"of_{name}", "teacher": name} for name in "ab"]
    with pytest.raises(ValueError, match="class_means must be of the only teacher"):
        Distiller(student, dict(zip("ab", teachers, strict=True)), losses, class_means=torch.zeros(4, 64))


def test_a_network_that_cannot_take_the_images_says_which():
    class Flat(nn.Sequential):
        pass

    flat = Flat(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(
        ValueError, match=r"Flat must take images of shape \(2, 3, 32, 32\), got RuntimeError: "
    ):
        Distiller(flat, None, [{"name": "ce"}])
    Distiller(flat, None, [{"name": "ce"}], example=torch.zeros(2, 3, 8, 8))


def test_every_one_of_several_teachers_must_fit_a_term_that_reads_all():
    teachers = {"a": us.create_model("cnn_small", 10), "b": us.create_model("cnn_small", 7)}
    with pytest.raises(ValueError, match="10"):
        Distiller(
            us.create_model("cnn_tiny", 10), teachers, [{"name": "kd"}], example=torch.zeros(2, 3, 16, 16)
        )


@pytest.mark.parametrize("align", ["backbone", "paper", "feature"])
def test_alignment_that_needs_the_graph_in_parts_is_refused_a_compiled_student(align):
    with pytest.raises(ValueError, match=f"where train.compile is on, got {align}"):
        prepared(LOSSES["dhkd"], align=align).compile_student("aot_eager")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, t: Distiller(s, None, [{"name": "kd"}]), "must have a teacher"),
        (
            lambda s, t: Distiller(s, t, precision="bfloat16"),
            "precision must be fp32 or bf16, got 'bfloat16'",
        ),
        (
            lambda s, t: Distiller(s, us.create_model("cnn_small", 7), [{"name": "kd"}]),
            "same classes, got 10 and 7",
        ),
        (lambda s, t: Distiller(s, t, [{"name": "kd"}], student_taps={"stage_1": "stag1"}), "stage1"),
        (
            lambda s, t: Distiller(s, t, [{"name": "dino"}], class_means=torch.zeros(3, 64)),
            "class means must have shape",
        ),
    ],
)
def test_a_pair_that_does_not_fit_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make(*pair())
    assert "\n" not in str(error.value)


def test_nothing_is_read_on_the_host_during_a_step():
    """PERFORMANCE section 3: on the CPU host reads are counted as `_local_scalar_dense`."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    for align in ALIGNS:
        distiller = prepared(
            [{"name": "ce"}, {"name": "dhkd", "head": "linear"}, {"name": "dkd"}],
            "none" if align == "paper" else align,
        )
        images, target = batch()
        distiller(images, target)  # the first question folds the teacher
        with Reads() as reads:
            distiller.backward(distiller(images, target))
        assert reads.count == 0, align


def test_several_teachers_are_named_or_averaged():
    student, one = pair()
    two = us.create_model("resnet8", 10)
    images, target = batch()
    distiller = Distiller(
        student,
        {"one": one, "two": two},
        [{"name": "ce"}, {"name": "kd"}, {"name": "kd", "label": "second", "teacher": "two"}],
    )
    out = distiller(images, target)
    with torch.no_grad():
        mean = (one(images) + two(images)) / 2
        torch.testing.assert_close(out.terms["kd"].detach(), us.losses.kd_loss(out.logits, mean))
        torch.testing.assert_close(out.terms["second"].detach(), us.losses.kd_loss(out.logits, two(images)))
    distiller.backward(out)
    with pytest.raises(ValueError, match="Did you mean 'two'"):
        Distiller(student, {"one": one, "two": two}, [{"name": "kd", "teacher": "tow"}])
    with pytest.raises(ValueError, match="no mean"):
        Distiller(student, {"one": one, "two": two}, [{"name": "dino"}])


def test_a_teacher_only_one_term_reads_is_asked_only_for_it():
    student, one = pair()
    two, calls = us.create_model("resnet8", 10), []
    two.register_forward_hook(lambda *a: calls.append(1))
    distiller = Distiller(
        student,
        {"one": one, "two": two},
        [
            {"name": "kd", "teacher": "one"},
            {"name": "kd", "label": "b", "teacher": "two", "weight": {"until_epoch": 1}},
        ],
    )
    images, target = batch()
    distiller(images, target, epoch=0)
    seen = len(calls)  # the dry run, the folding, the first question
    distiller(images, target, epoch=1)
    assert len(calls) == seen
    distiller(images, target, epoch=0)
    assert len(calls) == seen + 1


def test_images_without_labels_serve_the_terms_that_need_none():
    images, _ = batch()
    distiller = prepared([{"name": "kd"}, {"name": "dhkd"}, {"name": "feature_l2"}])
    distiller.backward(distiller(images, None))
    with pytest.raises(ValueError, match="'ce' must have labels"):
        prepared([{"name": "ce"}, {"name": "kd"}])(images, None)
    with pytest.raises(ValueError, match="'feature_l2' must have labels"):
        prepared([{"name": "feature_l2", "class_balanced": True}])(images, None)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"name": "simkd"}, {"name": "ijckd"}], "only one term may replace"),
        ([{"name": "at", "stages": [[1, 9]]}], "stage_9"),
        ([{"name": "crd"}], "label of every training image"),
        ([{"name": "kd", "weight": {"from_epoch": 5, "until_epoch": 2}}], "must not end before it starts"),
    ],
)
def test_wrong_use_of_a_method_is_one_clear_error(losses, message):
    with pytest.raises(ValueError, match=message) as error:
        prepared(losses)
    assert "\n" not in str(error.value)


def test_crd_without_sample_indices_is_refused():
    images, target = batch()
    with pytest.raises(ValueError, match="without index"):
        prepared([{"name": "crd"}], train_targets=target)(images, target)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("before", [False, True], ids=["fresh", "after a step"])
def test_a_copy_trains_on_its_own(copied, before):
    distiller = us.Distiller(
        *pair(), [{"name": "ce"}, {"name": "dhkd"}, {"name": "fitnet"}], align="backbone"
    )
    images, targets = batch()
    if before:
        distiller(images, targets)
    twin = copied(distiller)
    ours, theirs = distiller(images, targets), twin(images, targets)
    assert torch.equal(ours.loss, theirs.loss)
    twin.backward(theirs)
    assert all(p.grad is not None for p in twin.trainable_parameters())
    assert all(p.grad is None for p in distiller.trainable_parameters())
    twin.close()
    copies = copy.deepcopy(twin.student)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in copies.modules())
    assert torch.equal(distiller(images, targets).loss, ours.loss)


def test_a_deep_copy_shares_the_teacher():
    student, teacher = pair()
    twin = copy.deepcopy(us.Distiller(student, teacher, [{"name": "ce"}, {"name": "kd"}]))
    assert twin.guides.networks["teacher"].module is teacher
    assert twin.setup.teacher is twin.guides.networks["teacher"]
    assert twin.student is not student
    assert twin.setup.student.module is twin.student


def test_an_averaged_model_of_it_is_deployed():
    distiller = us.Distiller(*pair(), [{"name": "ce"}, {"name": "kd"}])
    averaged = torch.optim.swa_utils.AveragedModel(distiller)
    averaged.update_parameters(distiller)
    images, targets = batch()
    assert torch.equal(averaged.module(images, targets).loss, distiller(images, targets).loss)


@pytest.mark.parametrize("norm", [False, True])
def test_a_teacher_that_is_told_to_train_answers_in_eval_mode(norm):
    kept = [nn.ReLU(), nn.BatchNorm2d(8)] if norm else []  # which no convolution takes
    layers = [
        nn.Conv2d(3, 8, 3, stride=2),
        *kept,
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ]
    teacher = nn.Sequential(*layers)
    holder = nn.ModuleDict(
        {"teacher": teacher, "distiller": us.Distiller(pair()[0], teacher, [{"name": "kd"}])}
    )
    images, targets = batch()
    state = copy.deepcopy(teacher.state_dict())
    losses = {float(holder.train()["distiller"](images, targets).loss.detach()) for _ in range(3)}
    assert len(losses) == 1
    assert all(torch.equal(teacher.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_teacher_made_in_inference_mode_teaches():
    with torch.inference_mode():
        teacher = pair()[1]
    distiller = us.Distiller(pair()[0], teacher, [{"name": "ce"}, {"name": "kd"}])
    distiller.backward(distiller(*batch()))
    assert all(p.grad is not None for p in distiller.trainable_parameters())


def wrapped(how):
    student, teacher = pair()
    if how == "itself":
        return student, student
    if how == "a layer":
        student.stem = teacher.stem
        return student, teacher
    if how == "compiled":
        return torch.compile(student, backend="eager"), teacher
    if how == "compiled teacher":
        return student, torch.compile(teacher, backend="eager")
    return nn.DataParallel(student), teacher


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("itself", "no parameter in common, got stem.0.weight in both"),
        ("a layer", "no parameter in common, got stem.0.weight in both"),
        ("compiled", "student must be the network itself, got a OptimizedModule"),
        ("compiled teacher", "teacher must be the network itself, got a OptimizedModule"),
        ("parallel", "student must be the network itself, got a DataParallel"),
    ],
)
def test_networks_that_share_or_are_wrapped_are_refused_as_they_were(how, message):
    student, teacher = wrapped(how)
    with pytest.raises(ValueError, match=message):
        us.Distiller(student, teacher, [{"name": "ce"}, {"name": "kd"}])
    assert all(p.requires_grad for p in student.parameters())


def test_what_was_accumulated_of_a_batch_that_failed_can_be_forgotten():
    distiller = us.Distiller(*pair(), [{"name": "ce"}, {"name": "dhkd"}], align="backbone")
    images, targets = batch()
    distiller.eval()  # the same forward twice
    distiller.backward(distiller(images, targets))
    expected = [p.grad for p in distiller.trainable_parameters()]
    distiller.zero_grad()
    distiller.backward(distiller(images[:4], targets[:4]), last=False, scale=0.5)
    distiller.zero_grad()
    distiller.backward(distiller(images, targets))
    for parameter, gradient in zip(distiller.trainable_parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_forward_without_a_graph_is_no_silent_standstill():
    distiller = us.Distiller(*pair(), [{"name": "ce"}, {"name": "kd"}])
    with torch.no_grad():
        out = distiller(*batch())
    with pytest.raises(
        ValueError, match="must follow a forward that kept its graph, got a loss of ce, kd without"
    ):
        distiller.backward(out)
