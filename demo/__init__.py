"""The first command of the README: the embedded checkpoint tells picture stories and answers, shown on one page."""
