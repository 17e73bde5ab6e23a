"""Results on disk: the record of a run, the folder of runs, published scores."""
