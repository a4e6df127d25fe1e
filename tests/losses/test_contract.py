"""What every public loss keeps to, whatever it computes (METHODS.md sections 1 and 14)."""

import inspect
from dataclasses import dataclass, field
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from understudy import losses
from understudy.losses.contract import full_precision, reduce

B, C, D = 5, 4, 6
LABELS = torch.tensor([0, 2, 1, 2, 3])


@dataclass(frozen=True)
class Case:
    """Example inputs of one loss: shapes of floating tensors (a list of them for lists), or the tensor itself."""

    inputs: dict
    params: dict = field(default_factory=dict)
    learns: tuple[str, ...] = ()
    """Arguments with a gradient; by default those that begin with ``student_``."""
    whole: tuple[str, ...] = ()
    """Arguments whose first dimension is not the batch."""
    identity: float | None = 0.0
    """Largest value and gradient where the student equals the teacher; ``None``: it is not zero there."""
    gradcheck: bool = True
    """Whether nothing that the student determines is detached."""
    empty: bool = True
    """Whether an empty batch is a zero (else it is an error)."""
    permutes: bool = True
    """Whether the order of the batch is irrelevant."""
    nan: bool = True
    """Whether a NaN of the student reaches the value."""


def logits(*, target=False, **options):
    inputs = {"student_logits": (B, C), "teacher_logits": (B, C)}
    return Case(inputs | ({"target": LABELS} if target else {}), **options)


def features(student=(B, D), teacher=(B, D), **options):
    return Case({"student_feature": student, "teacher_feature": teacher}, **options)


def stages(student, teacher, **options):
    return Case({"student_features": student, "teacher_features": teacher}, **options)


MAP, SMALL = (B, 3, 4, 4), (B, 4, 2, 2)

CASES = {
    "ab_loss": stages([MAP, SMALL], [MAP, SMALL], identity=None),
    "at_loss": stages([MAP, SMALL], [(B, 5, 4, 4), (B, 4, 3, 3)]),
    "binary_kl_loss": logits(),
    "binary_kl_norm_loss": logits(),
    "cc_loss": Case(
        {"student_embedding": (B, D), "teacher_embedding": (B, D)},
        learns=("student_embedding", "teacher_embedding"),
        empty=False,
        permutes=False,
    ),
    "cosine_direction_loss": Case(
        {"student_feature": (B, D), "class_means": (C, D), "target": LABELS},
        whole=("class_means",),
        identity=None,
    ),
    "crd_loss": Case(
        {
            "student_embedding": (B, D),
            "teacher_embedding": (B, D),
            "student_memory": (9, D),
            "teacher_memory": (9, D),
            "index": torch.tensor([0, 3, 4, 7, 8]),
            "negative_index": torch.arange(15).reshape(B, 3) % 9,
        },
        params={"student_normalizer": 9.0, "teacher_normalizer": 7.0, "temperature": 0.5},
        learns=("student_embedding", "teacher_embedding"),
        whole=("student_memory", "teacher_memory"),
        identity=None,
    ),
    "cwd_loss": features(MAP, MAP),
    "dino_loss": Case(
        {"student_feature": (B, D), "teacher_feature": (B, D), "class_means": (C, D), "target": LABELS},
        whole=("class_means",),
        identity=None,
    ),
    "dist_loss": logits(identity=1e-4),  # T²·1e-8/n, n the squared length of a centred column
    "dkd_loss": logits(target=True),
    "dml_loss": Case({"student_logits": (B, C), "peer_logits": [(B, C), (B, C)]}, identity=None),
    "feature_l2_loss": features(),
    "fgfi_loss": Case(
        {
            "student_feature": MAP,
            "teacher_feature": MAP,
            "mask": torch.arange(B * 16).reshape(B, 1, 4, 4) % 3 == 0,
        }
    ),
    "fsp_loss": stages([MAP, SMALL], [MAP, SMALL]),
    "ft_loss": Case({"student_factor": MAP, "teacher_factor": MAP}, learns=("student_factor",)),
    "hcl_loss": stages([MAP, (B, 6, 1, 1)], [MAP, (B, 6, 1, 1)]),
    "hint_loss": features(MAP, MAP),
    "infonce_direction_loss": Case(
        {"student_feature": (B, D), "class_means": (C, D), "target": LABELS},
        whole=("class_means",),
        identity=None,
    ),
    "kd_loss": logits(),
    "kdsvd_loss": stages([MAP, (B, 4, 4, 4)], [MAP, (B, 4, 4, 4)], identity=1e-8, nan=False),
    "logit_mse_loss": logits(),
    "nckd_loss": logits(target=True),
    "nst_loss": stages([MAP], [(B, 5, 4, 4)]),
    "ofd_loss": Case(
        {"student_feature": MAP, "teacher_feature": MAP, "margin": torch.tensor([-0.25, -0.5, -1.0])},
        whole=("margin",),
    ),
    "pixel_loss": Case(
        {
            "student_logits": (B, C, 2, 3),
            "teacher_logits": (B, C, 2, 3),
            "target": torch.arange(B * 6).reshape(B, 2, 3) % C,
        },
        params={"loss": "kd_loss", "temperature": 2.0},  # dkd_loss checks the range of its target on the host
    ),
    "pkt_loss": features(identity=1e-5),
    "rkd_loss": features((B, D), (B, 3), empty=False),
    "sifn_loss": Case({"student_feature": (B, D), "previous_feature": (B, D)}, identity=None),
    "sp_loss": features(MAP, SMALL),
    "srrl_loss": Case(
        {
            "student_feature": MAP,
            "teacher_feature": MAP,
            "student_logits": (B, C),
            "teacher_logits": (B, C),
        }
    ),
    "tckd_loss": logits(target=True),
    "ttm_loss": logits(identity=None),
    "vid_loss": Case(
        {"predicted_mean": MAP, "log_scale": (3,), "teacher_feature": MAP},
        learns=("predicted_mean", "log_scale"),
        whole=("log_scale",),
        identity=None,
    ),
    "wsld_loss": logits(
        target=True, identity=None, gradcheck=False
    ),  # its weight is a detached function of both
    "wttm_loss": logits(identity=None),
}

