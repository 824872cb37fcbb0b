"""Whether pictures are finished in time; `command` is the command line, `promptness` what a run comes to."""
