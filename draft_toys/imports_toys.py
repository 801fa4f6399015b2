from functools import partial
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from common.claims import Check, Claims
from common.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Figures,
    look,
    panels,
    surface,
    threshold,
)
from common.interactive import explore
from common.minimal import Picky, Product, run_picky, run_product
from common.objective import Objective
from common.optimizers import GradientDescent
from common.playground import heavy_ball_figure, heavy_ball_paths
from common.sweeps import sweep
from common.training import trajectory
