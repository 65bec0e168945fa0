"""What every test in this folder needs: the device, and the reason where there is none."""

import pytest
import torch

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
