"""Many runs from one file: what is planned, what is stored, the processes that run the rest."""
