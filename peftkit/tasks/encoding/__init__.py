"""What a task learns as token ids, and which of them are read."""
