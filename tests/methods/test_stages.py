import pytest
import torch
from torch import nn

import understudy as us
from understudy.interface import Network, Setup
from understudy.methods.stages import paired_maps, resolve_stages


def network(*numbers, stem=True, preact=()):
    roles = [f"stage_{k}" for k in (0,) * stem + numbers] + [f"preact_{k}" for k in preact]
    return Network(nn.Identity(), None, {}, dict.fromkeys(roles, (4, 8, 8)))


def setup(student=(1, 2, 3), teacher=(1, 2, 3, 4), pairs=((1, 2), (2, 3), (3, 4)), **options):
    return Setup(network(*student, **options), network(*teacher, **options), 10, pairs)


def test_the_automatic_pairing_is_the_default():
    assert resolve_stages(None, setup(), "nst") == ((1, 2), (2, 3), (3, 4))


def test_given_stages_are_kept_as_they_are():
    assert resolve_stages(((1, 1), (3, 2)), setup(), "nst") == ((1, 1), (3, 2))
    assert resolve_stages(((1, 1), (1, 2), (3, 2)), setup(), "nst") == ((1, 1), (1, 2), (3, 2))


def test_a_method_with_the_stem_begins_there():
    assert resolve_stages(None, setup(), "fsp", stem=True) == ((0, 0), (1, 2), (2, 3), (3, 4))
    with pytest.raises(ValueError, match="got student stage_0"):
        resolve_stages(((0, 0),), setup(), "nst")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (((4, 4),), {}, "nst.stages must be .*, got student stage_4. The student, Identity, has stage_1, stage_2, s"),
        (((1, 5),), {}, "got teacher stage_5. The teacher, Identity, has stage_1, stage_2, stage_3, stage_4"),
        (((1, -1),), {}, "got teacher stage_-1"),
        ((), {}, r"nst.stages must hold at least one pair \(student, teacher\), got none. Leave the setting out"),
        (((2, 2), (1, 1)), {}, r"nst.stages must go from shallow to deep .*, got \[\[2, 2\], \[1, 1\]\]. Sort them"),
        (((1, 2), (2, 1)), {}, "from shallow to deep in both networks"),
        (((1, 1), (1, 1)), {}, "every pair once"),
        (((2, 2),), {"preact": (1,)}, "got student preact_2. The student, Identity, has preact_1"),
        (None, {"preact": ()}, "got student preact_1. The student, Identity, has none"),
    ],
)  # fmt: skip
def test_a_stage_that_does_not_exist_is_one_clear_error(given, options, message):
    place = "preact" if options else "stage"
    with pytest.raises(ValueError, match=message) as error:
        resolve_stages(given, setup(**options), "nst", place=place)
    assert "\n" not in str(error.value)


def test_a_network_without_stages_is_refused():
    with pytest.raises(ValueError, match="nst must compare at least one pair of stages"):
        resolve_stages(None, setup(student=(), pairs=()), "nst")


def test_the_choice_is_made_when_the_distiller_is_built_and_stands_in_the_config():
    student, teacher = us.create_model("cnn_tiny", 10), us.create_model("vgg8", 10)
    distiller = us.Distiller(student, teacher, [{"name": "nst"}])
    assert distiller.terms[0].method.stages == distiller.setup.pairs == ((1, 1), (2, 2), (3, 4))
    again = us.Distiller(student, teacher, [distiller.terms[0].spec()])
    assert again.terms == distiller.terms


def test_unresolved_stages_are_refused_by_the_loss():
    with pytest.raises(ValueError, match=r"Use what method\.resolved"):
        paired_maps({}, {}, None)


def test_maps_come_in_pairs_with_tokens_laid_out():
    student = {"preact_1": torch.zeros(2, 3, 4, 4), "preact_2": torch.ones(2, 3, 2, 2)}
    teacher = {"preact_2": torch.zeros(2, 17, 6), "preact_3": torch.ones(2, 16, 6)}
    ours, theirs = paired_maps(student, teacher, ((1, 2), (2, 3)), "preact")
    assert [tuple(x.shape) for x in ours] == [(2, 3, 4, 4), (2, 3, 2, 2)]
    assert [tuple(x.shape) for x in theirs] == [(2, 6, 4, 4), (2, 6, 4, 4)]
    assert [float(x.mean()) for x in (*ours, *theirs)] == [0, 1, 0, 1]
