from dataclasses import replace

import numpy as np
import pandas as pd

from common.claims import Check
from common.figures import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, look, panels, threshold
from common.kernels import tangent_kernel
from common.objective import Problem
from common.observables import measured
from common.optimizers import GradientDescent
from common.parabola import parabola, run_to_minimum
from common.stabilization import invariant, prediction_errors, run_stabilization
from common.sweeps import sweep
