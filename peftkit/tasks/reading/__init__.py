"""The rows of files as what a task learns: texts, labels, words, conversations."""
