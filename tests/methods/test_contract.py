"""What every method keeps to, whatever it computes: how the engine may treat it."""

import copy
import pickle
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import understudy as us
from understudy.engine.distiller import Distiller
from understudy.interface import Batch
from understudy.methods import METHODS

CLASSES, IMAGES, BATCH = 10, 40, 8


@dataclass(frozen=True)
class Case:
    """Example settings of one method, on a pair it suits, and what it is excused from."""

    settings: dict = field(default_factory=dict)
    student: str = "cnn_tiny"
    teacher: str = "resnet8"
    sees_teacher: bool = True
    """Whether the loss of a step depends on what the teacher shows (else on class means, or on nothing of it)."""
    permutes: bool = True
    """Whether the order of the batch is irrelevant."""
    refuses: dict = field(default_factory=dict)
    """Name in `PAIRS` of a pair that the method cannot read -> what its error says."""


PAIRS = {
    "vgg8": ("cnn_tiny", "vgg8", 32),
    "mobilenet_v2": ("wrn_16_1", "mobilenet_v2", 32),
    "transformer": ("cnn_tiny", "transformer", 16),
    "transformer student": ("transformer", "resnet8", 16),
}
EQUAL_WIDTHS = {
    "student": "wrn_16_1",
    "teacher": "resnet8",
    "refuses": dict.fromkeys(PAIRS, "equal channels"),
}
TEACHERS_CLASSIFIER = {"refuses": {"transformer": "classifier reads its pooled last map"}}
NORMS = dict.fromkeys(
    ("mobilenet_v2", "transformer"), "must have a batch norm in front of its last activation"
)

CASES = {
    "ab": Case(),
    "at": Case(),
    "bce": Case({"pos_weight": "auto"}, sees_teacher=False),
    "binary_kl": Case({"standardise": True}),
    "binary_kl_norm": Case(),
    "cc": Case({"width": 16}, permutes=False),
    "ce": Case({"label_smoothing": 0.1}, sees_teacher=False),
    "cosine": Case({"class_balanced": True, "means": "classifier"}, sees_teacher=False),
    "crd": Case({"negatives": 20, "width": 16}, permutes=False),  # negatives are drawn by place in the batch
    "cwd": Case(),
    "dhkd": Case({"head": "mlp"}),
    "dino": Case({"class_balanced": True}),
    "dist": Case(),
    "dkd": Case({"standardise": True, "beta": 2.0}),
    "dml": Case({"peers": ("cnn_tiny", "cnn_small")}, sees_teacher=False),
    "dual_head_kd": Case(),
    "feature_l2": Case({"class_balanced": True, "projector": "paper"}),
    "fitnet": Case(),
    "fsp": Case(**EQUAL_WIDTHS),
    "ft": Case({"paraphraser_epochs": 1}),
    "ijckd": Case(**TEACHERS_CLASSIFIER),
    "infonce": Case({"class_balanced": True}, sees_teacher=False),
    "kd": Case({"standardise": True, "temperature": 2.0}),
    "kdsvd": Case(**EQUAL_WIDTHS),
    "logit_mse": Case({"standardise": True}),
    "nckd": Case(),
    "nst": Case({"stages": ((1, 1), (3, 3))}),
    "ofd": Case(refuses=NORMS),
    "pkt": Case(),
    "reviewkd": Case(),
    "rkd": Case({"angle_weight": 10.0}),
    "sifn": Case({"previous": "snapshot"}, sees_teacher=False),
    "simkd": Case(**TEACHERS_CLASSIFIER),
    "sp": Case(),
    "srrl": Case(**TEACHERS_CLASSIFIER),
    "tckd": Case({"standardise": True}),
    "ttm": Case(),
    "vid": Case(),
    "wsld": Case(),
    "wttm": Case(),
}

OF_IMAGES = [
    name for name, method in METHODS.items() if not method.needs_boxes
]  # others: tests/tasks/test_detection.py
every_method = pytest.mark.parametrize("name", OF_IMAGES)
compiler_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports


class Transformer(nn.Module):
    """Tokens instead of maps, a class token in front: 17 of them at 16 pixels."""

    def __init__(self, num_classes, width=24):
        super().__init__()
        self.patches = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        blocks = [
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(4)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.fc(self.norm(self.blocks(x))[:, 0])


def model_of(name):
    return Transformer(CLASSES) if name == "transformer" else us.create_model(name, num_classes=CLASSES)


def distiller_of(name, seed=0, student=None, teacher=None, size=16):
    case = CASES[name]
    torch.manual_seed(seed)
    small, large = model_of(student or case.student), model_of(teacher or case.teacher)
    example = torch.zeros(2, 3, size, size)
    width = us.describe(large, example).shapes["feature"][0]
    term = {"name": name, **case.settings}
    distiller = Distiller(
        small,
        large,
        [term] if name == "ce" else [{"name": "ce"}, term],
        example=example,
        class_means=torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(5)),
        train_targets=torch.arange(IMAGES) % CLASSES,
    )
    if distiller.needs_prepare:
        distiller.prepare([images_of(size)[:2]])
    return distiller


