"""What all tests share."""

import os

# set before PyTorch is imported, for subprocesses too: threads that wait for each other on a busy machine make small
# networks many times slower than one thread is
os.environ["OMP_NUM_THREADS"] = "1"
