"""The command line, installed as `vizkit.cli`. Nothing here imports torch before there is work to do."""
