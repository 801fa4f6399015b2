# %%
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator

from common.catapults import spikes
from common.claims import Check, Claims
from common.figures import BLACK, BLUE, ORANGE, RED, SKY, Figures, look, panels, threshold
from common.objective import Problem
from common.sgd_spikes import (
    kernel_changes,
    necessity,
    batch_rises,
    run_sgd,
    spike_table,
    supercritical,
)
from common.sweeps import sweep
from common.wide import (
    wide_convolutional,
    wide_fully_connected,
    wide_resnet,
    wide_transformer,
)