RELATIONS = ("cc_loss", "dist_loss", "pkt_loss", "rkd_loss", "sp_loss")
SHIFT_INVARIANT = ("kd", "dkd", "tckd", "nckd", "dist", "ttm", "wttm", "wsld", "dml")
SHIFT_SENSITIVE = ("binary_kl", "binary_kl_norm", "logit_mse")
LOGIT_LOSSES = [f"{name}_loss" for name in (*SHIFT_INVARIANT, *SHIFT_SENSITIVE)]
TWO_LOGITS = [name for name in LOGIT_LOSSES if "teacher_logits" in CASES[name].inputs]
REDUCES = [n for n in CASES if "reduction" in inspect.signature(getattr(losses, n)).parameters]
WITH_TARGET = [n for n in CASES if CASES[n].inputs.get("target") is LABELS]
every_loss = pytest.mark.parametrize("name", CASES)


def build(name, dtype=torch.float64, batch=B):
    """Returns the example inputs: the first ``batch`` samples, always of the same numbers."""
    case, generator = CASES[name], torch.Generator().manual_seed(0)

    def one(key, given):
        if not isinstance(given, torch.Tensor):
            given = torch.randn(given, generator=generator, dtype=torch.float64)
        given = given.to(dtype) if given.is_floating_point() else given
        return given if key in case.whole else given[:batch]

    return {
        key: [one(key, shape) for shape in given] if isinstance(given, list) else one(key, given)
        for key, given in case.inputs.items()
    }


def learned(name):
    case = CASES[name]
    return case.learns or tuple(k for k in case.inputs if k.startswith("student_"))


def leaves(name, inputs):
    """Returns the tensors that learn, which from now on ask for a gradient."""
    found = []
    for key in learned(name):
        found += inputs[key] if isinstance(inputs[key], list) else [inputs[key]]
    return [tensor.requires_grad_() for tensor in found]


def call(name, inputs, **params):
    return getattr(losses, name)(**inputs, **CASES[name].params | params)


def mapped(function, inputs):
    return {
        k: [function(k, t) for t in v] if isinstance(v, list) else function(k, v) for k, v in inputs.items()
    }


