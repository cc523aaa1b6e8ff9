"""Many runs: plans of tasks, workers here or on a Ray cluster, and archives of concepts."""
