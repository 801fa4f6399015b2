import numpy as np
import pandas as pd

from common.claims import Check, Claims
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    PINK,
    RED,
    Figures,
    by_step_size,
    look,
    panels,
    threshold,
)
from common.normalized import (
    Bowl,
    Ravine,
    descend,
    first_rise,
    on_ravine,
    order,
    pair_sums,
    run_along_gamma,
    spread,
)
from common.objective import Problem
from common.optimizers import GradientDescent, NormalizedGradientDescent
from common.sweeps import sweep
