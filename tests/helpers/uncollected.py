"""Imported first in a server that processes are forked from: until `frozen`, nothing is worth a collection."""

import gc

gc.disable()
