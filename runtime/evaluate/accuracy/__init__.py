"""What a classifier still sees in cut streams; `command` is the command line, `overview` what a run comes to."""
