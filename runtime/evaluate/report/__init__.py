"""One self-contained page of runs; `command` is its command line."""
