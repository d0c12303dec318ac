"""Imported first in a server that processes are forked from: until `frozen`, nothing is worth a collection, and what is
imported warns nobody: the server may be started by a test that looks at what is printed."""

import gc
import io
import sys

gc.disable()
sys.stderr = io.StringIO()
