"""What is done with a finished adapter: answering, merging, exporting, rewinding."""
