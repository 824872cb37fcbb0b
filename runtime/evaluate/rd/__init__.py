"""Rate and distortion; `command` is the command line, `overview` what a run comes to."""
