"""The picture book: a little drawn world, exactly known, to train and test GILL in from nothing."""
