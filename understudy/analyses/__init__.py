"""The papers' analyses on trained runs: one file each; the mathematics is in :mod:`understudy.analysis`."""

from understudy.analyses.bound import bound
from understudy.analyses.collapse import collapse
from understudy.analyses.confidence import confidence
from understudy.analyses.conflict import conflict
from understudy.analyses.contract import Analysis as Analysis
from understudy.analyses.contract import Finding as Finding
from understudy.analyses.contract import NotApplicableError as NotApplicableError
from understudy.analyses.contract import Sheet as Sheet
from understudy.analyses.correlation import correlation
from understudy.analyses.corruptions import corruptions
from understudy.analyses.costs import costs
from understudy.analyses.difficulty import difficulty, difficulty_training
from understudy.analyses.embedding import embedding
from understudy.analyses.features import features
from understudy.analyses.fidelity import fidelity
from understudy.analyses.gradients import gradients
from understudy.analyses.sensitivity import sensitivity
from understudy.analyses.transfer import transfer
from understudy.analyses.tsne import tsne

ANALYSES: dict[str, Analysis] = {
    "fidelity": Analysis(
        fidelity,
        "Does the student answer like its teacher, can its confidence be trusted, and what does it cost?",
        "Stanton et al., NeurIPS 2021; Guo et al., ICML 2017",
        "a pass over the test images and 66 timed forward passes a network",
        ("test images",),
    ),
    "corruptions": Analysis(
        corruptions,
        "Accuracy under noise, blur, low contrast and JPEG: does the student lose more than its teacher?",
        "kinds of Hendrycks and Dietterich, ICLR 2019",
        "21 passes over at most 2,000 test images",
        ("test images",),
    ),
    "collapse": Analysis(
        collapse,
        "Neural collapse (NC1 to NC4) of the student's head, the auxiliary head and the teacher's, over training.",
        "Papyan et al., PNAS 2020; DHKD, section 3",
        "a pass over the training images for every kept checkpoint",
        ("linear head",),
    ),
    "gradients": Analysis(
        gradients,
        "What pulls, pushes and obstructs the classifier and the features: norms, signs, sums against autograd.",
        "DHKD, Propositions 1 to 4",
        "a pass over the training images for every kept checkpoint",
        ("teacher", "linear head"),
    ),
    "conflict": Analysis(
        conflict,
        "How often the gradients of labels and teacher point apart, by layer, head against backbone, over training.",
        "DHKD, Eq. 6 and Fig. 4",
        "two backward passes on 20 batches for every kept checkpoint",
        ("labels and teacher",),
    ),
    "confidence": Analysis(
        confidence,
        "How sure the teacher is of the true class, and the β of DKD that goes with it.",
        "DKD, guidance for tuning β",
        "a pass over the training images",
        ("teacher",),
    ),
    "difficulty": Analysis(
        difficulty,
        "TCKD and NCKD of the trained pair under wrong labels and strong augmentation.",
        "DKD, section 3.2",
        "5 passes over at most 2,000 images",
        ("teacher",),
    ),
    "features": Analysis(
        features,
        "Norm and direction of the student's features against the teacher's class means, over training.",
        "KD++, Figs. 2 and 4",
        "a pass over all images for every kept checkpoint",
        ("linear head", "teacher's linear head", "test images"),
    ),
    "embedding": Analysis(
        embedding,
        "Both networks' features in the plane, through a learned bottleneck of two units.",
        "KD++, Figs. 2, 4 and A3",
        "a pass over all images; 600 small steps a network",
        ("linear head", "test images"),
    ),
    "tsne": Analysis(
        tsne,
        "t-SNE of both networks' features.",
        "DKD, Fig. 3; DHKD, Fig. 5",
        "t-SNE of at most 2,000 images a network, up to a minute each",
        ("linear head", "test images"),
    ),
    "correlation": Analysis(
        correlation,
        "How the student's logits relate class against class, beside the teacher's; the auxiliary head too.",
        "DKD, Fig. 4; DHKD, Fig. 6",
        "a pass over the test images",
        ("teacher", "test images"),
    ),
    "bound": Analysis(
        bound,
        "Is the student held back by its classifier (Δ1) or by its features (Δ2)?",
        "IJCKD, Theorem 1, Eq. 3 and Table 5",
        "a pass over the test images",
        ("teacher's classifier on the student's feature", "test images"),
    ),
    "transfer": Analysis(
        transfer,
        "What the frozen features are worth on other images: a linear probe.",
        "DKD, Table 13",
        "a pass over the other images and 40 epochs of a linear layer, a network",
        ("other images", "linear head"),
        asked_only=True,
    ),
    "difficulty_training": Analysis(
        difficulty_training,
        "Students trained with and without TCKD under wrong labels and strong augmentation.",
        "DKD, Tables 2 and 3",
        "trains 10 students, epochs=5 each",
        ("one teacher", "test images"),
        asked_only=True,
    ),
    "sensitivity": Analysis(
        sensitivity,
        "Accuracy over the values of a setting: α, β, τ, a weight, the alignment.",
        "KD++, Fig. A1; DHKD, Table 11; IJCKD, Fig. 2",
        "trains a student a value and seed, and one alone a seed",
        ("one teacher", "a setting to sweep", "test images"),
        asked_only=True,
    ),
    "costs": Analysis(
        costs,
        "Time and extra parameters against accuracy, over the arms of a study.",
        "DKD, Fig. 2; KD++, Fig. A2; DHKD, Table 10",
        "builds every arm once",
        of="study",
    ),
}
"""Name -> analysis, in the order in which they are run and shown."""
