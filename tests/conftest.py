"""One torch thread per test process: the tests run side by side."""

import torch

torch.set_num_threads(1)
