# %%
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from common.agop import RANK_2, RANK_4, Polynomial
from common.features import (
    corner,
    ends,
    rank_correlations,
    rest_of_pair,
    run_catapults,
    run_rate,
    run_reference,
    run_to_target,
)
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    look,
    panels,
)
from common.claims import Check
from common.objective import Problem
from common.optimizers import GradientDescent
from common.sweeps import sweep
from common.tasks import rank_four, rank_two
from common.torch_rules import TorchRule
from common.wide import wide_fully_connected
