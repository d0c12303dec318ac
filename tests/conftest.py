"""What all tests share."""

import os
import tempfile

# set before PyTorch is imported, for subprocesses too: threads that wait for each other on a busy machine make small
# networks many times slower than one thread is
os.environ["OMP_NUM_THREADS"] = "1"

# the pixels of pictures that tests make up are no use to anybody later
_cache = tempfile.TemporaryDirectory(prefix="onnxprune-tests-")
os.environ["ONNXPRUNE_CACHE"] = _cache.name