def test_no_public_loss_is_missing_from_the_table():
    assert {name for name in dir(losses) if name.endswith("_loss")} == set(CASES)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_result_is_a_finite_scalar_of_the_working_precision(name, dtype):
    inputs = build(name, dtype)
    tensors = leaves(name, inputs)
    value = call(name, inputs)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, tensors))


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    half = build(name, dtype)
    single = mapped(lambda _, t: t.float() if t.is_floating_point() else t, half)
    tensors = leaves(name, half)
    value = call(name, half)
    assert value.dtype == torch.float32
    assert torch.equal(value.detach(), call(name, single))
    assert all(g.dtype == dtype for g in torch.autograd.grad(value, tensors))


@every_loss
def test_autocast_changes_no_bit(name):
    inputs = build(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = call(name, inputs)
    assert torch.equal(inside, call(name, inputs))


@every_loss
def test_mixed_inputs_are_computed_in_the_wider_precision(name):
    inputs = build(name, torch.float32)
    key = learned(name)[0]
    wider = [t.double() for t in inputs[key]] if isinstance(inputs[key], list) else inputs[key].double()
    assert call(name, inputs | {key: wider}).dtype == torch.float64


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.gradcheck])
def test_gradient_equals_finite_differences(name):
    inputs = build(name)
    tensors = leaves(name, inputs)
    assert torch.autograd.gradcheck(lambda *_: call(name, inputs), tensors, atol=1e-6, rtol=1e-4)


@every_loss
def test_only_the_learning_side_gets_a_gradient(name):
    inputs = build(name)
    found = {}

    def ask(key, tensor):
        if tensor.is_floating_point():
            found.setdefault(key, []).append(tensor.requires_grad_())
        return tensor

    mapped(ask, inputs)
    value = call(name, inputs)
    for key, tensors in found.items():
        for gradient in torch.autograd.grad(value, tensors, allow_unused=True, retain_graph=True):
            assert (gradient is not None) == (key in learned(name)), key


@every_loss
def test_arguments_are_left_as_they_were(name):
    inputs = build(name)
    before = mapped(lambda _, t: t.clone(), inputs)
    call(name, inputs)
    for key, value in inputs.items():
        pairs = zip(value, before[key], strict=True) if isinstance(value, list) else [(value, before[key])]
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.permutes])
def test_order_of_the_batch_is_irrelevant(name):
    inputs, order = build(name), torch.tensor([3, 0, 4, 2, 1])
    other = mapped(lambda key, t: t if key in CASES[name].whole else t[order], inputs)
    torch.testing.assert_close(call(name, other), call(name, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in CASES if n not in RELATIONS])
def test_a_batch_of_one_sample_is_worth_as_much_as_one_of_it_twice(name):
    alone = build(name, batch=1)
    twice = mapped(lambda key, t: t if key in CASES[name].whole else torch.cat([t, t]), alone)
    torch.testing.assert_close(call(name, alone), call(name, twice), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.identity is not None])
def test_loss_and_gradient_vanish_where_student_equals_teacher(name):
    inputs = build(name)
    inputs |= {
        key: [t.clone() for t in value] if isinstance(value, list) else value.clone()
        for key, value in ((k.replace("teacher", "student"), v) for k, v in inputs.items() if "teacher" in k)
    }
    tensors = leaves(name, inputs)
    value = call(name, inputs)
    bound = max(CASES[name].identity, 1e-12)
    assert abs(value.item()) <= bound
    assert all(g.abs().max() <= bound for g in torch.autograd.grad(value, tensors))


@every_loss
def test_empty_batch_is_a_connected_zero_or_an_error(name):
    inputs = build(name, torch.float32, batch=0)
    tensors = leaves(name, inputs)
    if not CASES[name].empty:
        with pytest.raises(ValueError, match="got"):
            call(name, inputs)
        return
    value = call(name, inputs)
    assert value.item() == 0.0
    assert all((g == 0).all() for g in torch.autograd.grad(value, tensors))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.nan])
def test_one_nan_in_the_student_reaches_the_value(name):
    inputs = build(name)
    key = learned(name)[0]
    first = inputs[key][0] if isinstance(inputs[key], list) else inputs[key]
    first[0] = torch.nan
    assert call(name, inputs).isnan()


