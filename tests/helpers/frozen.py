"""Imported last in a server that processes are forked from: none of them need walk through what is there by then."""

import gc

gc.freeze()
