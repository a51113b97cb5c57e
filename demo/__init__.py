"""The first command of the README: real photographs and text through the whole pipeline, shown on one page."""
