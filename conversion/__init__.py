"""Turns the files of the original GILL and FROMAGe releases into a Hub repository."""
