from itertools import product

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

from common.claims import Check, Claims
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SKY,
    Figures,
    band,
    by_step_size,
    look,
    panels,
    threshold,
)
from common.objective import Problem
from common.observables import crossing, hover, late, measured
from common.optimizers import GradientDescent
from common.stochastic import MiniBatch
from common.sweeps import sweep
from common.training import run
