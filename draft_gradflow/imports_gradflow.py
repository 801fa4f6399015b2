from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from common.claims import Check
from common.figures import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, panels
from common.flow_runs import at_loss, rise_of_means, run_flow, with_permuted_labels
from common.objective import Problem
from common.sweeps import sweep
