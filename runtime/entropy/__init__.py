"""The integer core: tables, plan and coder; knows numpy and the coder only."""