def images_of(size=16, seed=1):
    g = torch.Generator().manual_seed(seed)
    index = torch.randperm(IMAGES, generator=g)[:BATCH]
    return torch.randn(BATCH, 3, size, size, generator=g), index % CLASSES, index


def step(distiller, size=16):
    """A forward and backward pass whose randomness is the same every time."""
    images, target, index = images_of(size)
    torch.manual_seed(7)
    out = distiller(images, target, index=index)
    distiller.backward(out)
    return out


def outputs_of(network, seed, scale=1.0):
    """Every role of a network, made up: what a term is given, without the network."""
    g = torch.Generator().manual_seed(seed)
    shown = {role: scale * torch.randn(BATCH, *shape, generator=g) for role, shape in network.shapes.items()}
    return {role: x.relu() if role.startswith("stage") else x for role, x in shown.items()}


def parts_of(name):
    """A method, its heads, and made-up arguments of its loss."""
    distiller = distiller_of(name)
    images, target, index = images_of()
    batch = Batch(images, target, index)
    shown = outputs_of(distiller.setup.student, 3), outputs_of(distiller.setup.teacher, 4)
    return distiller.terms[-1].method, distiller.heads[name], *shown, batch


def value(method, heads, student, teacher, batch):
    torch.manual_seed(11)
    return method.loss(student, teacher, batch, heads)


def learning(shown):
    return {role: x.clone().requires_grad_() for role, x in shown.items()}


def gradients(loss, shown, heads):
    leaves = [*shown.values(), *(p for p in heads.parameters() if p.requires_grad)]
    return [g for g in torch.autograd.grad(loss, leaves, allow_unused=True) if g is not None]


def test_every_method_has_a_case():
    assert list(CASES) == OF_IMAGES
    assert list(METHODS) == sorted(METHODS)


@every_method
def test_the_loss_is_one_number_that_learns(name):
    out = step(distiller_of(name))
    loss = out.terms[name]
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.requires_grad
    assert loss.isfinite()


@every_method
def test_every_trainable_parameter_receives_a_gradient(name):
    distiller = distiller_of(name)
    step(distiller)
    trained = {id(p) for p in distiller.trainable_parameters()}
    missing = [n for n, p in distiller.named_parameters() if id(p) in trained and p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in distiller.trainable_parameters())
    own = [p for p in distiller.heads.parameters() if p.requires_grad]
    assert all(id(p) in trained for p in own)
    assert all(p.grad.any() for p in own if p.dim() > 1)  # weights, not only touched but moved


@every_method
def test_a_fused_optimiser_steps_as_a_plain_one(name):
    """It goes through parameter and gradient by address: networks are channels-last, heads are not."""
    moved = []
    for fused in (False, True):
        distiller = distiller_of(name)
        for network in (distiller.setup.student, distiller.setup.teacher):
            network.module.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=1.0, fused=fused)
        step(distiller)
        optimizer.step()
        moved.append([p.detach() for p in distiller.trainable_parameters()])
    for plain, fused in zip(*moved, strict=True):
        torch.testing.assert_close(fused, plain)


@every_method
@compiler_warnings
def test_the_loss_compiles_as_one_graph_of_the_same_value(name):
    method, heads, student, teacher, batch = parts_of(name)
    ours, theirs = copy.deepcopy(heads), copy.deepcopy(heads)
    student = learning(student)
    eager = value(method, ours, student, teacher, batch)
    torch.compiler.reset()
    compiled = torch.compile(method.loss, fullgraph=True, backend="eager")
    torch.manual_seed(11)
    captured = compiled(student, teacher, batch, theirs)
    torch.testing.assert_close(captured, eager)
    for one, other in zip(gradients(captured, student, theirs), gradients(eager, student, ours), strict=True):
        torch.testing.assert_close(one, other)
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[key], tensor)


@every_method
def test_outputs_rounded_to_bf16_give_nearly_the_same_loss(name):
    method, heads, student, teacher, batch = parts_of(name)
    heads.eval()
    exact = value(method, heads, student, teacher, batch)
    # as the distiller does it: networks in bf16, heads and losses in float32
    student, teacher = ({role: x.bfloat16().float() for role, x in o.items()} for o in (student, teacher))
    rounded = value(method, heads, student, teacher, batch)
    assert rounded.item() == pytest.approx(exact.item(), rel=0.03)


@every_method
def test_value_and_gradient_stay_finite_for_outputs_hundreds_apart(name):
    method, heads, student, teacher, batch = parts_of(name)
    student, teacher = ({role: 500 * x for role, x in o.items()} for o in (student, teacher))
    student["logits"] = 500.0 * torch.eye(CLASSES)[:BATCH]
    teacher["logits"] = 500.0 * torch.eye(CLASSES).flip(0)[:BATCH]
    student = learning(student)
    loss = value(method, heads, student, teacher, batch)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients(loss, student, heads))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.permutes])
