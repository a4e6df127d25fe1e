"""Methods: one frozen dataclass of hyper-parameters each. `METHODS` is the only list of them."""

from understudy.methods.ab import AB
from understudy.methods.at import AT
from understudy.methods.bce import BinaryCrossEntropy
from understudy.methods.binary_kl import BinaryKL, BinaryKLNorm
from understudy.methods.cc import CC
from understudy.methods.ce import CrossEntropy
from understudy.methods.cosine import CosineDirection
from understudy.methods.crd import CRD
from understudy.methods.cwd import CWD
from understudy.methods.dhkd import DHKD, DualHeadKD
from understudy.methods.dino import Dino
from understudy.methods.dist import DIST
from understudy.methods.dkd import DKD, NCKD, TCKD
from understudy.methods.dml import DML
from understudy.methods.feature_l2 import FeatureL2
from understudy.methods.fgfi import FGFI
from understudy.methods.fitnet import FitNet
from understudy.methods.fsp import FSP
from understudy.methods.ft import FT
from understudy.methods.ijckd import IJCKD
from understudy.methods.infonce import InfoNCEDirection
from understudy.methods.kd import KD
from understudy.methods.kdsvd import KDSVD
from understudy.methods.logit_mse import LogitMSE
from understudy.methods.method import Method as Method
from understudy.methods.nst import NST
from understudy.methods.ofd import OFD
from understudy.methods.pkt import PKT
from understudy.methods.reviewkd import ReviewKD
from understudy.methods.rkd import RKD
from understudy.methods.sifn import SIFN
from understudy.methods.simkd import SimKD
from understudy.methods.sp import SP
from understudy.methods.srrl import SRRL
from understudy.methods.ttm import TTM, WTTM
from understudy.methods.vid import VID
from understudy.methods.wsld import WSLD

METHODS: dict[str, type[Method]] = {
    "ab": AB,
    "at": AT,
    "bce": BinaryCrossEntropy,
    "binary_kl": BinaryKL,
    "binary_kl_norm": BinaryKLNorm,
    "cc": CC,
    "ce": CrossEntropy,
    "cosine": CosineDirection,
    "crd": CRD,
    "cwd": CWD,
    "dhkd": DHKD,
    "dino": Dino,
    "dist": DIST,
    "dkd": DKD,
    "dml": DML,
    "dual_head_kd": DualHeadKD,
    "feature_l2": FeatureL2,
    "fgfi": FGFI,
    "fitnet": FitNet,
    "fsp": FSP,
    "ft": FT,
    "ijckd": IJCKD,
    "infonce": InfoNCEDirection,
    "kd": KD,
    "kdsvd": KDSVD,
    "logit_mse": LogitMSE,
    "nckd": NCKD,
    "nst": NST,
    "ofd": OFD,
    "pkt": PKT,
    "reviewkd": ReviewKD,
    "rkd": RKD,
    "sifn": SIFN,
    "simkd": SimKD,
    "sp": SP,
    "srrl": SRRL,
    "tckd": TCKD,
    "ttm": TTM,
    "vid": VID,
    "wsld": WSLD,
    "wttm": WTTM,
}
