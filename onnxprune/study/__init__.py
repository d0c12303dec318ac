"""Studies: bases and points, in this process, in workers or on a cluster, and what is built of them."""
