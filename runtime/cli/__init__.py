"""The command line `cutoff`: a thin shell over the public functions, one file per verb."""