@every_loss
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_compiles_as_one_graph(name):
    inputs = build(name, torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda given: call(name, given), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(inputs), call(name, inputs), rtol=1e-6, atol=1e-6)


class HostReads(TorchDispatchMode):
    """Counts operations that need a tensor's value on the host."""

    READS = frozenset(
        {"_local_scalar_dense", "equal", "item", "masked_select", "nonzero", "_unique2", "is_nonzero"}
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for arg in args[1:2]
            for i in (arg if isinstance(arg, (list, tuple)) else [arg])
        )
        if name in self.READS or by_mask:
            self.found.append(name)
        return func(*args, **kwargs or {})


@every_loss
def test_nothing_is_read_on_the_host_where_labels_are_not_checked(name, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on CUDA: no look at the target
    inputs = build(name)
    tensors = leaves(name, inputs)
    with HostReads() as mode:
        torch.autograd.grad(call(name, inputs), tensors)
    assert mode.found == []


@pytest.mark.parametrize("name", WITH_TARGET)
def test_the_unchecked_function_is_the_same_and_reads_nothing_on_the_host(name):
    unchecked = getattr(import_module(getattr(losses, name).__module__), name.removesuffix("_loss"))
    inputs = build(name)
    with HostReads() as mode:
        value = unchecked(**inputs)
    assert mode.found == []
    assert torch.equal(value, call(name, inputs))


def test_a_read_on_the_host_would_be_found():
    x = torch.arange(3.0)
    with HostReads() as mode:
        x.max().item()
        x[x > 1]
    assert len(mode.found) >= 2


# Logits


@pytest.mark.parametrize("name", [f"{n}_loss" for n in SHIFT_INVARIANT])
def test_a_constant_added_to_a_row_changes_nothing(name):
    inputs = build(name)
    offset = torch.linspace(-7, 9, B, dtype=torch.float64)[:, None]
    moved = mapped(lambda k, t: t + offset if t.is_floating_point() else t, inputs)
    torch.testing.assert_close(call(name, moved), call(name, inputs), rtol=1e-10, atol=1e-12)
    tensors = leaves(name, inputs)
    (gradient,) = torch.autograd.grad(call(name, inputs), tensors)
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(B).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [f"{n}_loss" for n in SHIFT_SENSITIVE])
def test_a_constant_added_to_the_student_is_felt_where_logits_are_matched(name):
    inputs = build(name)
    moved = inputs | {"student_logits": inputs["student_logits"] + 3}
    assert abs(call(name, moved) - call(name, inputs)) > 0.1


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_order_of_the_classes_is_irrelevant(name):
    inputs, order = build(name), torch.tensor([2, 0, 3, 1])
    other = mapped(lambda _, t: t[:, order] if t.is_floating_point() else order.argsort()[t], inputs)
    torch.testing.assert_close(call(name, other), call(name, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 32.0, 100.0])
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_gaps_of_500_stay_finite_at_every_temperature(name, temperature, dtype):
    parameters = inspect.signature(getattr(losses, name)).parameters
    params = {"temperature": temperature} if "temperature" in parameters else {}
    params |= {"gamma": 1 / temperature} if name in ("ttm_loss", "wttm_loss") else {}
    for num_classes in (2, 5):
        gap = torch.full((4, num_classes), -250.0)
        student, teacher = gap.clone(), gap.clone()
        student[:, 0], teacher[:2, 1] = 250.0, 250.0  # against the teacher; beside a flat one
        teacher[3, 0] = 250.0  # with the teacher
        inputs = {"student_logits": student.to(dtype).requires_grad_()}
        key = "peer_logits" if name == "dml_loss" else "teacher_logits"
        inputs[key] = teacher.to(dtype)
        if "target" in parameters:
            inputs["target"] = torch.tensor([0, 1, 1, 0])
        value = getattr(losses, name)(**inputs, **params)
        (gradient,) = torch.autograd.grad(value, inputs["student_logits"])
        assert value.isfinite(), num_classes
        assert gradient.isfinite().all(), num_classes


@pytest.mark.parametrize("name", REDUCES)
def test_one_value_a_sample_averages_to_the_scalar(name):
    inputs = build(name)
    each = call(name, inputs, reduction="none")
    assert each.shape == (B,)
    torch.testing.assert_close(each.mean(), call(name, inputs), rtol=1e-12, atol=1e-12)
    alone = call(name, mapped(lambda _, t: t[2:3], inputs))
    torch.testing.assert_close(each[2], alone, rtol=1e-12, atol=1e-12)


