"""Methods: which parameters are trained. One paper, one file."""
