# %%
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from common.claims import Check, Claims
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Figures,
    by_step_size,
    look,
    panels,
)
from common.objective import Problem
from common.scaling import (
    Power,
    argmin_exponent,
    collapse_exponent,
    crossover_exponent,
)
from common.scaling_runs import (
    drift_times,
    equal_convergence,
    network_times,
    run_drift,
    run_network,
    run_relaxation,
    run_traces,
    times,
)
from common.sweeps import sweep