def test_the_ten_losses_with_a_reduction_are_the_specified_ones():
    names = ["kd", "logit_mse", "dkd", "tckd", "nckd", "binary_kl", "binary_kl_norm", "ttm", "wttm", "wsld"]
    assert sorted(REDUCES) == sorted(f"{name}_loss" for name in names)


# Errors


@pytest.mark.parametrize("name", TWO_LOGITS)
def test_error_shows_both_shapes_of_unequal_logits(name):
    inputs = build(name) | {"teacher_logits": torch.zeros(B, 100)}
    with pytest.raises(
        ValueError, match=r"got student \(5, 4\) and teacher \(5, 100\)\. If the class spaces"
    ):
        call(name, inputs)


@pytest.mark.parametrize("name", TWO_LOGITS)
def test_error_for_logits_of_the_wrong_rank(name):
    inputs = build(name) | {"student_logits": torch.zeros(B, C, 1), "teacher_logits": torch.zeros(B, C, 1)}
    with pytest.raises(ValueError, match=r"must both have shape \(B, C\), got student \(5, 4, 1\)"):
        call(name, inputs)


@every_loss
def test_error_for_inputs_that_are_not_floating(name):
    inputs = build(name)
    key = learned(name)[-1]
    whole = [t.long() for t in inputs[key]] if isinstance(inputs[key], list) else inputs[key].long()
    with pytest.raises(ValueError, match=r"must .*floating.*int64"):
        call(name, inputs | {key: whole})


@pytest.mark.parametrize("name", WITH_TARGET)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (LABELS.int(), r"target must be int64 of shape \(5,\), got torch.int32"),
        (LABELS[:3], r"target must be int64 of shape \(5,\), got torch.int64 of shape \(3,\)"),
        (LABELS[:, None], r"got torch.int64 of shape \(5, 1\)"),
        (LABELS.clone().fill_(C), rf"target must lie in \[0, {C}\), got {C} with C = {C}"),
        (LABELS - 1, rf"target must lie in \[0, {C}\), got -1 with C = {C}"),
    ],
    ids=["dtype", "length", "rank", "too large", "negative"],
)
def test_error_for_a_wrong_target(name, target, message):
    with pytest.raises(ValueError, match=message):
        call(name, build(name) | {"target": target})


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", [n for n in CASES if "temperature" in inspect.signature(getattr(losses, n)).parameters]
)
def test_error_for_a_temperature_that_is_not_positive(name, temperature):
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got"):
        call(name, build(name), temperature=temperature)


@pytest.mark.parametrize("name", REDUCES)
def test_error_for_an_unknown_reduction(name):
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got 'sum'"):
        call(name, build(name), reduction="sum")


# The decorator and the mean themselves


def test_decorator_detaches_by_name_unless_told_otherwise():
    @full_precision(learns=("teacher_kept",))
    def product(student, teacher_kept, teacher_lost, margin):
        return (student * teacher_kept * teacher_lost * margin).sum()

    tensors = [torch.full((2,), float(i), requires_grad=True) for i in range(1, 5)]
    gradients = torch.autograd.grad(product(*tensors), tensors, allow_unused=True)
    assert [g is not None for g in gradients] == [True, True, False, False]


def test_decorator_leaves_wrong_calls_to_python():
    with pytest.raises(TypeError, match="positional argument"):
        losses.kd_loss(torch.zeros(1, 2), torch.zeros(1, 2), 1.0, "mean", 5)
    with pytest.raises(TypeError, match="multiple values"):
        losses.kd_loss(torch.zeros(1, 2), torch.zeros(1, 2), student_logits=torch.zeros(1, 2))
    with pytest.raises(TypeError, match="teacher_logits"):
        losses.kd_loss(torch.zeros(1, 2))


def test_mean_of_nothing_is_zero_and_connected():
    empty = torch.zeros(0, requires_grad=True)
    assert reduce(empty, "mean").item() == 0
    assert torch.autograd.grad(reduce(empty, "mean"), empty)[0].shape == (0,)
