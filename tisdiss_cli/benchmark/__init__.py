"""What every repetition setting costs."""

import logging

# torch.utils.benchmark imports it, and it warns of a CUDA toolkit on a machine without a card.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
