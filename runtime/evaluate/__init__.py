"""Reports on bundles and peers over folders of pictures; `command` is their command line."""
