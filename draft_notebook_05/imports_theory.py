import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.claims import Check, Claims
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    Figures,
    by_step_size,
    look,
    panels,
    threshold,
)
from common.noisy_valley import (
    NoisyValley,
    alpha,
    relaxation,
    run_transverse,
    run_valley,
    transverse_variance,
)
from common.scaling import argmin_exponent, collapse_exponent, crossover_exponent
from common.sweeps import sweep
from common.uv import run_uv, run_uv_paths, speed
