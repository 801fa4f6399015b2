# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.catapults import spikes
from common.claims import Check, Claims
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    WIDE,
    Figures,
    by_step_size,
    look,
    panels,
    threshold,
)
from common.kernel_runs import BACK, RISE, catapults, run_at, run_raised, summary
from common.objective import Problem
from common.sweeps import sweep
from common.wide import wide_convolutional, wide_fully_connected