def test_the_order_of_the_batch_is_irrelevant(name):
    method, heads, student, teacher, batch = parts_of(name)
    heads.eval()  # dropout knows places
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(2))
    loss = value(method, heads, student, teacher, batch)
    student, teacher = ({role: x[order] for role, x in o.items()} for o in (student, teacher))
    moved = Batch(batch.images[order], batch.target[order], batch.index[order])
    torch.testing.assert_close(value(method, heads, student, teacher, moved), loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sees_teacher])
def test_what_the_teacher_shows_matters(name):
    method, heads, student, teacher, batch = parts_of(name)
    heads.eval()
    loss = value(method, heads, student, teacher, batch)
    shuffled = {role: x.roll(1, dims=0) for role, x in teacher.items()}
    change = value(method, heads, student, shuffled, batch) - loss
    assert change.abs().item() > 1e-6 * loss.abs().item()


@every_method
def test_it_deploys_a_plain_network_that_answers_as_the_distiller_does(name):
    distiller = distiller_of(name)
    step(distiller)
    images = images_of()[0]
    net = distiller.deployable().eval()
    hooks = [h for m in net.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    # a model that answers with the teacher's classifier takes its last map by one hook of its own
    assert len(hooks) == METHODS[name].replaces_classifier
    assert torch.equal(net(images), distiller.eval().predict(images))
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(images), net(images))


@every_method
def test_a_saved_state_goes_on_exactly(name):
    """The term's own state too: memories, variances, margins, snapshots."""
    distiller = distiller_of(name)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.01)
    step(distiller)
    optimizer.step()
    optimizer.zero_grad()
    resumed = distiller_of(name, seed=1)
    resumed.load_state_dict(pickle.loads(pickle.dumps(distiller.state_dict())))
    # the teacher is no part of the state: the same files give the same teacher again
    resumed.setup.teacher.module.load_state_dict(distiller.setup.teacher.module.state_dict())
    ours, theirs = step(distiller), step(resumed)
    assert torch.equal(ours.terms[name], theirs.terms[name])
    for one, other in zip(distiller.trainable_parameters(), resumed.trainable_parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    for key, tensor in distiller.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


@every_method
def test_it_is_a_value_that_pickles_and_prints_the_call_that_rebuilds_it(name):
    term = distiller_of(name).terms[-1]
    method = term.method
    assert pickle.loads(pickle.dumps(method)) == method
    assert eval(repr(method), {type(method).__name__: type(method)}) == method
    assert us.methods.term.build_term(term.spec()) == term
    assert hash(method) == hash(copy.deepcopy(method))


@every_method
def test_of_mixed_images_the_loss_is_the_mixture_of_both_labels_or_refused(name):
    method, heads, student, teacher, batch = parts_of(name)
    mixed = Batch(batch.images, batch.target, batch.index, None, batch.target.roll(1), 0.7)
    if method.uses_labels and not method.mixes_labels:
        assert name == "crd"
        with pytest.raises(ValueError, match=f"term '{name}' must see one label an image"):
            distiller_of(name)(batch.images, batch.target, index=batch.index, partner=mixed.partner, kept=0.7)
        return
    swapped = Batch(batch.images, mixed.partner, batch.index)
    own, other, both = (value(method, heads, student, teacher, b) for b in (batch, swapped, mixed))
    torch.testing.assert_close(both, 0.7 * own + 0.3 * other)
    assert method.uses_labels or torch.equal(own, both)


@every_method
def test_nothing_is_read_on_the_host_during_a_step(name):
    """On a GPU each of these would wait for the device; the labels were checked when they were read."""

    class Reads(TorchDispatchMode):
        seen = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            aten = torch.ops.aten
            waits = (
                aten._local_scalar_dense.default,
                aten.nonzero.default,
                aten.masked_select.default,
                aten.equal.default,
            )
            self.seen += (function,) if function in waits else ()
            return function(*args, **(kwargs or {}))

    distiller = distiller_of(name)
    step(distiller)  # the first question folds the teacher
    with Reads() as reads:
        step(distiller)
    assert reads.seen == ()


@every_method
@pytest.mark.parametrize("pair", PAIRS)
def test_it_works_on_networks_of_different_families(name, pair):
    student, teacher, size = PAIRS[pair]
    if (message := CASES[name].refuses.get(pair)) is not None:
        with pytest.raises(ValueError, match=message) as error:
            distiller_of(name, student=student, teacher=teacher, size=size)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        return
    distiller = distiller_of(name, student=student, teacher=teacher, size=size)
    out = step(distiller, size=size)
    assert out.terms[name].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.trainable_parameters())


@every_method
def test_a_student_of_one_logit_is_refused_by_what_tells_classes_apart(name):
    """A softmax over one class is 1 whatever the network says: the loss would be 0, or NaN among no other classes."""
    case = CASES[name]
    student, teacher = (us.create_model(model, num_classes=1) for model in (case.student, case.teacher))
    build = partial(
        Distiller,
        student,
        teacher,
        [{"name": name, **case.settings}],
        train_targets=torch.zeros(IMAGES).long(),
    )
    if METHODS[name](**case.settings).one_class:
        with pytest.raises(ValueError, match=f"term '{name}' tells classes apart, .* two or more, got 1"):
            build()
    else:
        assert build().setup.num_classes == 1
