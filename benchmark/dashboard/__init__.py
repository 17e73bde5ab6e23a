"""``cmr-bench dashboard``: a static site of stored runs that opens from disk, without a server or a network."""
